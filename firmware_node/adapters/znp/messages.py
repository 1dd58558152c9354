"""Messages between the two sticks of a self-test, also those that no MT frame holds.

A large one is announced without its octets, stored part by part, and sent by an empty part; one
that comes is fetched part by part and then given up. Source: zigbee-znp.md 3.3.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from firmware_node.adapters.znp.checks import CLUSTER, SE_ENDPOINT, Bench, must
from firmware_node.adapters.znp.host import PART_MAX, Host
from firmware_node.errors import DecodeError
from firmware_node.wire import mt
from firmware_node.wire.mt import AddressMode, Cmd, Status

CONFIRM_S = 20.0  # four APS attempts and a route discovery
_MESSAGES = (Cmd.AF_INCOMING_MSG, Cmd.AF_INCOMING_MSG_EXT)


class Arrived(NamedTuple):
    """A message that came up."""

    secured: bool
    payload: bytes
    in_parts: bool


async def send(
    bench: Bench, sender: Host, to: int, endpoint: int, payload: bytes, options: int
) -> int:
    """To the Smart Energy endpoint of ``to``; the status of the confirm, or of the refusal."""
    bench.transaction = transaction = bench.transaction % 255 + 1
    request = mt.DataRequest(
        AddressMode.SHORT,
        to.to_bytes(8, "little"),
        SE_ENDPOINT,
        endpoint,
        CLUSTER,
        transaction,
        options,
        30,
        payload,
    )
    command = Cmd.AF_DATA_REQUEST_EXT
    answer = await sender.exchange(command, mt.encode_data_request(request))
    if answer == b"\x00" and len(payload) > mt.REQUEST_INLINE_MAX:
        for at in range(0, len(payload), PART_MAX):
            await must(sender, Cmd.AF_DATA_STORE, at, payload[at : at + PART_MAX])
        answer = await sender.exchange(Cmd.AF_DATA_STORE, mt.encode(Cmd.AF_DATA_STORE, 0, b""))
    if answer != b"\x00":
        return answer[0] if answer else Status.FAILURE
    confirm = await sender.until(
        Cmd.AF_DATA_CONFIRM, CONFIRM_S, lambda fields: fields[2] == transaction
    )
    return int(confirm[0])


async def arrives(receiver: Host, payload: bytes, within_s: float) -> Arrived | None:
    """The message with this payload; None: it did not come."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        messages = (one for one in receiver.told if one[0] in _MESSAGES)
        message = next(messages, None)
        if message is not None:
            receiver.told.remove(message)
            arrived = await _read(receiver, *message)
            if arrived.payload == payload:
                return arrived
        elif not await receiver.wait(deadline):
            return None


async def _read(receiver: Host, command: int, data: bytes) -> Arrived:
    """A message, with its octets fetched where they did not come along."""
    if command == Cmd.AF_INCOMING_MSG:
        message = mt.decode_incoming(data)
        return Arrived(message.secured, message.payload, False)
    fields = mt.decode(command, data)
    secured, timestamp, size, rest = bool(fields[9]), fields[10], fields[12], fields[13]
    if len(rest) >= size:
        return Arrived(secured, rest[:size], False)
    payload = b""
    while len(payload) < size:
        part_size = min(PART_MAX, size - len(payload))
        status, part = await receiver.ask(Cmd.AF_DATA_RETRIEVE, timestamp, len(payload), part_size)
        if status or not part:
            raise DecodeError("AF_DATA_RETRIEVE", len(payload), f"status {status:02X}")
        payload += part
    await receiver.ask(Cmd.AF_DATA_RETRIEVE, timestamp, 0, 0)  # it may forget the message
    return Arrived(secured, payload, True)
