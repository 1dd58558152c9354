"""The Default Response, one rule for every cluster (ZCL 2.5.12).

Never to a broadcast and never to another Default Response. An error is told even to a peer that
disabled default responses; success only to one that did not (ZCL 2.4.1.1.4).
"""

from __future__ import annotations

from firmware_node.boundary import Frame, SendFrame
from firmware_node.errors import DecodeError
from firmware_node.wire import zcl


def default_response(frame: Frame, status: int) -> tuple[SendFrame, ...]:
    """The Default Response to ``frame``, or nothing."""
    if frame.broadcast:
        return ()
    try:
        header, _ = zcl.decode_header(frame.payload)
    except DecodeError:
        return ()  # there is no command to name
    if not header.cluster_specific and header.command == zcl.DEFAULT_RESPONSE:
        return ()
    if status == zcl.Status.SUCCESS and header.disable_default_response:
        return ()
    reply = zcl.ZclHeader(
        False,
        not header.to_client,
        True,
        header.manufacturer_code,
        header.sequence,
        zcl.DEFAULT_RESPONSE,
    )
    body = zcl.encode_default_response(header.command, status)
    return (SendFrame(frame._replace(payload=zcl.encode(reply, body))),)
