"""``radio probe`` of virtual sticks in their own processes, of wrong ones, and of what is none."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sticks import (
    Change,
    always,
    at,
    run_beside,
    run_command,
    virtual_stick,
    virtual_stick_on_a_pty,
    wrong_stick,
)

from firmware_node.adapters.znp.host import Host
from firmware_node.adapters.znp.probe import probe
from firmware_node.errors import EnvironmentFailure
from firmware_node.wire import mt
from firmware_node.wire.mt import Cmd

IEEE = "00-12-4B-00-01-02-03-04"
READS_ONLY = {
    *(Cmd.SYS_PING, Cmd.SYS_VERSION, Cmd.SYS_GET_EXT_ADDR, Cmd.UTIL_GET_DEVICE_INFO),
    *(Cmd.UTIL_ASSOC_FIND_DEVICE, Cmd.SYS_NV_LENGTH, Cmd.SYS_OSAL_NV_LENGTH),
    *(Cmd.SYS_OSAL_NV_READ_EXT, Cmd.ZDO_EXT_NWK_INFO, Cmd.ZDO_GET_LINK_KEY),
    *(Cmd.AF_DATA_RETRIEVE, Cmd.ZDO_NODE_DESC_REQ, 0x2781),
}


@pytest.fixture(scope="module")
def port() -> Iterator[str]:
    with virtual_stick("--ieee", IEEE) as name:
        yield name


@pytest.fixture(scope="module")
def leader() -> Iterator[str]:
    """A stick that leads a network."""
    with virtual_stick("--ieee", IEEE) as name:
        asyncio.run(form(name))
        yield name


async def form(port: str) -> None:
    host = Host(port)
    await host.open()
    await host.ask(Cmd.APP_CNF_BDB_SET_CHANNEL, 1, 1 << 20)
    await host.ask(Cmd.APP_CNF_BDB_START_COMMISSIONING, 4)
    await host.until(Cmd.ZDO_STATE_CHANGE_IND, 10, lambda fields: fields[0] == 9)
    await host.disconnect()


def probed(port: str, **wrong: Any) -> dict[str, Any]:
    """Through a relay that is wrong in some way."""

    async def story() -> dict[str, Any]:
        async with wrong_stick(port) as relay:
            for name, value in wrong.items():
                setattr(relay, name, value)
            document = await probe(relay.port)
            assert set(relay.heard) <= READS_ONLY
            return document

    return asyncio.run(story())


def test_a_blank_stick_on_a_pty_is_told_whole(tmp_path: Path) -> None:
    with virtual_stick_on_a_pty(tmp_path / "tty", "--ieee", IEEE) as port:
        run = run_command("radio", "probe", port, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    document = json.loads(run.stdout)
    assert document == {
        "port": port,
        "result": "ok",
        "firmware": {
            "stack": "Z-Stack 3.x.0",
            "product": 1,
            "transport": 2,
            "version": "2.7.1",
            "revision": 20230507,
            "bootloader": None,
        },
        "capabilities": {
            "mask": "0659",
            "names": ["SYS", "AF", "ZDO", "UTIL", "GP", "APP_CNF"],
        },
        "entity_id": IEEE,
        "nv_alignment": "aligned",
        "role": "coordinator",
        "state": "initialized",
        "network": None,
        "roles": {"coordinator": True, "router": True, "end-device": True},
        "keys": {
            "join_by_install_code": "likely",
            "admit_by_install_code": "likely",
            "set_link_key": "likely",
            "link_key_rows": 16,
            "key_establishment_in_stick": "no",
        },
        "payload": {
            "mt_request_max": 240,
            "mt_request_ext_max": 230,
            "mt_incoming_max": mt.INLINE_MAX,
            "messages_in_parts": True,
            "buffer_max": None,
            "transfer_in_max": None,
            "transfer_out_max": None,
        },
        "problems": [],
    }


@pytest.mark.long
def test_a_stick_of_product_2_is_packed(tmp_path: Path) -> None:
    with virtual_stick_on_a_pty(tmp_path / "tty", "--product", "2") as port:
        document = probed_directly(port)
    assert document["firmware"]["stack"] == "Z-Stack 3.0.x"
    assert (document["nv_alignment"], document["firmware"]["product"]) == ("packed", 2)
    assert document["keys"]["link_key_rows"] == 16


def probed_directly(port: str) -> dict[str, Any]:
    return asyncio.run(probe(port))


def test_a_running_network_is_told_and_goes_on(leader: str) -> None:
    for _ in range(2):
        document = probed(leader)
        network = document["network"]
        assert (network["channel"], network["short_address"]) == (20, "0000")
        assert network["running"]
        assert len(network["pan_id"]) == 4 and len(network["extended_pan_id"]) == 16
        assert (document["role"], document["state"]) == ("coordinator", "coordinator")
        payload = document["payload"]
        assert (payload["buffer_max"], payload["transfer_in_max"]) == (80, 160)


def test_where_the_network_information_has_another_size_the_stored_network_is_told(
    leader: str,
) -> None:
    longer: Change = lambda data: data + b"\x00\x00\x00"  # noqa: E731
    told = probed(leader, changes={0x6550: longer})["network"]
    assert told == {
        key: value for key, value in probed(leader)["network"].items() if key != "parent"
    }


def test_a_stored_network_that_does_not_run_is_told_as_such(tmp_path: Path) -> None:
    nv = tmp_path / "nv"
    with virtual_stick("--nv", nv) as port:
        asyncio.run(form(port))
    with virtual_stick("--nv", nv) as port:
        network = probed(port)["network"]
    assert (network["channel"], network["running"]) == (20, False)


@pytest.mark.parametrize(
    ("wrong", "result", "says"),
    [
        ({"changes": {0x6101: always(b"\x59\x02")}}, "unfit", "Z-Stack 1.2"),
        ({"changes": {0x6700: at(11, 1)}}, "unfit", "coordinator-only"),
        ({"changes": {0x6700: at(11, 3)}}, "ok", 'role = "router"'),
        ({"changes": {0x6102: at(1, 0)}}, "ok", "product 0"),
        ({"changes": {0x6749: always(bytes(30))}}, "ok", "laid out"),
        ({"refuses": {0x2749}}, "ok", "laid out"),
        ({"refuses": {0x2525}}, "ok", "no link keys"),
        ({"refuses": {0x2412}}, "ok", "no messages in parts"),
    ],
)
def test_what_is_wrong_with_a_stick_is_told(
    port: str, wrong: dict[str, Any], result: str, says: str
) -> None:
    document = probed(port, **wrong)
    assert document["result"] == result
    assert any(says in problem for problem in document["problems"]), document["problems"]


def test_an_old_smart_energy_build_is_seen_by_its_key_establishment(port: str) -> None:
    document = probed(port, pretends={0x2781: b"\x00"})
    assert document["keys"]["key_establishment_in_stick"] == "yes"


@pytest.mark.parametrize(
    "wrong",
    [
        {"silent": {Cmd.SYS_VERSION}},
        {"refuses": {Cmd.UTIL_GET_DEVICE_INFO}},
        {"changes": {0x6102: always(b"\x02")}},
    ],
)
def test_a_stick_that_does_not_say_who_it_is_is_the_environment_s_fault(
    port: str, wrong: dict[str, Any]
) -> None:
    with pytest.raises(EnvironmentFailure, match=r"socket://127\.0\.0\.1:\d+: "):
        probed(port, **wrong)


def test_an_unfit_stick_is_a_no_and_told_to_people(port: str) -> None:
    async def story() -> tuple[int | None, str, str]:
        async with wrong_stick(port) as relay:
            relay.changes[0x6700] = at(11, 1)
            return await run_beside("radio", "probe", relay.port)

    code, out, _ = asyncio.run(story())
    assert code == 1
    assert "problem        coordinator-only firmware" in out
    assert IEEE in out


# --- what is no stick -----------------------------------------------------------------------------


def told_in_one_line(port: str) -> str:
    """The complaint."""
    run = run_command("radio", "probe", port)
    assert (run.returncode, run.stdout) == (3, "")
    assert run.stderr.count("\n") == 1 and run.stderr.startswith("firmware-node: "), run.stderr
    assert port in run.stderr
    return run.stderr


def test_a_port_where_nothing_answers_is_no_stick() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    assert "nothing there answers" in told_in_one_line(os.ttyname(slave))
    os.close(slave)
    os.close(master)


@pytest.mark.long
def test_a_port_that_talks_something_else_is_no_stick() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                line.sendall(b"HTTP/1.1 400 Bad Request\r\n\xfe\x01\x61\x01\x00\x00" * 3)

        threading.Thread(target=babble, daemon=True).start()
        assert "no ZNP stick" in told_in_one_line(f"socket://127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)


def test_a_port_that_closes_at_once_is_no_stick() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def slam() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=slam, daemon=True).start()
        told_in_one_line(f"socket://127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)


def test_ports_that_cannot_be_opened_are_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    assert "Connection refused" in told_in_one_line(f"socket://127.0.0.1:{free}")
    assert "No such file or directory" in told_in_one_line(str(tmp_path / "none"))
    assert "it is no serial port" in told_in_one_line(str(tmp_path))


def test_a_port_that_another_process_has_is_left_alone(tmp_path: Path) -> None:
    with virtual_stick_on_a_pty(tmp_path / "tty") as port:
        fd = os.open(port, os.O_RDWR | os.O_NOCTTY)
        assert f"(process {os.getpid()})" in told_in_one_line(port)
        os.close(fd)
        assert probed_directly(port)["result"] == "ok"


def test_a_wrong_word_for_a_port_is_the_user_s_fault() -> None:
    run = run_command("radio", "probe", "tcp://127.0.0.1:1")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1 and "socket://HOST:PORT" in run.stderr
