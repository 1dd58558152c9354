"""802.15.4, network and APS frames: round trips, cuts, flips, and octets written by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, assert_flips_raise_nothing_else, refused

from firmware_node.errors import DecodeError
from firmware_node.wire import aps, mac, nwk

IEEE, OTHER = bytes(range(8)), bytes(range(8, 16))
U8, U16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)
ADDRESS = st.one_of(st.none(), U16, st.binary(min_size=8, max_size=8))


@given(sequence=U8, pan=U16, to=U16, source=U16, payload=st.binary(max_size=116), ack=st.booleans())
def test_a_data_frame_comes_back(
    sequence: int, pan: int, to: int, source: int, payload: bytes, ack: bool
) -> None:
    octets = mac.encode_data(sequence, pan, to, source, payload, ack=ack)
    expected = mac.MacFrame(mac.DATA, ack, sequence, pan, to, source, payload)
    assert mac.decode(octets) == expected
    assert mac.encode(expected) == octets


@given(kind=st.sampled_from([mac.BEACON, mac.COMMAND]), pan=U16, to=ADDRESS, source=ADDRESS)
def test_every_combination_of_addresses_comes_back(
    kind: int, pan: int, to: int | bytes | None, source: int | bytes | None
) -> None:
    without = to is None and source is None
    frame = mac.MacFrame(kind, False, 1, 0xFFFF if without else pan, to, source, b"\x04")
    assert mac.decode(mac.encode(frame)) == frame


def test_mac_frames_are_the_octets_of_the_standard() -> None:
    assert mac.encode_data(7, 0x1A62, 0x0000, 0x1234, b"x", ack=True) == bytes.fromhex(
        "6188 07 621a 0000 3412 78"
    )
    beacon_request = mac.MacFrame(mac.COMMAND, False, 1, 0xFFFF, 0xFFFF, None, b"\x07")
    assert mac.encode(beacon_request) == bytes.fromhex("0308 01 ffff ffff 07")
    associate = mac.MacFrame(mac.COMMAND, True, 2, 0x1A62, 0x0000, IEEE, b"\x01\x8e")
    assert mac.encode(associate) == bytes.fromhex("23c8 02 621a 0000 ffff") + IEEE + b"\x01\x8e"
    poll = mac.MacFrame(mac.COMMAND, True, 3, 0x1A62, 0x0000, 0x1234, b"\x04")
    assert mac.encode(poll) == bytes.fromhex("6388 03 621a 0000 3412 04")
    assert mac.encode_ack(9) == bytes.fromhex("0200 09")


@given(permits=st.booleans(), coordinator=st.booleans(), depth=st.integers(0, 15), update=U8)
def test_a_beacon_comes_back(permits: bool, coordinator: bool, depth: int, update: int) -> None:
    beacon = mac.Beacon(permits, coordinator, depth, IEEE, update)
    assert mac.decode_beacon(mac.encode_beacon(beacon)) == beacon


@given(
    kind=st.sampled_from([nwk.DATA, nwk.COMMAND]),
    to=U16,
    source=U16,
    radius=U8,
    secured=st.booleans(),
    to_ieee=st.sampled_from([None, IEEE]),
    source_ieee=st.sampled_from([None, OTHER]),
)
def test_a_network_header_comes_back(
    kind: int,
    to: int,
    source: int,
    radius: int,
    secured: bool,
    to_ieee: bytes | None,
    source_ieee: bytes | None,
) -> None:
    header = nwk.Header(kind, to, source, radius, 9, secured, to_ieee, source_ieee)
    octets = nwk.encode_header(header)
    assert nwk.decode_header(octets + b"rest") == (header, len(octets))


@given(
    delivery=st.sampled_from([aps.UNICAST, aps.BROADCAST, aps.GROUP]),
    flags=st.sampled_from([0, aps.SECURED, aps.ACK_REQUEST, aps.SECURED | aps.ACK_REQUEST]),
    endpoint=U8,
    group=U16,
    fragment=st.sampled_from([0, aps.FIRST_FRAGMENT, aps.LATER_FRAGMENT]),
    block=U8,
    kind=st.sampled_from([aps.DATA, aps.ACK]),
)
def test_an_aps_header_comes_back(
    delivery: int, flags: int, endpoint: int, group: int, fragment: int, block: int, kind: int
) -> None:
    to = group if delivery == aps.GROUP else endpoint
    bits = 0x0F if kind == aps.ACK and fragment else 0
    header = aps.Header(
        kind, delivery, flags, to, 0x0019, 0x0109, 1, 200, fragment, block if fragment else 0, bits
    )
    octets = aps.encode_header(header)
    assert aps.decode_header(octets + b"rest") == (header, len(octets))


def test_headers_are_the_octets_of_the_specification() -> None:
    header = nwk.Header(nwk.DATA, 0x0000, 0x1234, 30, 5, secured=True)
    assert nwk.encode_header(header) == bytes.fromhex("0802 0000 3412 1e 05")
    data = aps.Header(aps.DATA, aps.UNICAST, aps.ACK_REQUEST, 1, 0x0019, 0x0109, 2, 7)
    assert aps.encode_header(data) == bytes.fromhex("40 01 1900 0901 02 07")
    first = data._replace(fragment=aps.FIRST_FRAGMENT, block=3)
    assert aps.encode_header(first) == bytes.fromhex("c0 01 1900 0901 02 07 01 03")


COMMANDS: list[tuple[Callable[[bytes], object], bytes, object]] = [
    (
        nwk.decode_leave,
        nwk.encode_leave(nwk.Leave(True, False, True)),
        nwk.Leave(True, False, True),
    ),
    (nwk.decode_rejoin_response, nwk.encode_rejoin_response(0x1234, 2), (0x1234, 2)),
    (
        aps.decode_transport_key,
        aps.encode_transport_key(aps.TransportKey(bytes(range(16)), 1, IEEE, OTHER)),
        aps.TransportKey(bytes(range(16)), 1, IEEE, OTHER),
    ),
    (
        aps.decode_transport_link_key,
        aps.encode_transport_link_key(aps.TransportLinkKey(bytes(range(16)), IEEE, OTHER)),
        aps.TransportLinkKey(bytes(range(16)), IEEE, OTHER),
    ),
    (
        aps.decode_verify_key,
        aps.encode_verify_key(aps.VerifyKey(IEEE, bytes(range(16)))),
        aps.VerifyKey(IEEE, bytes(range(16))),
    ),
    (
        aps.decode_confirm_key,
        aps.encode_confirm_key(aps.ConfirmKey(aps.SECURITY_FAILURE, IEEE)),
        aps.ConfirmKey(aps.SECURITY_FAILURE, IEEE),
    ),
    (
        aps.decode_update_device,
        aps.encode_update_device(aps.UpdateDevice(IEEE, 0x1234, 1)),
        aps.UpdateDevice(IEEE, 0x1234, 1),
    ),
]


@pytest.mark.parametrize(("decode", "octets", "value"), COMMANDS)
def test_commands_come_back_and_cuts_of_them_are_refused(
    decode: Callable[[bytes], object], octets: bytes, value: object
) -> None:
    assert decode(octets) == value
    assert_cuts_are_refused(decode, octets)
    assert_flips_raise_nothing_else(decode, octets)
    assert refused(decode, octets + b"\0")


def test_a_tunnel_comes_back() -> None:
    octets = aps.encode_tunnel(IEEE, b"\x21\x01rest")
    assert aps.decode_tunnel(octets) == (IEEE, b"\x21\x01rest")
    assert refused(aps.decode_tunnel, octets[:9])


@pytest.mark.parametrize(
    ("decode", "octets"),
    [
        (mac.decode, mac.encode(mac.MacFrame(mac.COMMAND, True, 1, 1, IEEE, OTHER, b""))),
        (nwk.decode_header, nwk.encode_header(nwk.Header(0, 1, 2, 3, 4, True, IEEE, OTHER))),
        (aps.decode_header, aps.encode_header(aps.Header(0, 3, 0, 1, 2, 3, 4, 5, 1, 2))),
        (mac.decode_beacon, mac.encode_beacon(mac.Beacon(True, True, 0, IEEE, 0))),
    ],
)
def test_cut_headers_are_refused_and_flipped_ones_raise_nothing_else(
    decode: Callable[[bytes], object], octets: bytes
) -> None:
    assert_cuts_are_refused(decode, octets)
    assert_flips_raise_nothing_else(decode, octets)


def test_forms_that_are_not_read_are_refused_by_name() -> None:
    for octets, name in (
        (bytes.fromhex("0908 01 ffff ffff 07"), "secured"),  # MAC security
        (bytes.fromhex("0304 01 ffff ffff 07"), "reserved"),  # address mode 1
    ):
        with pytest.raises(DecodeError, match=name):
            mac.decode(octets)
    for octets in (bytes.fromhex("0803 0000 3412 1e 05"), bytes.fromhex("0406 0000 3412 1e 05")):
        with pytest.raises(DecodeError, match="not read"):
            nwk.decode_header(octets)
    with pytest.raises(DecodeError, match="not read"):
        aps.decode_header(bytes.fromhex("10 01 1900 0901 02 07"))
    standard = aps.encode_transport_key(aps.TransportKey(bytes(16), 0, IEEE, OTHER))
    with pytest.raises(DecodeError, match="key type"):
        aps.decode_transport_key(standard[:1] + b"\x04" + standard[2:])
    link = aps.encode_transport_link_key(aps.TransportLinkKey(bytes(16), IEEE, OTHER))
    assert (link[:2], aps.encode_request_key()) == (b"\x05\x04", b"\x08\x04")
    for decode in (aps.decode_transport_link_key, aps.decode_verify_key):
        size = len(link) if decode is aps.decode_transport_link_key else 26
        with pytest.raises(DecodeError, match="key type"):
            decode(b"\x05\x03" + bytes(size - 2))
    with pytest.raises(DecodeError, match="key type"):
        aps.decode_confirm_key(b"\x10\x00\x01" + IEEE)
