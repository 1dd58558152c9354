"""The lines that need one stick and no air.

Order matters: ``clear-network`` comes before everything that presumes a stick without a network,
and what writes a role comes last, so that the lines before it see the stick as it was.
Source: the checklist of zigbee-znp.md 9, and what 2 to 4 there could not verify.
"""

from __future__ import annotations

import os

from firmware_node.adapters.znp.checks import (
    CLEAR,
    LOGICAL_TYPE,
    SE_ENDPOINT,
    SE_PROFILE,
    STARTUP_OPTION,
    Bench,
    CannotTellError,
    Check,
    Verdict,
    passes,
    register,
)
from firmware_node.adapters.znp.host import NoAnswerError, NotKnownError
from firmware_node.adapters.znp.probe import (
    NETWORK_INFO_SIZE,
    ROLES,
    USE_DEFAULT_TCLK,
    alignment_of,
)
from firmware_node.wire.mt import Capability, Cmd, Status

_NEEDED = Capability.SYS | Capability.AF | Capability.ZDO | Capability.UTIL | Capability.APP_CNF
_RX_ON_WHEN_IDLE, _READ = 1, 0xFF  # of STACK_TUNE
_BY_INSTALL_CODE, _DEFAULT_KEY = 1, 0  # of SET_ACTIVE_CENTRALIZED_KEY
_NO_TIMESTAMP = 0xFFFFFFFF
_STRANGER = bytes.fromhex("0102030405060708")  # nobody's address, for a link key that is removed


async def _capabilities(bench: Bench) -> tuple[Verdict, str]:
    (mask,) = await bench.stick.ask(Cmd.SYS_PING)
    missing = [one.name for one in Capability if _NEEDED & one & ~mask]
    return passes(not missing, f"{mask:04X}" + (f", without {missing}" if missing else ""))


async def _product(bench: Bench) -> tuple[Verdict, str]:
    version = await bench.stick.ask(Cmd.SYS_VERSION)
    indication = await bench.stick.reset()
    found = f"VERSION says {version[1]}, RESET_IND {indication[2]}"
    return passes(version[1] == indication[2] and version[1] in (1, 2), found)


async def _alignment(bench: Bench) -> tuple[Verdict, str]:
    alignment = await alignment_of(bench.stick)
    return passes(alignment is not None, alignment or "28 or 36 octets expected")


async def _roles(bench: Bench) -> tuple[Verdict, str]:
    types = (await bench.stick.ask(Cmd.UTIL_GET_DEVICE_INFO))[3]
    names = [name for bit, name in ROLES.items() if types >> bit & 1]
    return passes("end-device" in names, ", ".join(names) or f"none: {types:02X}")


async def _network_info(bench: Bench) -> tuple[Verdict, str]:
    size = len(await bench.stick.exchange(Cmd.ZDO_EXT_NWK_INFO))
    return passes(size == NETWORK_INFO_SIZE, f"{size} octets")


async def _startup_option(bench: Bench) -> tuple[Verdict, str]:
    before = len(bench.stick.trace)
    await bench.stick.put_item(STARTUP_OPTION, bytes((CLEAR,)))
    anew = any("make it anew" in line for line in bench.stick.trace[before:])
    value = await bench.stick.item(STARTUP_OPTION)
    found = "written and read back" + (", but only after it was made anew" if anew else "")
    holds = value == bytes((CLEAR,))
    return passes(holds, found if holds else f"wrote 03, read {_hex(value)}")


async def _clear_network(bench: Bench) -> tuple[Verdict, str]:
    await bench.stick.put_item(STARTUP_OPTION, bytes((CLEAR,)))
    await bench.stick.reset()
    value = await bench.stick.item(STARTUP_OPTION)
    state = (await bench.stick.ask(Cmd.UTIL_GET_DEVICE_INFO))[2]
    await bench.stick.put_item(STARTUP_OPTION, b"\x00")
    found = f"STARTUP_OPTION is {_hex(value)} after the reset, address {state:04X}"
    return passes(value in (b"\x00", None) and state >= 0xFFF8, found)


async def _default_tclk(bench: Bench) -> tuple[Verdict, str]:
    value = await bench.stick.item(USE_DEFAULT_TCLK)
    if value is None:
        raise CannotTellError("there is no item 006D")
    return passes(value == b"\x01", f"item 006D is {_hex(value)}")


async def _endpoint(bench: Bench) -> tuple[Verdict, str]:
    status = await register(bench.stick, SE_ENDPOINT, SE_PROFILE)
    return passes(status == Status.SUCCESS, f"status {status:02X}")


async def _rx_on(bench: Bench) -> tuple[Verdict, str]:
    await bench.stick.ask(Cmd.SYS_STACK_TUNE, _RX_ON_WHEN_IDLE, 1)
    (value,) = await bench.stick.ask(Cmd.SYS_STACK_TUNE, _RX_ON_WHEN_IDLE, _READ)
    if value not in (0, 1):
        raise CannotTellError(f"set to 1; reading it gives {value:02X}")
    return passes(value == 1, f"set to 1, read {value}")


async def _install_code(bench: Bench) -> tuple[Verdict, str]:
    command = Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY
    status = await bench.stick.status(command, _BY_INSTALL_CODE, bench.code)
    wrong = bench.code[:-1] + bytes((bench.code[-1] ^ 0xFF,))
    refused = await bench.stick.status(command, _BY_INSTALL_CODE, wrong)
    await bench.stick.status(command, _DEFAULT_KEY, b"")
    found = f"status {status:02X}; with a wrong CRC {refused:02X}"
    return passes(status == Status.SUCCESS, found)


async def _link_key(bench: Bench) -> tuple[Verdict, str]:
    stick, key = bench.stick, os.urandom(16)
    try:
        status = await stick.status(Cmd.ZDO_SET_LINK_KEY, 0x1234, _STRANGER, key)
    except NotKnownError:
        other = await stick.status(Cmd.ZDO_SEC_ADD_LINK_KEY, 0x1234, _STRANGER, key)
        return passes(False, f"no 2523; 2542 gives {other:02X}")
    if status != Status.SUCCESS:
        return passes(False, f"status {status:02X}")
    try:
        got, _, read = await stick.ask(Cmd.ZDO_GET_LINK_KEY, _STRANGER)
        removed = await stick.status(Cmd.ZDO_REMOVE_LINK_KEY, _STRANGER)
    except (NotKnownError, NoAnswerError) as error:
        raise CannotTellError(f"set, but not read back: {error}") from error
    holds = got == Status.SUCCESS and read == key
    read_back = "read back" if holds else "another key was read back"
    return passes(holds, f"set, {read_back}, removed with status {removed:02X}")


async def _link_key_counters(bench: Bench) -> tuple[Verdict, str]:
    stick = bench.stick
    await stick.ask(Cmd.ZDO_SET_LINK_KEY, 0x1234, _STRANGER, os.urandom(16))
    try:
        status, _, sent, heard = await stick.ask(Cmd.UTIL_APSME_LINK_KEY_DATA_GET, _STRANGER)
    finally:
        await stick.ask(Cmd.ZDO_REMOVE_LINK_KEY, _STRANGER)
    return passes(status == Status.SUCCESS, f"status {status:02X}, sent {sent}, heard {heard}")


async def _parts(bench: Bench) -> tuple[Verdict, str]:
    status, _ = await bench.stick.ask(Cmd.AF_DATA_RETRIEVE, _NO_TIMESTAMP, 0, 0)
    return passes(status != Status.SUCCESS, f"a message that is not there: status {status:02X}")


async def _becomes(bench: Bench, logical_type: int) -> tuple[Verdict, str]:
    await bench.stick.put_item(LOGICAL_TYPE, bytes((logical_type,)))
    await bench.stick.reset()
    value = await bench.stick.item(LOGICAL_TYPE)
    found = f"wrote {logical_type}, reset, read {_hex(value)}"
    return passes(value == bytes((logical_type,)), found)


async def _end_device(bench: Bench) -> tuple[Verdict, str]:
    return await _becomes(bench, 2)


async def _router(bench: Bench) -> tuple[Verdict, str]:
    return await _becomes(bench, 1)


def _hex(value: bytes | None) -> str:
    return "nothing" if value is None else value.hex()


CHECKS = (
    Check(
        "capabilities",
        "PING 2101: the subsystems that the daemon speaks with",
        _capabilities,
        "the firmware is a Z-Stack 3 ZNP",
        "the daemon cannot drive it: Z-Stack 3 with SYS, AF, ZDO, UTIL and APP_CNF is needed",
    ),
    Check(
        "product",
        "VERSION 2102 and RESET_IND 4180 name the same product, 1 or 2",
        _product,
        "hosts that go by the product choose the right way",
        "the daemon does not mind; zigbee-herdsman takes product 0 for Z-Stack 1.2",
        optional=True,
    ),
    Check(
        "alignment",
        "ASSOC_FIND_DEVICE 2749: 36 octets (aligned) or 28 (packed)",
        _alignment,
        "structs in NV memory can be read",
        "zigpy-znp will not connect; firmware for end devices alone may lack the command",
    ),
    Check(
        "all-roles",
        "GET_DEVICE_INFO 2700: the roles the firmware was built for",
        _roles,
        "the stick can be an end device, by its own word",
        'flash an all-roles build, or set role = "router" if it has that',
    ),
    Check(
        "ext-nwk-info",
        "EXT_NWK_INFO 2550: 24 octets",
        _network_info,
        "address, state, PAN and channel can be read from it",
        "its fields are elsewhere: report its octets, the daemon must read the NIB instead",
    ),
    Check(
        "startup-option",
        "STARTUP_OPTION 0003 can be written",
        _startup_option,
        "the daemon can make the stick forget its network",
        "the daemon cannot make it forget a network: erase its flash to move it",
    ),
    Check(
        "clear-network",
        "STARTUP_OPTION 3 and a reset: no network, and the option is 0 again",
        _clear_network,
        "a factory reset of the radio works and happens once",
        "a network or the option stayed: write 0 after every clearing reset, or erase the flash",
    ),
    Check(
        "default-tc-link-key",
        "USE_DEFAULT_TCLK 006D is 1",
        _default_tclk,
        "without an install code the stick would join with the well-known key",
        "it joins by install code alone, which suits a Smart Energy network",
        optional=True,
    ),
    Check(
        "se-endpoint",
        "AF_REGISTER 2400 of an endpoint with profile 0109",
        _endpoint,
        "the device's endpoint can be registered",
        "no Smart Energy endpoint: the daemon cannot run on it",
    ),
    Check(
        "rx-on-when-idle",
        "STACK_TUNE 210F sets receiver-on-when-idle, and says so",
        _rx_on,
        "no polling is needed, by the stick's word",
        'set role = "router": an end device of this build polls, and blocks come seldom',
        optional=True,
    ),
    Check(
        "install-code",
        "SET_ACTIVE_CENTRALIZED_KEY 2F07 takes an install code of 18 octets",
        _install_code,
        "the device can join by its install code",
        "no joining by install code: a Smart Energy trust centre will not let it in",
    ),
    Check(
        "link-key",
        "SET_LINK_KEY 2523, GET_LINK_KEY 2525, REMOVE_LINK_KEY 2524",
        _link_key,
        "the key of a key establishment can be given to the stick",
        "no key to secure frames with after key establishment",
    ),
    Check(
        "link-key-counters",
        "LINK_KEY_DATA_GET 2744: the counters of a link key",
        _link_key_counters,
        "APS counters can be looked at when frames are refused",
        "APS counters cannot be looked at; the daemon does not need them",
        optional=True,
    ),
    Check(
        "messages-in-parts",
        "DATA_RETRIEVE 2412 is known",
        _parts,
        "messages beyond one MT frame can be fetched",
        "GBCS messages beyond 220 octets are lost",
    ),
    Check(
        "router-survives-reset",
        "LOGICAL_TYPE 0087 = 1 is kept over a reset",
        _router,
        'role = "router" is possible',
        'role = "router" is not possible',
        optional=True,
    ),
    Check(
        "end-device-survives-reset",
        "LOGICAL_TYPE 0087 = 2 is kept over a reset",
        _end_device,
        'role = "end-device" is possible',
        'not an all-roles build: role = "router" if that line passed, else flash another',
    ),
)
