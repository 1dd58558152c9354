"""The lines that need the air: a second stick plays the Comms Hub, or, to join alone, a real one.

Order matters: the stick is refused with a wrong install code before it joins with the right one,
so that the right one is seen to be the reason; frames pass unsecured before they pass secured.
Source: the checklist of zigbee-znp.md 9; 3.3 to 3.5, 4.2 to 4.4 there for each step.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from firmware_node.adapters.znp.checks import (
    COORDINATOR,
    END_DEVICE,
    HA_ENDPOINT,
    HA_PROFILE,
    SE_ENDPOINT,
    SE_PROFILE,
    Bench,
    CannotTellError,
    Check,
    Verdict,
    clear,
    must,
    new_install_code,
    passes,
    register,
)
from firmware_node.adapters.znp.host import Host, NoAnswerError, NotKnownError
from firmware_node.adapters.znp.messages import arrives, send
from firmware_node.adapters.znp.probe import node_descriptor, stored_network
from firmware_node.wire.mt import AddressMode, Cmd, DeviceState, Option, Status

FORM_S = 30.0  # energy scan and active scan of a real stick
JOIN_S = 30.0  # scan, association, key, trust-centre exchange
JOIN_ALONE_S = 180.0  # the operator opens the network by hand
JOIN_AGAIN_S = 2.0  # between attempts until then
RESUME_S = 30.0
PERMIT_S = 250  # longer than everything after it
ARRIVE_S = 5.0
ABSENT_S = 1.5  # how long a frame that must not arrive is waited for
ALL_CHANNELS = 0x07FFF800
HUGE_SIZE = 300  # octets: beyond an MT frame (230), within what Z-Stack reassembles by default
EXCHANGE_REVISION = 21  # of the stack: the first that exchanges trust-centre link keys
IN_PROGRESS = 0x01  # of a commissioning notification
NO_NETWORK = 0x02
FORMATION, STEERING, RESUME = 4, 2, 0  # commissioning modes
_BDB = {0: "success", 2: "no network", 7: "key exchange failed", 0x0D: "restored"}
_RX_ON_WHEN_IDLE = 0x08  # in an announced capability


# --- joining --------------------------------------------------------------------------------------


async def _form(bench: Bench) -> tuple[Verdict, str]:
    peer = bench.the_peer()
    await clear(peer, COORDINATOR)
    (bench.peer_ieee,) = await peer.ask(Cmd.SYS_GET_EXT_ADDR)
    await _set_channels(peer, 1 << bench.channel)
    await must(peer, Cmd.APP_CNF_BDB_START_COMMISSIONING, FORMATION)
    await peer.until(Cmd.ZDO_STATE_CHANGE_IND, FORM_S, _is(DeviceState.COORDINATOR))
    for endpoint, profile in ((SE_ENDPOINT, SE_PROFILE), (HA_ENDPOINT, HA_PROFILE)):
        if await register(peer, endpoint, profile):
            raise CannotTellError(f"{peer.port}: refuses an endpoint of profile {profile:04X}")
    await must(peer, Cmd.APP_CNF_BDB_SET_JOIN_USES_INSTALL_CODE, 1)
    await must(peer, Cmd.APP_CNF_BDB_ADD_INSTALL_CODE, 1, bench.ieee, bench.code)
    await must(peer, Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, AddressMode.SHORT, 0x0000, PERMIT_S, 1)
    network = await stored_network(peer)
    if network is None:
        raise CannotTellError(f"{peer.port}: no network in its memory after it was formed")
    bench.extended_pan = bytes.fromhex(network.extended_pan_id)[::-1]
    bench.formed = True
    return passes(True, f"{peer.port} leads a network on channel {bench.channel}")


async def _wrong_code(bench: Bench) -> tuple[Verdict, str]:
    bench.the_network()
    try:
        status = await _join(bench, new_install_code(), JOIN_S)
    except NoAnswerError as error:
        raise CannotTellError(str(error)) from error
    joined = status == Status.SUCCESS
    return passes(not joined, f"joined with {_bdb(status)}" if joined else _bdb(status))


async def _right_code(bench: Bench) -> tuple[Verdict, str]:
    if not bench.joins_alone:
        bench.the_network()
    status = await _join(bench, bench.code, JOIN_S if bench.peer else JOIN_ALONE_S)
    if status != Status.SUCCESS:
        return passes(False, _bdb(status))
    info = await bench.stick.ask(Cmd.UTIL_GET_DEVICE_INFO)
    short, state = info[2], info[4]
    found = f"{_bdb(status)}, address {short:04X}, state {state}"
    if state != DeviceState.END_DEVICE:
        return passes(False, found)
    bench.short = short
    return passes(True, found)


async def _join(bench: Bench, code: bytes, within_s: float) -> int:
    """Clear, take the role, register, steer; the status of the notification that ends it."""
    stick = bench.stick
    await clear(stick, END_DEVICE, bench.extended_pan)  # a neighbour may be open as well
    try:
        await stick.ask(Cmd.SYS_STACK_TUNE, 1, 1)  # receiver on when idle
    except NotKnownError:
        pass  # a line of its own tells
    await register(stick, SE_ENDPOINT, SE_PROFILE)
    await _set_channels(stick, 1 << bench.channel if bench.peer else ALL_CHANNELS)
    await must(stick, Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY, 1, code)
    if bench.peer is not None:
        bench.peer.told.clear()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        await must(stick, Cmd.APP_CNF_BDB_START_COMMISSIONING, STEERING)
        status = await _commissioned(stick, deadline - loop.time())
        may_come = bench.joins_alone and status == NO_NETWORK
        if not may_come or loop.time() + JOIN_AGAIN_S > deadline:
            return status
        await asyncio.sleep(JOIN_AGAIN_S)


async def _commissioned(stick: Host, within_s: float) -> int:
    note = await stick.until(
        Cmd.APP_CNF_BDB_NOTIFICATION, within_s, lambda fields: fields[0] != IN_PROGRESS
    )
    return int(note[0])


async def _rx_on(bench: Bench) -> tuple[Verdict, str]:
    peer = bench.the_peer()
    bench.joined()
    told = await peer.until(
        Cmd.ZDO_END_DEVICE_ANNCE_IND, ARRIVE_S, lambda fields: fields[2] == bench.ieee
    )
    return passes(bool(told[3] & _RX_ON_WHEN_IDLE), f"announced capability {told[3]:02X}")


async def _old_trust_centre(bench: Bench) -> tuple[Verdict, str]:
    """Told where the network's trust centre is one: a real hub, or a peer of old firmware."""
    asked = bench.stick
    if bench.short is None:
        bench.the_network()
        asked = bench.the_peer()
    revision = (await node_descriptor(asked, 0x0000)).stack_revision
    if revision >= EXCHANGE_REVISION:
        raise CannotTellError(f"the trust centre's stack revision is {revision}, not below 21")
    outcome = "not joined" if bench.short is None else "joined"
    return passes(
        bench.short is not None, f"the trust centre's stack revision is {revision}: {outcome}"
    )


async def _resume(bench: Bench) -> tuple[Verdict, str]:
    before, stick = bench.joined(), bench.stick
    await stick.reset()
    await register(stick, SE_ENDPOINT, SE_PROFILE)
    await must(stick, Cmd.APP_CNF_BDB_START_COMMISSIONING, RESUME)
    await stick.until(Cmd.ZDO_STATE_CHANGE_IND, RESUME_S, _is(DeviceState.END_DEVICE))
    short = (await stick.ask(Cmd.UTIL_GET_DEVICE_INFO))[2]
    return passes(short == before, f"address {before:04X} before, {short:04X} after the reset")


# --- frames ---------------------------------------------------------------------------------------


async def _profiles(bench: Bench) -> tuple[Verdict, str]:
    peer, short = bench.the_peer(), bench.joined()
    statuses, arrived = [], []
    for endpoint in (SE_ENDPOINT, HA_ENDPOINT):
        payload = os.urandom(20)
        statuses.append(await send(bench, peer, short, endpoint, payload, 0))
        arrived.append(await arrives(bench.stick, payload, ABSENT_S))
    own, other = (one is not None for one in arrived)
    found = (
        f"from an endpoint of 0109: status {statuses[0]:02X}, {_came(own)}; "
        f"from one of 0104: status {statuses[1]:02X}, {_came(other)}"
    )
    return passes(own and not other, found)


async def _security_use(bench: Bench) -> tuple[Verdict, str]:
    peer, short, payload = bench.the_peer(), bench.joined(), os.urandom(20)
    status = await send(bench, peer, short, SE_ENDPOINT, payload, Option.APS_ACK)
    arrived = await arrives(bench.stick, payload, ARRIVE_S)
    if arrived is None:
        raise CannotTellError(f"an unsecured frame did not arrive, status {status:02X}")
    return passes(not arrived.secured, f"SecurityUse {int(arrived.secured)} without option 0x40")


async def _link_key(bench: Bench) -> tuple[Verdict, str]:
    peer, short, key = bench.the_peer(), bench.joined(), os.urandom(16)
    await must(bench.stick, Cmd.ZDO_SET_LINK_KEY, 0x0000, bench.peer_ieee, key)
    await must(peer, Cmd.ZDO_SET_LINK_KEY, short, bench.ieee, key)
    options = Option.APS_ACK | Option.APS_SECURITY
    found = []
    for sender, receiver, to in ((bench.stick, peer, 0x0000), (peer, bench.stick, short)):
        payload = os.urandom(20)
        status = await send(bench, sender, to, SE_ENDPOINT, payload, options)
        arrived = await arrives(receiver, payload, ARRIVE_S)
        way = "up" if to == 0x0000 else "down"
        secured = "not arrived" if arrived is None else f"SecurityUse {int(arrived.secured)}"
        found.append(f"{way}: status {status:02X}, {secured}")
        if status or arrived is None or not arrived.secured:
            return passes(False, "; ".join(found))
    return passes(True, "; ".join(found))


async def _wrong_link_key(bench: Bench) -> tuple[Verdict, str]:
    peer, short, payload = bench.the_peer(), bench.joined(), os.urandom(20)
    await must(peer, Cmd.ZDO_SET_LINK_KEY, short, bench.ieee, os.urandom(16))
    options = Option.APS_ACK | Option.APS_SECURITY
    status = await send(bench, bench.stick, 0x0000, SE_ENDPOINT, payload, options)
    arrived = await arrives(peer, payload, ABSENT_S)
    found = f"status {status:02X}, {_came(arrived is not None)}"
    return passes(arrived is None and status != Status.SUCCESS, found)


async def _huge_down(bench: Bench) -> tuple[Verdict, str]:
    return await _huge(bench, bench.the_peer(), bench.stick, bench.joined())


async def _huge_up(bench: Bench) -> tuple[Verdict, str]:
    bench.joined()
    return await _huge(bench, bench.stick, bench.the_peer(), 0x0000)


async def _huge(bench: Bench, sender: Host, receiver: Host, to: int) -> tuple[Verdict, str]:
    payload = os.urandom(HUGE_SIZE)
    status = await send(bench, sender, to, SE_ENDPOINT, payload, Option.APS_ACK)
    arrived = await arrives(receiver, payload, ARRIVE_S)
    if arrived is None:
        return passes(False, f"{HUGE_SIZE} octets: status {status:02X}, not arrived")
    way = "in parts" if arrived.in_parts else "in one piece"
    return passes(status == Status.SUCCESS, f"{HUGE_SIZE} octets: status {status:02X}, {way}")


async def _set_channels(host: Host, mask: int) -> None:
    await must(host, Cmd.APP_CNF_BDB_SET_CHANNEL, 1, mask)
    await must(host, Cmd.APP_CNF_BDB_SET_CHANNEL, 0, 0)


def _is(state: DeviceState) -> Callable[[tuple[Any, ...]], bool]:
    return lambda fields: fields[0] == state


def _bdb(status: int) -> str:
    return f"status {status:02X} ({_BDB.get(status, 'see BDB')})"


def _came(arrived: bool) -> str:
    return "arrived" if arrived else "not arrived"


CHECKS = (
    Check(
        "peer-forms",
        "the second stick forms a network and wants install codes",
        _form,
        "the on-air lines can run",
        "the on-air lines cannot run: test the second stick first",
    ),
    Check(
        "wrong-install-code",
        "joining with a wrong install code is refused",
        _wrong_code,
        "install codes protect the network",
        "the stick joined by another key than its install code: report this",
    ),
    Check(
        "join-by-install-code",
        "2F07, steering 2F05, state 6",
        _right_code,
        "the device can join as an end device",
        "the device cannot join: see the status; 07 is a refused key",
    ),
    Check(
        "receiver-on-in-network",
        "the announced capability has receiver-on-when-idle",
        _rx_on,
        "frames reach the device at once, without polling",
        'set role = "router": the parent would hold every frame until a poll',
    ),
    Check(
        "old-trust-centre",
        "joining a trust centre before revision 21, which exchanges no keys",
        _old_trust_centre,
        "Comms Hubs of Smart Energy 1.x let the device in",
        "status 07: the stick insists on an exchange that Smart Energy 1.x does not know",
    ),
    Check(
        "profile-filter",
        "an endpoint of 0109 hears 0109, and not 0104",
        _profiles,
        'as assumed: a hub on 0104 needs profile = "lenient", the twin endpoint',
        "frames of any profile come up (or none): the strict profile setting has no effect",
    ),
    Check(
        "security-use",
        "an unsecured frame is told as unsecured",
        _security_use,
        "SecurityUse tells what was APS-secured",
        "SecurityUse says nothing: secured and unsecured frames cannot be told apart",
    ),
    Check(
        "link-key-0x40",
        "SET_LINK_KEY 2523 on both, option 0x40, both ways",
        _link_key,
        "frames are APS-secured after key establishment",
        "no APS security with a key of the host: the hub will discard the device's frames",
    ),
    Check(
        "wrong-link-key",
        "with different keys nothing passes",
        _wrong_link_key,
        "the key given by 2523 is the one in use",
        "frames pass with another key than 2523 gave: they are not secured by it",
    ),
    Check(
        "huge-frame-down",
        f"{HUGE_SIZE} octets to the stick: 4482, DATA_RETRIEVE 2412",
        _huge_down,
        "large GBCS commands reach the device in one frame",
        "large commands are lost: the hub must use blocks of a general block transfer",
    ),
    Check(
        "huge-frame-up",
        f"{HUGE_SIZE} octets from the stick: 2402, DATA_STORE 2411",
        _huge_up,
        "large GBCS responses leave in one frame",
        "large responses cannot be sent: they must be cut in blocks",
    ),
    Check(
        "resume",
        "after a reset, commissioning mode 0 takes up the stored network",
        _resume,
        "a restart of daemon or stick needs no permit to join",
        "after every reset the device must be let in again",
    ),
)
