"""The MT codec: frames and resynchronising, every command against zigpy-znp's definitions."""

from __future__ import annotations

import random
import re
import struct
from functools import reduce
from operator import xor
from typing import Any

import pytest
import zigpy_znp.commands as c
import zigpy_znp.frames as f
import zigpy_znp.types as t
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, assert_flips_raise_nothing_else

from firmware_node.errors import DecodeError
from firmware_node.wire import mt

# What a third party calls each command, by its two octets.
PEER: dict[int, Any] = {
    kind.header.cmd0 << 8 | kind.header.id: kind
    for subsystem in (c.SYS, c.ZDO, c.AF, c.UTIL, c.AppConfig, c.RPCError)
    for definition in subsystem
    for kind in (getattr(definition, name, None) for name in ("Req", "Rsp", "Callback"))
    if kind is not None
}
# Its definition of the answer lacks a field that real sticks send (zigbee-znp.md 3.3).
PEER_IS_WRONG = {mt.Cmd.ZDO_EXT_NWK_INFO | mt.RESPONSE}
# Its definition takes apart what the table keeps as octets, or holds fewer values than octets can.
VALUES: dict[int, tuple[Any, ...]] = {
    mt.RPC_ERROR: (2, 0x21, 0x77),
    mt.Cmd.SYS_RESET_IND: (1, 2, 1, 2, 7, 1),
    mt.Cmd.AF_DATA_REQUEST_EXT: (2, bytes(8), 1, 0, 1, 0x0019, 7, 0x10, 30, b"payload"),
    mt.Cmd.AF_INCOMING_MSG_EXT: (
        *(0, 0x19, 2, b"\x01\x02" + bytes(6), 1, 2, 3, 0, 255, 0, 99, 5, 3),
        b"abc" + b"\x01\x02" + b"\x1e",  # with the MAC source and the radius behind
    ),
    mt.Cmd.ZDO_BIND_REQ: (1, bytes(range(8)), 1, 0x0019, 3, bytes(range(8, 16)), 1),
    mt.Cmd.ZDO_UNBIND_REQ: (1, bytes(range(8)), 1, 0x0019, 3, bytes(range(8, 16)), 1),
    mt.Cmd.ZDO_NWK_ADDR_RSP: (0, bytes(range(8)), 0x1234, 2, 0, b"\x01\x02\x03\x04"),
    mt.Cmd.ZDO_IEEE_ADDR_RSP: (0, bytes(range(8)), 0x1234, 2, 0, b"\x01\x02\x03\x04"),
    mt.Cmd.UTIL_ASSOC_GET_WITH_ADDRESS | mt.RESPONSE: (bytes(range(29)),),
    mt.Cmd.ZDO_EXT_ADD_GROUP: (1, 0x0B84, b"lamps"),
    mt.Cmd.UTIL_GET_DEVICE_INFO | mt.RESPONSE: (0, bytes(range(8)), 0, 7, 9, (1, 2, 3)),
    mt.Cmd.ZDO_MGMT_NWK_UPDATE_REQ: (0, 2, 0x07FFF800, 5, 1, 0),
    mt.Cmd.SYS_STACK_TUNE: (1, 1),
    mt.Cmd.UTIL_LED_CONTROL: (3, 1),
    mt.Cmd.UTIL_ASSOC_ADD: (1, bytes(8), 1),
    mt.Cmd.UTIL_ASSOC_COUNT: (1, 2),
    mt.Cmd.APP_CNF_BDB_ADD_INSTALL_CODE: (1, bytes(range(8)), bytes(range(18))),
    mt.Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY: (1, bytes(range(18))),
    mt.Cmd.AF_REGISTER: (1, 0x0109, 0x0502, 1, 0, (0x0019, 0x0704), (0x000A,)),
    mt.Cmd.ZDO_EXT_FIND_GROUP | mt.RESPONSE: (b"\x01\x84\x0b\x00",),
}


def values_for(command: int, rng: random.Random) -> tuple[Any, ...]:
    """Random fields of ``command``, optional ones too."""
    if command in VALUES:
        return VALUES[command]
    values: list[Any] = []
    for token in mt.LAYOUTS[command].split():
        if token in "bwr":
            values.append(rng.randbytes(rng.randrange(1, 40)))
        elif token == "h":
            values.append(tuple(rng.randrange(0x10000) for _ in range(rng.randrange(5))))
        else:
            for code in re.findall(r"\d*[A-Zs]", token):
                # Octets stay small: most are flags and enumerations.
                size = struct.calcsize("<" + code)
                if code.endswith("s"):
                    values.append(rng.randbytes(size))
                else:
                    values.append(rng.randrange(2) if size == 1 else rng.randrange(1 << 8 * size))
    return tuple(values)


@pytest.mark.parametrize("command", sorted(mt.LAYOUTS), ids=lambda command: f"{command:04X}")
def test_every_command_reads_the_same_in_zigpy_znp_and_comes_back(command: int) -> None:
    if command in PEER_IS_WRONG:
        assert len(mt.encode(command, *values_for(command, random.Random(1)))) == 24
        return
    kind = PEER[command]
    for seed in range(20):
        values = values_for(command, random.Random(seed))
        data = mt.encode(command, *values)
        wire = mt.frame(command, data)
        theirs, rest = f.TransportFrame.deserialize(wire)
        assert rest == b""
        understood = kind.from_frame(theirs.payload)
        assert f.TransportFrame(understood.to_frame()).serialize() == wire
        assert mt.decode(command, data) == values


def test_fields_mean_the_same_to_zigpy_znp() -> None:
    request = c.AF.DataRequestExt.Req(
        DstAddrModeAddress=t.AddrModeAddress(mode=t.AddrMode.NWK, address=0xABCD),
        DstEndpoint=7,
        DstPanId=0,
        SrcEndpoint=3,
        ClusterId=0x0019,
        TSN=0x42,
        Options=c.af.TransmitOptions.ACK_REQUEST | c.af.TransmitOptions.ENABLE_SECURITY,
        Radius=30,
        Data=t.LongBytes(b"block"),
    )
    ours = mt.decode_data_request(0x2402, request.to_frame().data)
    assert ours == mt.DataRequest(
        mt.AddressMode.SHORT,
        b"\xcd\xab" + bytes(6),
        7,
        3,
        0x0019,
        0x42,
        mt.Option.APS_ACK | mt.Option.APS_SECURITY,
        30,
        b"block",
    )
    short = c.AF.DataRequest.Req(
        DstAddr=0xABCD,
        DstEndpoint=7,
        SrcEndpoint=3,
        ClusterId=0x0019,
        TSN=0x42,
        Options=request.Options,
        Radius=30,
        Data=t.ShortBytes(b"block"),
    )
    assert mt.decode_data_request(0x2401, short.to_frame().data) == ours


@given(size=st.integers(0, 0xFFFF))
def test_a_request_is_announced_by_its_size_where_no_frame_holds_it(size: int) -> None:
    fields = (mt.AddressMode.SHORT, b"\xcd\xab" + bytes(6), 7, 3, 0x0019, 0x42, 0, 30)
    data = mt.encode_data_request(mt.DataRequest(*fields, bytes(size)))
    fits = size <= mt.REQUEST_INLINE_MAX
    assert len(data) == 20 + fits * size <= mt.DATA_MAX
    read = mt.decode_data_request(0x2402, data)
    assert read == mt.DataRequest(*fields, bytes(size * fits), 0 if fits else size)
    assert mt.encode_data_request(read) == data
    if not fits:
        with pytest.raises(DecodeError):
            mt.decode_data_request(0x2402, data + b"x")


@given(payload=st.binary(max_size=mt.INLINE_MAX), secured=st.booleans())
def test_an_incoming_message_reads_the_same_in_zigpy_znp(payload: bytes, secured: bool) -> None:
    ours = mt.IncomingMessage(0, 0x19, 0x1234, 2, 1, False, 200, secured, 77, 9, payload)
    data = mt.encode_incoming(ours)
    theirs = c.AF.IncomingMsg.Callback.from_frame(
        f.TransportFrame.deserialize(mt.frame(mt.Cmd.AF_INCOMING_MSG, data))[0].payload
    )
    assert (theirs.SrcAddr, theirs.Data, theirs.SecurityUse) == (0x1234, payload, secured)
    assert mt.decode_incoming(data) == ours
    assert mt.decode(mt.Cmd.AF_INCOMING_MSG, data)[10] == payload


def test_statuses_and_states_carry_the_values_of_zigpy_znp() -> None:
    shared = [status for status in mt.Status if status.name in t.Status.__members__]
    assert len(shared) >= 10
    assert all(t.Status[status.name] == status for status in shared)
    assert [int(state) for state in mt.DeviceState] == [int(state) for state in t.DeviceState][:11]
    for bit in mt.Capability:
        name = "GP" if bit is mt.Capability.GP else bit.name
        assert t.MTCapabilities[name] == bit


def test_the_commands_that_carry_data_refuse_cuts_and_survive_flips() -> None:
    values = VALUES[mt.Cmd.AF_DATA_REQUEST_EXT]
    request = mt.encode(mt.Cmd.AF_DATA_REQUEST_EXT, *values)
    incoming = mt.encode_incoming(
        mt.IncomingMessage(0, 0x19, 0x1234, 2, 1, False, 200, False, 77, 9, b"payload")
    )
    decode_request = lambda data: mt.decode_data_request(0x2402, data)  # noqa: E731
    for decode, octets in ((decode_request, request), (mt.decode_incoming, incoming)):
        assert_cuts_are_refused(decode, octets)
        assert_flips_raise_nothing_else(decode, octets)


@pytest.mark.parametrize("command", sorted(mt.LAYOUTS), ids=lambda command: f"{command:04X}")
def test_a_cut_command_is_refused_and_a_flipped_one_raises_nothing_else(command: int) -> None:
    layout = mt.LAYOUTS[command]
    octets = mt.encode(command, *values_for(command, random.Random(3)))

    def decode(data: bytes) -> object:
        return mt.decode(command, data)

    assert_flips_raise_nothing_else(decode, octets)
    if "r" not in layout and "?" not in layout:  # those have whole ones that are shorter
        assert_cuts_are_refused(decode, octets)


def test_a_command_in_no_table_is_refused() -> None:
    with pytest.raises(DecodeError, match="21FF"):
        mt.decode(0x21FF, b"")


@given(st.binary(max_size=256))
def test_the_checksum_is_the_xor_of_all_octets(octets: bytes) -> None:
    assert mt.checksum(octets) == reduce(xor, octets, 0)


@given(
    commands=st.lists(
        st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=mt.DATA_MAX)), max_size=6
    ),
    cuts=st.lists(st.integers(0, 400)),
)
def test_a_stream_in_any_pieces_gives_the_same_frames(
    commands: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(mt.frame(command, data) for command, data in commands)
    parser, found, at = mt.Parser(), [], 0
    for size in (*cuts, len(stream)):
        found += parser.feed(stream[at : at + size])
        at += size
    assert found == commands
    assert parser.discarded == 0


def test_after_noise_and_a_bad_checksum_the_parser_goes_on_at_the_next_frame() -> None:
    good = mt.frame(mt.Cmd.SYS_PING)
    bad = mt.frame(mt.Cmd.SYS_VERSION)[:-1] + b"\x00"
    parser = mt.Parser()
    found = parser.feed(256 * b"\xef" + good + bad + good + b"\xfe\xfb" + good)
    assert found == [(0x2101, b"")] * 3
    assert parser.discarded == 256 + len(bad) + 2


def test_a_frame_inside_a_cut_one_is_found() -> None:
    good = mt.frame(mt.Cmd.SYS_PING)
    cut = mt.frame(mt.Cmd.AF_DATA_REQUEST, bytes(40))[:20]
    parser = mt.Parser()
    assert parser.feed(cut + good) == []  # still waiting for the rest of the first
    assert parser.feed(bytes(40)) == [(0x2101, b"")]
    assert parser.feed(good) == [(0x2101, b"")]


def test_a_flipped_bit_never_gives_the_frame_it_was() -> None:
    whole = mt.frame(mt.Cmd.AF_DATA_CONFIRM, b"\x00\x01\x42")
    for at in range(len(whole)):
        for bit in range(8):
            spoilt = bytearray(whole)
            spoilt[at] ^= 1 << bit
            parser = mt.Parser()
            assert (0x4480, b"\x00\x01\x42") not in parser.feed(bytes(spoilt))
            follow = [parser.feed(mt.frame(mt.Cmd.SYS_PING)) for _ in range(60)]
            assert any((0x2101, b"") in found for found in follow)
