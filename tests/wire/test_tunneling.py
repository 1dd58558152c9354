"""The Tunneling cluster, held against frames written out by hand from its field list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, assert_flips_raise_nothing_else, refused

from firmware_node.errors import DecodeError
from firmware_node.wire import tunneling
from firmware_node.wire.tunneling import (
    FlowControl,
    RequestTunnel,
    RequestTunnelResponse,
    SupportedProtocols,
    TransferData,
    TransferDataError,
)

U8, U16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)

# zigpy knows this cluster by name only, so the octets are spelt out (gbcs.md 5), little-endian.
WRITTEN_OUT: list[tuple[str, Any, str]] = [
    ("request_tunnel", RequestTunnel(6, 0xFFFF, False, 1500), "06 ffff 00 dc05"),
    ("request_tunnel", RequestTunnel(6, 0x121D, True, 1), "06 1d12 01 0100"),
    ("request_tunnel_response", RequestTunnelResponse(1, 0, 1500), "0100 00 dc05"),
    ("request_tunnel_response", RequestTunnelResponse(0xFFFF, 2, 0), "ffff 02 0000"),
    ("tunnel_id", 0x0102, "0201"),
    ("transfer_data", TransferData(0x0102, b"\xdd\x00"), "0201 dd00"),
    ("transfer_data", TransferData(0x0102, b""), "0201"),
    ("transfer_data_error", TransferDataError(0x0102, 0), "0201 00"),
    ("flow_control", FlowControl(0x0102, 1500), "0201 dc05"),
    ("supported_protocols", SupportedProtocols(True, ()), "01 00"),
    (
        "supported_protocols",
        SupportedProtocols(False, ((0xFFFF, 6), (0x121D, 200))),
        "00 02 ffff 06 1d12 c8",
    ),
]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "request_tunnel": st.builds(RequestTunnel, U8, U16, st.booleans(), U16),
    "request_tunnel_response": st.builds(RequestTunnelResponse, U16, U8, U16),
    "tunnel_id": U16,
    "transfer_data": st.builds(TransferData, U16, st.binary(max_size=1500)),
    "transfer_data_error": st.builds(TransferDataError, U16, U8),
    "flow_control": st.builds(FlowControl, U16, U16),
    "supported_protocols": st.builds(
        SupportedProtocols,
        st.booleans(),
        st.lists(st.tuples(U16, U8), max_size=255).map(tuple),
    ),
}


def codec(name: str) -> tuple[Callable[[Any], bytes], Callable[[bytes], object]]:
    return getattr(tunneling, f"encode_{name}"), getattr(tunneling, f"decode_{name}")


@pytest.mark.parametrize(("name", "value", "octets"), WRITTEN_OUT)
def test_command_is_written_as_its_field_list_says(name: str, value: Any, octets: str) -> None:
    encode, decode = codec(name)
    assert encode(value) == bytes.fromhex(octets)
    assert decode(bytes.fromhex(octets)) == value


@pytest.mark.parametrize("name", VALUES)
def test_every_value_comes_back(name: str) -> None:
    encode, decode = codec(name)

    @given(VALUES[name])
    def come_back(value: Any) -> None:
        assert decode(encode(value)) == value

    come_back()


@pytest.mark.parametrize(("name", "value", "octets"), WRITTEN_OUT)
def test_cut_command_is_refused_at_every_length(name: str, value: Any, octets: str) -> None:
    whole = bytes.fromhex(octets)
    # The data of a TransferData has no length of its own: any is whole behind the tunnel id.
    whole_at = range(2, len(whole)) if name == "transfer_data" else ()
    assert_cuts_are_refused(codec(name)[1], whole, whole_at)


@pytest.mark.parametrize(
    ("name", "octets"), [row[::2] for row in WRITTEN_OUT if row[0] != "transfer_data"]
)
def test_octet_more_is_refused(name: str, octets: str) -> None:
    assert refused(codec(name)[1], bytes.fromhex(octets) + b"\0")


@pytest.mark.parametrize(("name", "value", "octets"), WRITTEN_OUT)
def test_flipped_command_raises_nothing_else(name: str, value: Any, octets: str) -> None:
    assert_flips_raise_nothing_else(codec(name)[1], bytes.fromhex(octets))


@pytest.mark.parametrize("name", VALUES)
def test_any_octets_are_a_command_or_a_decode_error(name: str) -> None:
    encode, decode = codec(name)

    @given(st.binary(max_size=40))
    def read(octets: bytes) -> None:
        if not refused(decode, octets):
            assert encode(decode(octets)) == octets

    read()


def test_flow_control_that_is_no_boolean_is_refused() -> None:
    with pytest.raises(DecodeError, match="no boolean"):
        tunneling.decode_request_tunnel(bytes.fromhex("06 ffff 02 dc05"))


def test_command_ids_differ_by_direction() -> None:
    to_server = (
        tunneling.TO_SERVER_REQUEST_TUNNEL,
        tunneling.TO_SERVER_CLOSE_TUNNEL,
        tunneling.TO_SERVER_TRANSFER_DATA,
        tunneling.TO_SERVER_TRANSFER_DATA_ERROR,
        tunneling.TO_SERVER_ACK_TRANSFER_DATA,
        tunneling.TO_SERVER_READY_DATA,
        tunneling.TO_SERVER_GET_SUPPORTED_PROTOCOLS,
    )
    to_client = (
        tunneling.TO_CLIENT_REQUEST_TUNNEL_RESPONSE,
        tunneling.TO_CLIENT_TRANSFER_DATA,
        tunneling.TO_CLIENT_TRANSFER_DATA_ERROR,
        tunneling.TO_CLIENT_ACK_TRANSFER_DATA,
        tunneling.TO_CLIENT_READY_DATA,
        tunneling.TO_CLIENT_SUPPORTED_PROTOCOLS,
        tunneling.TO_CLIENT_TUNNEL_CLOSURE,
    )
    assert to_server == to_client == tuple(range(7))
    assert tunneling.CLUSTER == 0x0704
