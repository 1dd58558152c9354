"""The search for whoever serves a cluster: one question to everybody, who answers is pinned.

Source: ZigBee specification 2.4.3.1.7 (Match_Desc_req); ZCL 11.8; gbcs.md 7.2.
"""

from __future__ import annotations

from firmware_node.boundary import Frame, SendFrame
from firmware_node.terms import BROADCAST_RX_ON
from firmware_node.wire import zcl, zdo


def search_for(cluster: int, sequence: int) -> SendFrame:
    """A broadcast for a Smart Energy server of ``cluster``; answers carry ``sequence``."""
    request = zdo.MatchRequest(sequence, BROADCAST_RX_ON, zcl.SMART_ENERGY_PROFILE, (cluster,), ())
    payload = zdo.encode_match_request(request)
    return SendFrame(Frame(BROADCAST_RX_ON, 0, 0, zdo.PROFILE, zdo.MATCH_DESC_REQ, payload, True))
