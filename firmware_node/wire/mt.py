"""Monitor and Test (MT): the serial protocol between a TI ZNP stick and its host.

A frame is ``FE | size u8 | command u16, high octet first | data | checksum``; the checksum is the
XOR of everything between. A command number is written here as its two octets read in order:
0x2101 is SYS_PING. A synchronous request (0x2xxx) is answered by the command 0x4000 above it.

A command's fields are one row of the tables below, in a notation of two sorts of items: capital
letters are a run of ``struct`` codes (``8s`` and ``16s`` too), small letters a variable field:

    b  octets with a u8 count        w  octets with a u16 count
    h  u16 list with a u8 count      r  the remaining octets
    ?X a run that may be absent, with everything behind it

Integers are little-endian; an EUI-64 is its eight octets as they travel. ``decode`` and ``encode``
go between octets and a plain tuple in the order of the row; the two commands that carry data have
named tuples besides. Source: zigbee-znp.md 1 to 3; the optional fields of VERSION too.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple

from firmware_node.errors import DecodeError

START: Final = 0xFE
DATA_MAX = 250  # octets; a longer size octet is noise
RESPONSE: Final = 0x4000  # from a synchronous request to its answer
RPC_ERROR: Final = 0x6000
_OVERHEAD = 5  # start, size, command, checksum


class Rpc(IntEnum):
    """What an RPC error complains of."""

    SUBSYSTEM = 1
    COMMAND = 2
    PARAMETER = 3
    LENGTH = 4


class Status(IntEnum):
    """Status octets of answers and confirms."""

    SUCCESS = 0x00
    FAILURE = 0x01
    INVALID_PARAMETER = 0x02
    NV_ITEM_UNINIT = 0x09  # created now: what both hosts insist on
    NV_OPER_FAILED = 0x0A
    NV_BAD_LENGTH = 0x0C
    MEM_ERROR = 0x10
    BUFFER_FULL = 0x11
    SEC_NO_KEY = 0xA1
    APS_NO_ACK = 0xB7
    APS_DUPLICATE_ENTRY = 0xB8
    NWK_INVALID_REQUEST = 0xC2
    NWK_NO_ROUTE = 0xCD
    MAC_CHANNEL_ACCESS_FAILURE = 0xE1
    MAC_NO_ACK = 0xE9
    MAC_TRANSACTION_EXPIRED = 0xF0


class Capability(IntEnum):
    """Bits of the PING answer."""

    SYS = 0x0001
    AF = 0x0008
    ZDO = 0x0010
    UTIL = 0x0040
    GP = 0x0200
    APP_CNF = 0x0400


class Option(IntEnum):
    """Bits of an AF data request's options."""

    APS_ACK = 0x10
    SUPPRESS_ROUTE_DISCOVERY = 0x20
    APS_SECURITY = 0x40
    SKIP_ROUTING = 0x80


class AddressMode(IntEnum):
    """How an 8-octet address field is meant."""

    GROUP = 0x01
    SHORT = 0x02
    IEEE = 0x03
    BROADCAST = 0x0F


class DeviceState(IntEnum):
    """STATE_CHANGE_IND and GET_DEVICE_INFO."""

    INITIALIZED = 0
    NOT_CONNECTED = 1
    DISCOVERING = 2
    JOINING = 3
    REJOINING = 4
    UNAUTHENTICATED = 5
    END_DEVICE = 6
    ROUTER = 7
    STARTING_COORDINATOR = 8
    COORDINATOR = 9
    ORPHAN = 10


class Cmd(IntEnum):
    """Every command of the tables, by its name."""

    SYS_RESET_REQ = 0x4100
    SYS_RESET_IND = 0x4180
    SYS_PING = 0x2101
    SYS_VERSION = 0x2102
    SYS_GET_EXT_ADDR = 0x2104
    SYS_OSAL_NV_ITEM_INIT = 0x2107
    SYS_OSAL_NV_READ = 0x2108
    SYS_OSAL_NV_WRITE = 0x2109
    SYS_RANDOM = 0x210C
    SYS_STACK_TUNE = 0x210F
    SYS_OSAL_NV_DELETE = 0x2112
    SYS_OSAL_NV_LENGTH = 0x2113
    SYS_SET_TX_POWER = 0x2114
    SYS_OSAL_NV_READ_EXT = 0x211C
    SYS_OSAL_NV_WRITE_EXT = 0x211D
    SYS_NV_CREATE = 0x2130
    SYS_NV_DELETE = 0x2131
    SYS_NV_LENGTH = 0x2132
    SYS_NV_READ = 0x2133
    SYS_NV_WRITE = 0x2134
    AF_REGISTER = 0x2400
    AF_DATA_REQUEST = 0x2401
    AF_DATA_REQUEST_EXT = 0x2402
    AF_DATA_REQUEST_SRC_RTG = 0x2403
    AF_DELETE = 0x2404
    AF_DATA_STORE = 0x2411
    AF_DATA_RETRIEVE = 0x2412
    AF_APSF_CONFIG_SET = 0x2413
    AF_DATA_CONFIRM = 0x4480
    AF_INCOMING_MSG = 0x4481
    AF_INCOMING_MSG_EXT = 0x4482
    ZDO_NWK_ADDR_REQ = 0x2500
    ZDO_IEEE_ADDR_REQ = 0x2501
    ZDO_NODE_DESC_REQ = 0x2502
    ZDO_POWER_DESC_REQ = 0x2503
    ZDO_SIMPLE_DESC_REQ = 0x2504
    ZDO_ACTIVE_EP_REQ = 0x2505
    ZDO_MATCH_DESC_REQ = 0x2506
    ZDO_END_DEVICE_ANNCE = 0x250A
    ZDO_BIND_REQ = 0x2521
    ZDO_UNBIND_REQ = 0x2522
    ZDO_SET_LINK_KEY = 0x2523
    ZDO_REMOVE_LINK_KEY = 0x2524
    ZDO_GET_LINK_KEY = 0x2525
    ZDO_MGMT_LQI_REQ = 0x2531
    ZDO_MGMT_RTG_REQ = 0x2532
    ZDO_MGMT_BIND_REQ = 0x2533
    ZDO_MGMT_LEAVE_REQ = 0x2534
    ZDO_MGMT_PERMIT_JOIN_REQ = 0x2536
    ZDO_MGMT_NWK_UPDATE_REQ = 0x2537
    ZDO_MSG_CB_REGISTER = 0x253E
    ZDO_MSG_CB_REMOVE = 0x253F
    ZDO_STARTUP_FROM_APP = 0x2540
    ZDO_SEC_ADD_LINK_KEY = 0x2542
    ZDO_EXT_ROUTE_DISC = 0x2545
    ZDO_EXT_ROUTE_CHK = 0x2546
    ZDO_EXT_REMOVE_GROUP = 0x2547
    ZDO_EXT_REMOVE_ALL_GROUP = 0x2548
    ZDO_EXT_FIND_GROUP = 0x254A
    ZDO_EXT_ADD_GROUP = 0x254B
    ZDO_EXT_RX_IDLE = 0x254D
    ZDO_EXT_NWK_INFO = 0x2550
    ZDO_NWK_ADDR_RSP = 0x4580
    ZDO_IEEE_ADDR_RSP = 0x4581
    ZDO_STATE_CHANGE_IND = 0x45C0
    ZDO_END_DEVICE_ANNCE_IND = 0x45C1
    ZDO_LEAVE_IND = 0x45C9
    ZDO_TC_DEV_IND = 0x45CA
    ZDO_PERMIT_JOIN_IND = 0x45CB
    ZDO_MSG_CB_INCOMING = 0x45FF
    UTIL_GET_DEVICE_INFO = 0x2700
    UTIL_LED_CONTROL = 0x270A
    UTIL_DATA_REQ = 0x2711
    UTIL_ADDRMGR_EXT_ADDR_LOOKUP = 0x2740
    UTIL_ADDRMGR_NWK_ADDR_LOOKUP = 0x2741
    UTIL_APSME_LINK_KEY_DATA_GET = 0x2744
    UTIL_ASSOC_COUNT = 0x2748
    UTIL_ASSOC_FIND_DEVICE = 0x2749
    UTIL_ASSOC_GET_WITH_ADDRESS = 0x274A
    UTIL_ASSOC_REMOVE = 0x2763
    UTIL_ASSOC_ADD = 0x2764
    APP_CNF_SET_ALLOW_REJOIN_TC_POLICY = 0x2F03
    APP_CNF_BDB_ADD_INSTALL_CODE = 0x2F04
    APP_CNF_BDB_START_COMMISSIONING = 0x2F05
    APP_CNF_BDB_SET_JOIN_USES_INSTALL_CODE = 0x2F06
    APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY = 0x2F07
    APP_CNF_BDB_SET_CHANNEL = 0x2F08
    APP_CNF_BDB_SET_REQUIRE_KEY_EXCHANGE = 0x2F09
    APP_CNF_BDB_ZED_RECOVER_NWK = 0x2F0A
    APP_CNF_BDB_NOTIFICATION = 0x4F80


# Synchronous requests: fields of the request, fields of its answer.
_REQUESTS: Mapping[Cmd, tuple[str, str]] = {
    Cmd.SYS_PING: ("", "H"),
    Cmd.SYS_VERSION: ("", "BBBBB ?I ?B ?I"),
    Cmd.SYS_GET_EXT_ADDR: ("", "8s"),
    Cmd.SYS_OSAL_NV_ITEM_INIT: ("HH b", "B"),
    Cmd.SYS_OSAL_NV_READ: ("HB", "B b"),
    Cmd.SYS_OSAL_NV_WRITE: ("HB b", "B"),
    Cmd.SYS_RANDOM: ("", "H"),
    Cmd.SYS_STACK_TUNE: ("BB", "B"),
    Cmd.SYS_OSAL_NV_DELETE: ("HH", "B"),
    Cmd.SYS_OSAL_NV_LENGTH: ("H", "H"),
    Cmd.SYS_SET_TX_POWER: ("B", "B"),
    Cmd.SYS_OSAL_NV_READ_EXT: ("HH", "B b"),
    Cmd.SYS_OSAL_NV_WRITE_EXT: ("HH w", "B"),
    Cmd.SYS_NV_CREATE: ("BHHI", "B"),
    Cmd.SYS_NV_DELETE: ("BHH", "B"),
    Cmd.SYS_NV_LENGTH: ("BHH", "I"),
    Cmd.SYS_NV_READ: ("BHHHB", "B b"),
    Cmd.SYS_NV_WRITE: ("BHHH b", "B"),
    Cmd.AF_REGISTER: ("BHHBB h h", "B"),
    Cmd.AF_DATA_REQUEST: ("HBBHBBB b", "B"),
    Cmd.AF_DATA_REQUEST_EXT: ("B8sBHBHBBB w", "B"),
    Cmd.AF_DATA_REQUEST_SRC_RTG: ("HBBHBBB h b", "B"),
    Cmd.AF_DELETE: ("B", "B"),
    Cmd.AF_DATA_STORE: ("H b", "B"),
    Cmd.AF_DATA_RETRIEVE: ("IHB", "B b"),
    Cmd.AF_APSF_CONFIG_SET: ("BBB", "B"),
    Cmd.ZDO_NWK_ADDR_REQ: ("8sBB", "B"),
    Cmd.ZDO_IEEE_ADDR_REQ: ("HBB", "B"),
    Cmd.ZDO_NODE_DESC_REQ: ("HH", "B"),
    Cmd.ZDO_POWER_DESC_REQ: ("HH", "B"),
    Cmd.ZDO_SIMPLE_DESC_REQ: ("HHB", "B"),
    Cmd.ZDO_ACTIVE_EP_REQ: ("HH", "B"),
    Cmd.ZDO_MATCH_DESC_REQ: ("HHH h h", "B"),
    Cmd.ZDO_END_DEVICE_ANNCE: ("H8sB", "B"),
    Cmd.ZDO_BIND_REQ: ("H8sBHB8s ?B", "B"),
    Cmd.ZDO_UNBIND_REQ: ("H8sBHB8s ?B", "B"),
    Cmd.ZDO_SET_LINK_KEY: ("H8s16s", "B"),
    Cmd.ZDO_REMOVE_LINK_KEY: ("8s", "B"),
    Cmd.ZDO_GET_LINK_KEY: ("8s", "B8s16s"),
    Cmd.ZDO_MGMT_LQI_REQ: ("HB", "B"),
    Cmd.ZDO_MGMT_RTG_REQ: ("HB", "B"),
    Cmd.ZDO_MGMT_BIND_REQ: ("HB", "B"),
    Cmd.ZDO_MGMT_LEAVE_REQ: ("H8sB", "B"),
    Cmd.ZDO_MGMT_PERMIT_JOIN_REQ: ("BHBB", "B"),
    Cmd.ZDO_MGMT_NWK_UPDATE_REQ: ("HBIBBH", "B"),
    Cmd.ZDO_MSG_CB_REGISTER: ("H", "B"),
    Cmd.ZDO_MSG_CB_REMOVE: ("H", "B"),
    Cmd.ZDO_STARTUP_FROM_APP: ("H", "B"),
    Cmd.ZDO_SEC_ADD_LINK_KEY: ("H8s16s", "B"),
    Cmd.ZDO_EXT_ROUTE_DISC: ("HBB", "B"),
    Cmd.ZDO_EXT_ROUTE_CHK: ("HBB", "B"),
    Cmd.ZDO_EXT_REMOVE_GROUP: ("BH", "B"),
    Cmd.ZDO_EXT_REMOVE_ALL_GROUP: ("B", "B"),
    Cmd.ZDO_EXT_FIND_GROUP: ("BH", "r"),  # status, group u16, name b
    Cmd.ZDO_EXT_ADD_GROUP: ("BH b", "B"),
    Cmd.ZDO_EXT_RX_IDLE: ("BB", "B"),
    # The device state in it is in no published table; hosts read these 24 octets.
    Cmd.ZDO_EXT_NWK_INFO: ("", "HBHH8s8sB"),
    Cmd.UTIL_GET_DEVICE_INFO: ("", "B8sHBB h"),
    Cmd.UTIL_LED_CONTROL: ("BB", "B"),
    Cmd.UTIL_DATA_REQ: ("B", "B"),
    Cmd.UTIL_ADDRMGR_EXT_ADDR_LOOKUP: ("8s", "H"),
    Cmd.UTIL_ADDRMGR_NWK_ADDR_LOOKUP: ("H", "8s"),
    Cmd.UTIL_APSME_LINK_KEY_DATA_GET: ("8s", "B16sII"),
    Cmd.UTIL_ASSOC_COUNT: ("BB", "H"),
    Cmd.UTIL_ASSOC_FIND_DEVICE: ("B", "r"),  # a struct of the stack, 28 or 36 octets
    Cmd.UTIL_ASSOC_GET_WITH_ADDRESS: ("8sH", "r"),  # the same, never padded: 28 or 29
    Cmd.UTIL_ASSOC_REMOVE: ("8s", "B"),
    Cmd.UTIL_ASSOC_ADD: ("H8sB", "B"),
    Cmd.APP_CNF_SET_ALLOW_REJOIN_TC_POLICY: ("B", "B"),
    Cmd.APP_CNF_BDB_ADD_INSTALL_CODE: ("B8s r", "B"),
    Cmd.APP_CNF_BDB_START_COMMISSIONING: ("B", "B"),
    Cmd.APP_CNF_BDB_SET_JOIN_USES_INSTALL_CODE: ("B", "B"),
    Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY: ("B r", "B"),
    Cmd.APP_CNF_BDB_SET_CHANNEL: ("BI", "B"),
    Cmd.APP_CNF_BDB_SET_REQUIRE_KEY_EXCHANGE: ("B", "B"),
    Cmd.APP_CNF_BDB_ZED_RECOVER_NWK: ("", "B"),
}

# Asynchronous: from the host (RESET_REQ), or callbacks of the stick.
_ASYNCHRONOUS: Mapping[int, str] = {
    Cmd.SYS_RESET_REQ: "B",
    Cmd.SYS_RESET_IND: "BBBBBB",
    Cmd.AF_DATA_CONFIRM: "BBB",
    Cmd.AF_INCOMING_MSG: "HHHBBBBBIB b HB",
    # A message too large for one frame comes without its data: fetched by AF_DATA_RETRIEVE.
    Cmd.AF_INCOMING_MSG_EXT: "HHB8sBHBBBBIBH r",
    Cmd.ZDO_NWK_ADDR_RSP: "B8sHBB r",  # count and start index stand in the other order than in ZDO
    Cmd.ZDO_IEEE_ADDR_RSP: "B8sHBB r",
    Cmd.ZDO_STATE_CHANGE_IND: "B",
    Cmd.ZDO_END_DEVICE_ANNCE_IND: "HH8sB",
    Cmd.ZDO_LEAVE_IND: "H8sBBB",
    Cmd.ZDO_TC_DEV_IND: "H8sH",
    Cmd.ZDO_PERMIT_JOIN_IND: "B",
    Cmd.ZDO_MSG_CB_INCOMING: "HBHBBH r",
    Cmd.APP_CNF_BDB_NOTIFICATION: "BBB",
}

LAYOUTS: Final[Mapping[int, str]] = {
    RPC_ERROR: "BBB",  # what it complains of, and the two octets of the command
    **{cmd: request for cmd, (request, _) in _REQUESTS.items()},
    **{cmd | RESPONSE: answer for cmd, (_, answer) in _REQUESTS.items()},
    **_ASYNCHRONOUS,
}


def zdo_callback(cluster: int) -> int:
    """The callback that carries ZDO response ``cluster`` (0x8000 and up): source u16, body."""
    return 0x4580 | cluster & 0x7F


# --- frames ---------------------------------------------------------------------------------------


def checksum(octets: bytes) -> int:
    """XOR of up to 256 octets, folded in halves: ten times faster than octet by octet."""
    value = int.from_bytes(octets, "little")
    for shift in _FOLDS[len(octets)]:
        value ^= value >> shift
    return value & 0xFF


# The halves to fold, by how many octets there are.
_FOLDS = [
    [shift for shift in (1024, 512, 256, 128, 64, 32, 16, 8) if shift < 8 * size]
    for size in range(257)
]


def frame(command: int, data: bytes = b"") -> bytes:
    """A whole frame."""
    size = len(data)
    assert size <= DATA_MAX, f"{size} octets for {command:04X}"
    if size <= 3:
        return _short_frame(command, data)
    body = bytes((size, command >> 8, command & 0xFF)) + data
    return b"\xfe%b%c" % (body, checksum(body))


@functools.lru_cache(maxsize=4096)
def _short_frame(command: int, data: bytes) -> bytes:
    """Answers and confirms are most of all frames, and ever the same."""
    body = bytes((len(data), command >> 8, command & 0xFF)) + data
    return b"\xfe%b%c" % (body, checksum(body))


class Parser:
    """Cuts a stream into frames; after noise it goes on at the next start octet.

    Attributes:
        discarded: octets that belonged to no frame.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.discarded = 0

    def feed(self, octets: bytes) -> list[tuple[int, bytes]]:
        """The commands and data of the frames that are now complete."""
        if not self._rest and octets[:1] == b"\xfe" and 5 <= len(octets) == octets[1] + _OVERHEAD:
            # One whole frame, as nearly always.
            if octets[1] <= DATA_MAX and checksum(octets[1:]) == 0:
                return [(octets[2] << 8 | octets[3], octets[4:-1])]
        buffer = self._rest + octets if self._rest else octets
        found: list[tuple[int, bytes]] = []
        at, end = 0, len(buffer)
        while at < end:
            if buffer[at] != START:
                start = buffer.find(b"\xfe", at)
                start = end if start < 0 else start
                self.discarded += start - at
                at = start
                continue
            if end - at < _OVERHEAD:
                break
            size = buffer[at + 1]
            behind = at + _OVERHEAD + size
            if size <= DATA_MAX:
                if behind > end:
                    break
                if checksum(buffer[at + 1 : behind]) == 0:  # with its own checksum
                    command = buffer[at + 2] << 8 | buffer[at + 3]
                    found.append((command, buffer[at + 4 : behind - 1]))
                    at = behind
                    continue
            self.discarded += 1
            at += 1
        self._rest = buffer[at:]
        return found


# --- fields ---------------------------------------------------------------------------------------


def encode(command: int, *values: Any) -> bytes:
    """The data of ``command``, its fields in the order of its row; absent ones left out."""
    encode_fields, _ = _codec(LAYOUTS[command])
    return encode_fields(values)


def decode(command: int, data: bytes) -> tuple[Any, ...]:
    """The fields of ``command`` in the order of its row; an absent one gives no element.

    Raises:
        DecodeError: a command that is in no table, short data, or data left over.
    """
    layout = LAYOUTS.get(command)
    if layout is None:
        raise DecodeError(f"MT command {command:04X}", 0, "unknown")
    _, decode_fields = _codec(layout)
    try:
        return decode_fields(data)
    except DecodeError as error:
        raise DecodeError(f"MT command {command:04X}", error.offset, error.reason) from None


_Encode = Callable[[tuple[Any, ...]], bytes]
_Decode = Callable[[bytes], tuple[Any, ...]]
_COUNT_OF = {"b": "<B", "w": "<H", "h": "<B"}


@functools.cache
def _codec(layout: str) -> tuple[_Encode, _Decode]:
    parts = [
        (item, None if item in "bwhr" else struct.Struct("<" + item.lstrip("?")))
        for item in layout.split()
    ]

    def encode_fields(values: tuple[Any, ...]) -> bytes:
        out, at = b"", 0
        for item, fixed in parts:
            if fixed is not None:
                if item[0] == "?" and at == len(values):
                    break
                fields = values[at : at + _fields_of(item)]
                out += fixed.pack(*fields)
                at += len(fields)
                continue
            value = values[at]
            at += 1
            if item in _COUNT_OF:
                out += struct.pack(_COUNT_OF[item], len(value))
            out += struct.pack(f"<{len(value)}H", *value) if item == "h" else value
        assert at == len(values), f"{len(values)} values for {layout!r}"
        return out

    def decode_fields(data: bytes) -> tuple[Any, ...]:
        values: tuple[Any, ...] = ()
        at, end = 0, len(data)
        for item, fixed in parts:
            if fixed is not None:
                if item[0] == "?" and at == end:
                    break
                if at + fixed.size > end:
                    raise DecodeError(layout, end, f"expected {fixed.size} octets from {at}")
                values += fixed.unpack_from(data, at)
                at += fixed.size
                continue
            if item == "r":
                return (*values, data[at:])
            value, at = _read_variable(item, data, at)
            values += (value,)
        if at != end:
            raise DecodeError(layout, at, f"{end - at} octets left over")
        return values

    return encode_fields, decode_fields


def _fields_of(item: str) -> int:
    return len(re.findall(r"\d*[A-Zs]", item))


def _read_variable(item: str, data: bytes, at: int) -> tuple[Any, int]:
    head = struct.Struct(_COUNT_OF[item])
    if at + head.size > len(data):
        raise DecodeError(item, len(data), "no count")
    (count,) = head.unpack_from(data, at)
    at += head.size
    behind = at + (2 * count if item == "h" else count)
    if behind > len(data):
        raise DecodeError(item, len(data), f"count {count} does not fit")
    if item == "h":
        return struct.unpack_from(f"<{count}H", data, at), behind
    return data[at:behind], behind


# --- the two commands that carry the traffic ------------------------------------------------------


class DataRequest(NamedTuple):
    """AF_DATA_REQUEST and AF_DATA_REQUEST_EXT, as the stick sees them."""

    mode: int  # AddressMode
    destination: bytes  # 8 octets; short and group addresses in the first two
    destination_endpoint: int
    source_endpoint: int
    cluster: int
    transaction: int
    options: int
    radius: int
    payload: bytes
    announced: int = 0  # octets that AF_DATA_STORE brings afterwards, in place of a payload


class IncomingMessage(NamedTuple):
    """AF_INCOMING_MSG, as the host sees it."""

    group: int
    cluster: int
    source: int
    source_endpoint: int
    destination_endpoint: int
    broadcast: bool
    lqi: int
    secured: bool
    timestamp: int
    sequence: int
    payload: bytes
    radius: int = 30


_REQUEST = struct.Struct("<HBBHBBBB")
_REQUEST_EXT = struct.Struct("<B8sBHBHBBBH")
_INCOMING = struct.Struct("<HHHBBBBBIBB")
_INCOMING_TAIL = struct.Struct("<HB")
# Octets of payload that come up in one frame. There would be room for ten more, but the firmware
# takes the larger head of AF_INCOMING_MSG_EXT for anything that would not fit behind that.
INLINE_MAX = DATA_MAX - _INCOMING.size - _INCOMING_TAIL.size - 10
REQUEST_INLINE_MAX = DATA_MAX - _REQUEST_EXT.size  # 230 octets of payload that go down in one


def encode_data_request(request: DataRequest) -> bytes:
    """The data of AF_DATA_REQUEST_EXT; a payload that does not fit is only announced by its size.

    What was announced is brought by AF_DATA_STORE: index, part, and at last one without octets.
    """
    (mode, destination, to, from_, cluster, transaction, options, radius, payload, size) = request
    size = size or len(payload)
    head = _REQUEST_EXT.pack(
        mode, destination, to, 0, from_, cluster, transaction, options, radius, size
    )
    return head if size > REQUEST_INLINE_MAX else head + payload


def decode_data_request(command: int, data: bytes) -> DataRequest:
    """Read AF_DATA_REQUEST or AF_DATA_REQUEST_EXT.

    Raises:
        DecodeError: short, or its size does not agree with the payload; with a size that no frame
            holds there must be none.
    """
    head = _REQUEST if command == Cmd.AF_DATA_REQUEST else _REQUEST_EXT
    if len(data) < head.size:
        raise DecodeError("AF data request", len(data), f"expected at least {head.size} octets")
    if command == Cmd.AF_DATA_REQUEST:
        _, to, source, cluster, transaction, options, radius, size = head.unpack_from(data)
        mode, destination = 2, data[:2] + b"\0\0\0\0\0\0"
    else:
        (mode, destination, to, _, source, cluster, transaction, options, radius, size) = (
            head.unpack_from(data)
        )
    payload, announced = data[head.size :], 0
    if command == Cmd.AF_DATA_REQUEST_EXT and size > REQUEST_INLINE_MAX:
        announced, size = size, 0
    if len(payload) != size:
        raise DecodeError("AF data request", head.size, f"size {size}, found {len(payload)}")
    return DataRequest(
        mode, destination, to, source, cluster, transaction, options, radius, payload, announced
    )


def encode_incoming(message: IncomingMessage) -> bytes:
    """The data of AF_INCOMING_MSG; the payload has at most ``INLINE_MAX`` octets."""
    payload = message[10]
    head = _INCOMING.pack(*message[:10], len(payload))
    return head + payload + _INCOMING_TAIL.pack(message[2], message[11])


def decode_incoming(data: bytes) -> IncomingMessage:
    """Read AF_INCOMING_MSG.

    Raises:
        DecodeError: short, or its size does not agree with the payload.
    """
    if len(data) < _INCOMING.size + _INCOMING_TAIL.size:
        raise DecodeError("AF_INCOMING_MSG", len(data), "expected at least 20 octets")
    fields = _INCOMING.unpack_from(data)
    (group, cluster, source, from_, to, broadcast, lqi, secured, timestamp, sequence, size) = fields
    behind = _INCOMING.size + size
    if len(data) != behind + _INCOMING_TAIL.size:
        raise DecodeError("AF_INCOMING_MSG", _INCOMING.size, f"size {size} does not fit")
    return IncomingMessage(
        group,
        cluster,
        source,
        from_,
        to,
        broadcast != 0,
        lqi,
        secured != 0,
        timestamp,
        sequence,
        data[_INCOMING.size : behind],
        data[-1],
    )
