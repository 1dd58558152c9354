"""What a ZNP stick is, told without touching it: no reset, no NV write, nothing to the air.

Every command here only reads. Where a question needs more than that, the answer says so:
``likely`` stands for "its neighbours in the firmware answer", and ``radio selftest`` finds out.
Source: zigbee-znp.md 2, 3.2, 3.3, 4.3.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from firmware_node.adapters.znp.host import Host, NoAnswerError, NotKnownError, connected
from firmware_node.errors import DecodeError, EnvironmentFailure
from firmware_node.terms import EntityId
from firmware_node.wire import mt
from firmware_node.wire.mt import Capability, Cmd, DeviceState

STARTUP_OPTION, NIB, APS_LINK_KEY_TABLE = 0x0003, 0x0021, 0x004C
ON_A_NETWORK, USE_DEFAULT_TCLK, LOGICAL_TYPE = 0x0055, 0x006D, 0x0087
ROLES = {0: "coordinator", 1: "router", 2: "end-device"}
IN_NETWORK = (DeviceState.END_DEVICE, DeviceState.ROUTER, DeviceState.COORDINATOR)
NETWORK_INFO_SIZE = 24
_ASSOCIATED = {36: "aligned", 28: "packed"}  # octets of the struct (zigbee-znp.md 2)
_LINK_ROW = {"aligned": 6, "packed": 5}
_DESCRIPTOR_S = 2.0
# Source, status, address; flags, capability, manufacturer, buffer, transfer in, servers, out.
_NODE_DESCRIPTOR = struct.Struct("<HBH BBB H B H H H B")
_ZCL_KEY_EST_SIGN = 0x2781
_NO_TIMESTAMP = 0xFFFFFFFF
# Where an NIB keeps address, channel, PAN id, extended PAN id and whether its key is loaded.
_NIB_AT = {116: (22, 24, 36, 57, 65), 110: (20, 22, 33, 53, 61)}
_NO_ANSWER = (NoAnswerError, NotKnownError, DecodeError)


class Network(NamedTuple):
    """A network that a stick has in its NV memory."""

    short_address: int
    channel: int
    pan_id: int
    extended_pan_id: str


def run_probe(port: str) -> dict[str, Any]:
    """``probe``, to its end."""
    return asyncio.run(probe(port))


class NodeDescriptor(NamedTuple):
    """What matters here of a node descriptor; sizes in octets."""

    buffer_max: int
    transfer_in_max: int
    transfer_out_max: int
    stack_revision: int  # 0: from before there was one


async def probe(port: str) -> dict[str, Any]:
    """The document of ``radio probe --json``.

    ``result`` is ``ok``, or ``unfit`` for a stick that the daemon cannot drive; ``problems`` say
    why. Sizes are octets; what could not be told is null.

    Raises:
        ConfigError, EnvironmentFailure: see ``connected``; also a stick that stops answering.
    """
    async with connected(port) as host:
        try:
            return {"port": port, **await _report(host)}
        except _NO_ANSWER as error:
            raise EnvironmentFailure(f"{port}: {error}") from error


async def _report(host: Host) -> dict[str, Any]:
    (mask,) = await host.ask(Cmd.SYS_PING)
    firmware = await _firmware(host, mask)
    (ieee,) = await host.ask(Cmd.SYS_GET_EXT_ADDR)
    alignment = await alignment_of(host)
    _, _, _, types, state, _ = await host.ask(Cmd.UTIL_GET_DEVICE_INFO)
    logical_type = await host.item(LOGICAL_TYPE)
    role = ROLES.get(logical_type[0]) if logical_type else None
    roles = {name: bool(types >> bit & 1) for bit, name in ROLES.items()}
    network = await _network(host, state)
    document = {
        "firmware": firmware,
        "capabilities": {
            "mask": f"{mask:04X}",
            "names": [one.name for one in Capability if mask & one],
        },
        "entity_id": str(EntityId(ieee[::-1])),
        "nv_alignment": alignment,
        "role": role,
        "state": _state_name(state),
        "network": network,
        "roles": roles,
        "keys": await _keys(host, mask, alignment),
        "payload": await _payload(host, state),
    }
    problems = list(_problems(document, mask))
    unfit = not mask & Capability.APP_CNF or not (roles["end-device"] or roles["router"])
    return {"result": "unfit" if unfit else "ok", **document, "problems": problems}


async def _firmware(host: Host, mask: int) -> Mapping[str, Any]:
    fields = await host.ask(Cmd.SYS_VERSION)
    transport, product, major, minor, maintenance, *more = fields
    revision, kind, bootloader = (*more, None, None, None)[:3]
    if not mask & Capability.APP_CNF:
        stack = "Z-Stack 1.2"
    else:
        extended = await _knows(host, Cmd.SYS_NV_LENGTH, 1, 4, 0)
        stack = "Z-Stack 3.x.0" if extended else "Z-Stack 3.0.x"
    return {
        "stack": stack,
        "product": product,
        "transport": transport,
        "version": f"{major}.{minor}.{maintenance}",
        "revision": revision,
        "bootloader": None if kind is None else {"type": kind, "revision": bootloader},
    }


async def alignment_of(host: Host) -> str | None:
    """How the stick's compiler lays out structs: ``aligned``, ``packed``; None: it does not say."""
    try:
        return _ASSOCIATED.get(len(await host.exchange(Cmd.UTIL_ASSOC_FIND_DEVICE, b"\x00")))
    except (NotKnownError, NoAnswerError):  # firmware for end devices alone has no such command
        return None


async def stored_network(host: Host) -> Network | None:
    """The network in NV memory, where the stick goes on after its next start; None: none."""
    nib, marked = await host.item(NIB), await host.item(ON_A_NETWORK)
    at = _NIB_AT.get(len(nib or b""))
    if nib is None or at is None or marked == b"\x00":
        return None
    address, channel, pan, extended, loaded = at
    if not nib[channel] or not nib[loaded]:
        return None
    return Network(
        int.from_bytes(nib[address : address + 2], "little"),
        nib[channel],
        int.from_bytes(nib[pan : pan + 2], "little"),
        nib[extended : extended + 8][::-1].hex(),
    )


async def _network(host: Host, state: int) -> Mapping[str, Any] | None:
    """The network it is in, or has stored; the running one has the last word."""
    stored = await stored_network(host)
    if state in IN_NETWORK:
        data = await host.exchange(Cmd.ZDO_EXT_NWK_INFO)
        if len(data) == NETWORK_INFO_SIZE:
            own, _, pan, parent, extended, _, channel = mt.decode(
                Cmd.ZDO_EXT_NWK_INFO | mt.RESPONSE, data
            )
            running = Network(own, channel, pan, extended[::-1].hex())
            return _shown(running) | {"running": True, "parent": f"{parent:04X}"}
    return None if stored is None else _shown(stored) | {"running": state in IN_NETWORK}


def _shown(network: Network) -> dict[str, Any]:
    return {
        "short_address": f"{network.short_address:04X}",
        "channel": network.channel,
        "pan_id": f"{network.pan_id:04X}",
        "extended_pan_id": network.extended_pan_id,
    }


async def _keys(host: Host, mask: int, alignment: str | None) -> Mapping[str, Any]:
    """Which ways to put keys into the stick there are.

    BDB commands and SET_LINK_KEY change something, so only their neighbours are asked. An old
    Smart Energy build signs an empty message for 2781; every other one does not know it.
    """
    bdb = "likely" if mask & Capability.APP_CNF else "no"
    link = "likely" if await _knows(host, Cmd.ZDO_GET_LINK_KEY, b"\xff" * 8) else "no"
    table = await host.item(APS_LINK_KEY_TABLE)
    rows = None
    if table is not None and alignment is not None:
        rows = max(0, len(table) - 2) // _LINK_ROW[alignment]
    try:
        await host.exchange(_ZCL_KEY_EST_SIGN, b"\x00\x00")
        establishment: str | None = "yes"
    except NotKnownError:
        establishment = "no"
    except NoAnswerError:
        establishment = None
    return {
        "join_by_install_code": bdb,  # 2F07
        "admit_by_install_code": bdb,  # 2F04
        "set_link_key": link,  # 2523
        "link_key_rows": rows,
        "key_establishment_in_stick": establishment,  # 2780, 2781
    }


async def _payload(host: Host, state: int) -> Mapping[str, Any]:
    """What fits: one MT frame, messages in parts, and what the node descriptor promises."""
    large = await _knows(host, Cmd.AF_DATA_RETRIEVE, _NO_TIMESTAMP, 0, 0)
    buffer = incoming = outgoing = None
    if state in IN_NETWORK:
        try:
            own = (await host.ask(Cmd.UTIL_GET_DEVICE_INFO))[2]
            descriptor = await node_descriptor(host, own)
            buffer, incoming = descriptor.buffer_max, descriptor.transfer_in_max
            outgoing = descriptor.transfer_out_max
        except _NO_ANSWER:
            pass
    return {
        "mt_request_max": mt.DATA_MAX - 10,
        "mt_request_ext_max": mt.REQUEST_INLINE_MAX,
        "mt_incoming_max": mt.INLINE_MAX,
        "messages_in_parts": large,
        "buffer_max": buffer,
        "transfer_in_max": incoming,
        "transfer_out_max": outgoing,
    }


async def node_descriptor(host: Host, short_address: int) -> NodeDescriptor:
    """What a node says of itself: the stick, or another one, over the air.

    Raises:
        NoAnswerError, NotKnownError, DecodeError: it says nothing, or something else.
    """
    await host.ask(Cmd.ZDO_NODE_DESC_REQ, short_address, short_address)
    body = await host.until_data(mt.zdo_callback(0x8002), _DESCRIPTOR_S)
    if len(body) != _NODE_DESCRIPTOR.size or body[2]:
        raise DecodeError("node descriptor", 0, f"{len(body)} octets, status {body[2:3].hex()}")
    fields = _NODE_DESCRIPTOR.unpack(body)
    return NodeDescriptor(fields[7], fields[8], fields[10], fields[9] >> 9)


async def _knows(host: Host, command: int, *values: Any) -> bool:
    """Whether the stick answers a command at all, whatever it answers."""
    try:
        await host.exchange(command, mt.encode(command, *values))
    except (NotKnownError, NoAnswerError):
        return False
    return True


def _problems(document: Mapping[str, Any], mask: int) -> list[str]:
    roles, found = document["roles"], []
    if not mask & Capability.APP_CNF:
        found.append("Z-Stack 1.2: the daemon drives Z-Stack 3 only")
    if not roles["end-device"] and not roles["router"]:
        found.append("coordinator-only firmware: flash an all-roles build")
    elif not roles["end-device"]:
        found.append('no end device in this firmware: set role = "router"')
    if document["firmware"]["product"] == 0:
        found.append("product 0: zigbee-herdsman would take it for Z-Stack 1.2")
    if document["nv_alignment"] is None:
        found.append("it does not tell how its structs are laid out")
    if document["keys"]["set_link_key"] == "no":
        found.append("no link keys: frames cannot be APS-secured after key establishment")
    if not document["payload"]["messages_in_parts"]:
        found.append("no messages in parts: large tunnel messages cannot pass")
    return found


def _state_name(state: int) -> str:
    known = state in DeviceState.__members__.values()
    return DeviceState(state).name.lower().replace("_", "-") if known else f"unknown {state}"
