"""SYS, NV and UTIL commands of the virtual stick, and what it does with what it does not know."""

from __future__ import annotations

import pytest
from room import END_DEVICE, FORMATION, STEERING, Room

from firmware_node.virtual.nv import Item, Table
from firmware_node.virtual.stick import Fault, StickSettings
from firmware_node.wire import mt
from firmware_node.wire.mt import Cmd

NEW_ITEM = 0x0301


def test_a_stick_says_what_it_is_when_it_is_plugged_in_and_when_asked() -> None:
    host = Room().stick()
    assert host.heard(Cmd.SYS_RESET_IND) == [(0, 2, 1, 2, 7, 1)]
    assert host.ask(Cmd.SYS_PING) == 0x0659
    assert host.ask(Cmd.SYS_VERSION)[:6] == (2, 1, 2, 7, 1, 20230507)
    assert host.ask(Cmd.SYS_GET_EXT_ADDR) == host.ieee


@pytest.mark.parametrize(("product", "find", "key", "nib"), [(1, 36, 24, 116), (2, 28, 21, 110)])
def test_hosts_tell_the_products_apart_by_three_sizes(
    product: int, find: int, key: int, nib: int
) -> None:
    host = Room().stick(product=product)
    host.commission(FORMATION)
    assert len(host.ask(Cmd.UTIL_ASSOC_FIND_DEVICE, 0)) == find
    assert host.ask(Cmd.SYS_OSAL_NV_LENGTH, Item.NWKKEY) == key
    assert host.ask(Cmd.SYS_OSAL_NV_LENGTH, Item.NIB) == nib


def test_product_2_refuses_extended_nv_commands_without_counting_them_as_unknown() -> None:
    host = Room().stick(product=2)
    host.send(Cmd.SYS_NV_LENGTH, 1, 4, 0)
    assert host.answers() == [(mt.RPC_ERROR, bytes((mt.Rpc.COMMAND, 0x21, 0x32)))]
    assert host.counters["unknown_commands"] == 0
    assert Room().stick(product=1).ask(Cmd.SYS_NV_LENGTH, 1, 4, 0) == 20


def test_an_item_is_created_written_in_parts_read_in_parts_and_deleted() -> None:
    host = Room().stick()
    value = bytes(range(256)) + bytes(44)
    assert host.ask(Cmd.SYS_OSAL_NV_LENGTH, NEW_ITEM) == 0
    assert host.ask(Cmd.SYS_OSAL_NV_READ, NEW_ITEM, 0) == (0x02, b"")
    assert host.ask(Cmd.SYS_OSAL_NV_WRITE, NEW_ITEM, 0, b"x") == 0x02
    assert host.ask(Cmd.SYS_OSAL_NV_ITEM_INIT, NEW_ITEM, 300, value[:240]) == 0x09
    assert host.ask(Cmd.SYS_OSAL_NV_ITEM_INIT, NEW_ITEM, 300, b"") == 0x00
    for offset in range(0, 300, 244):
        part = value[offset : offset + 244]
        assert host.ask(Cmd.SYS_OSAL_NV_WRITE_EXT, NEW_ITEM, offset, part) == 0
    assert host.ask(Cmd.SYS_OSAL_NV_WRITE_EXT, NEW_ITEM, 299, b"too long") == 0x0C
    read = b""
    while len(read) < 300:
        status, part = host.ask(Cmd.SYS_OSAL_NV_READ_EXT, NEW_ITEM, len(read))
        assert status == 0
        read += part
    assert read == value
    assert host.ask(Cmd.SYS_OSAL_NV_DELETE, NEW_ITEM, 299) == 0x0C
    assert host.ask(Cmd.SYS_OSAL_NV_DELETE, NEW_ITEM, 300) == 0
    assert host.ask(Cmd.SYS_OSAL_NV_DELETE, NEW_ITEM, 300) == 0x09
    assert host.nv.item(NEW_ITEM) is None


def test_a_table_row_is_created_written_read_and_deleted() -> None:
    host = Room().stick()
    row = (1, Table.ADDRMGR, 200)
    assert host.ask(Cmd.SYS_NV_LENGTH, *row) == 0
    assert host.ask(Cmd.SYS_NV_READ, *row, 0, 12) == (0x02, b"")
    assert host.ask(Cmd.SYS_NV_CREATE, *row, 12) == 0x09
    assert host.ask(Cmd.SYS_NV_WRITE, *row, 4, b"12345678") == 0
    assert host.ask(Cmd.SYS_NV_WRITE, *row, 5, b"12345678") == 0x0C
    assert host.ask(Cmd.SYS_NV_READ, *row, 2, 12) == (0, b"\xff\xff12345678")
    assert host.ask(Cmd.SYS_NV_DELETE, *row) == 0
    assert host.ask(Cmd.SYS_NV_DELETE, *row) == 0x09


def test_the_old_poll_rate_has_no_size_and_is_readable() -> None:
    host = Room().stick()
    assert host.ask(Cmd.SYS_OSAL_NV_LENGTH, Item.POLL_RATE_OLD16) == 0
    assert host.ask(Cmd.SYS_OSAL_NV_READ, Item.POLL_RATE_OLD16, 0) == (0, b"\xb8\x0b")


def test_an_unknown_command_is_an_rpc_error_and_is_counted() -> None:
    host = Room().stick()
    host.send_octets(mt.frame(0x21FE))
    host.send_octets(mt.frame(0x2B01))
    assert host.answers() == [
        (mt.RPC_ERROR, bytes((mt.Rpc.COMMAND, 0x21, 0xFE))),
        (mt.RPC_ERROR, bytes((mt.Rpc.SUBSYSTEM, 0x2B, 0x01))),
    ]
    host.send_octets(mt.frame(0x41FE))  # an asynchronous one gets no answer
    assert host.answers() == []
    assert host.counters["unknown_commands"] == 3
    assert host.counters["unknown_command_2B01"] == 1


def test_a_command_of_the_wrong_length_is_an_rpc_error_and_changes_nothing() -> None:
    host = Room().stick()
    before = dict(host.nv.values())
    for command in mt.LAYOUTS:
        if command >> 12 == 2 and mt.LAYOUTS[command]:
            host.send_octets(mt.frame(command, b"\x01"))
    kinds = {data[0] for command, data in host.answers() if command == mt.RPC_ERROR}
    assert kinds == {mt.Rpc.LENGTH}
    assert host.counters["malformed_commands"] > 40
    assert host.counters["unknown_commands"] == 0
    assert host.nv.values() == before


def test_every_command_of_the_tables_is_known() -> None:
    host = Room().stick()
    for command in mt.LAYOUTS:
        if command >> 12 == 2:
            host.send_octets(mt.frame(command, bytes(64)))
    assert host.counters["unknown_commands"] == 0


def test_noise_and_bootloader_skip_octets_are_ignored() -> None:
    host = Room().stick()
    host.send_octets(256 * b"\xef" + mt.frame(Cmd.SYS_PING) + b"\xfe")
    assert host.answers() == [(0x6101, b"\x59\x06")]


def test_a_reset_loses_endpoints_and_registrations_and_keeps_memory() -> None:
    room = Room()
    host = room.coordinator()
    host.ask(Cmd.ZDO_MSG_CB_REGISTER, 0xFFFF)
    host.set_item(Item.PANID, b"\x34\x12")
    host.reset()
    assert host.heard(Cmd.SYS_RESET_IND)[-1] == (1, 2, 1, 2, 7, 1)
    assert host.nv.item(Item.PANID) == b"\x34\x12"
    assert host.ask(Cmd.UTIL_GET_DEVICE_INFO)[4] == 0
    host.register(1, 0x0109, 0, 0, 0, (), ())  # 0xB8 if it were still there
    host.commission(FORMATION)
    host.told.clear()
    host.ask(Cmd.ZDO_ACTIVE_EP_REQ, 0x0000, 0x0000)
    assert host.heard(Cmd.ZDO_MSG_CB_INCOMING) == []


def test_a_command_that_comes_while_the_chip_boots_is_answered_afterwards() -> None:
    room = Room()
    host = room.stick()
    host.send(Cmd.SYS_RESET_REQ, 1)
    host.send(Cmd.SYS_PING)
    assert host.answers() == []
    room.run(30_000)
    assert host.answers() == [(0x6101, b"\x59\x06")]


def test_an_end_device_told_to_form_finds_no_network() -> None:
    host = Room().stick(END_DEVICE)
    host.commission(FORMATION)
    assert host.notes == [(2, 2, 0)]
    assert host.nv.nib is None


def test_a_coordinator_told_to_steer_without_a_network_finds_none() -> None:
    host = Room().stick()
    host.commission(STEERING)
    assert host.notes == [(2, 2, 0)]


def test_ext_nwk_info_has_24_octets_and_tells_the_network() -> None:
    host = Room().coordinator()
    host.send(Cmd.ZDO_EXT_NWK_INFO)
    ((_, data),) = host.answers()
    assert len(data) == 24
    nib = host.nv.nib
    assert nib is not None
    fields = mt.decode(Cmd.ZDO_EXT_NWK_INFO | mt.RESPONSE, data)
    assert fields == (0, 9, nib.pan, 0, nib.extended_pan, bytes(8), 15)


def test_faults_strike_at_the_data_request_they_name_and_only_there() -> None:
    faults = (Fault.parse("no-srsp:2"), Fault.parse("buffer-full:3"), Fault.parse("reset-at:5"))
    room = Room()
    host = room.coordinator(settings=StickSettings(faults=faults))
    request = (2, bytes(8), 1, 0, 1, 0x19, 7, 0, 30, b"to ourselves")
    answers = []
    for _ in range(5):
        host.send(Cmd.AF_DATA_REQUEST_EXT, *request)
        answers.append([data for _, data in host.answers()])
    assert answers == [[b"\x00"], [], [b"\x11"], [b"\x00"], []]
    room.run(30_000)
    assert host.heard(Cmd.SYS_RESET_IND)[-1][0] == 2  # by the watchdog
    assert len(host.messages) == 2
    for kind in ("no-srsp", "buffer-full", "reset-at"):
        assert host.counters[f"fault_{kind}"] == 1


def test_a_stick_that_vanishes_says_for_how_long() -> None:
    host = Room().coordinator(settings=StickSettings(faults=(Fault.parse("vanish-at:1:250"),)))
    host.send(Cmd.AF_DATA_REQUEST_EXT, 2, bytes(8), 1, 0, 1, 0x19, 7, 0, 30, b"x")
    assert host.answers() == []
    assert host.stick.away_us == 250_000
