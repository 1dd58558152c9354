"""``radio list``: the ports of a machine that a test has set up in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sticks import virtual_stick_on_a_pty

from firmware_node.adapters.znp.ports import (
    GUESSES,
    Machine,
    check_port,
    describe_ports,
    guess_of,
    holders_of,
    trouble_of,
)
from firmware_node.cli import main
from firmware_node.errors import ConfigError, EnvironmentFailure


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for folder in ("by-id", "proc"):
        (tmp_path / folder).mkdir()
    return Machine(by_id=tmp_path / "by-id", proc=tmp_path / "proc", may_open=os.access)


def found(device: str, usb: tuple[int, int] | None = None, product: str | None = None) -> Any:
    """As pyserial tells of a port."""
    vid, pid = usb or (None, None)
    return SimpleNamespace(
        device=device, vid=vid, pid=pid, description="n/a", manufacturer=None, product=product
    )


def put_process(machine: Machine, pid: int, name: str, *opened: str, tty_index: int = -1) -> None:
    folder = machine.proc / str(pid)
    for part in ("fd", "fdinfo"):
        (folder / part).mkdir(parents=True)
    (folder / "comm").write_text(name + "\n")
    for number, path in enumerate(opened):
        (folder / "fd" / str(number)).symlink_to(path)
        (folder / "fdinfo" / str(number)).write_text(f"pos:\t0\ntty-index:\t{tty_index}\n")


def test_a_port_is_told_with_its_lasting_name_its_guess_and_its_holder(machine: Machine) -> None:
    link = machine.by_id / "usb-Silicon_Labs_Sonoff-if00-port0"
    link.symlink_to("/dev/null")
    put_process(machine, 4711, "zigbee2mqtt", "/etc/hosts", "/dev/null")
    put_process(machine, 12, "bystander", "/etc/hosts")
    product = "Sonoff Zigbee 3.0 USB Dongle Plus"
    ports = describe_ports([found("/dev/null", (0x10C4, 0xEA60), product)], machine)
    (document,) = [port.document() for port in ports]
    assert document == {
        "device": "/dev/null",
        "by_id": str(link),
        "description": product,
        "usb_id": "10C4:EA60",
        "guess": "Sonoff ZBDongle-P (CC2652P)",
        "held_by": [{"pid": 4711, "name": "zigbee2mqtt"}],
        "holders_known": True,
        "trouble": None,
    }


def test_ports_come_in_the_order_of_their_names_and_need_no_usb(machine: Machine) -> None:
    ports = describe_ports([found("/dev/zero"), found("/dev/null")], machine)
    assert [port.device for port in ports] == ["/dev/null", "/dev/zero"]
    assert (ports[0].usb_id, ports[0].guess, ports[0].by_id) == (None, None, None)


@pytest.mark.parametrize(
    ("usb_id", "product", "says"),
    [
        ("10C4:EA60", "CP2102N USB to UART Bridge Controller", "CP210x"),
        ("10C4:EA60", "Sonoff Zigbee 3.0 USB Dongle Plus V2", "no ZNP stick"),
        ("1A86:7523", "", "CH340"),
        ("0451:BEF3", "XDS110 (03.00.00.05)", "XDS110"),
        ("0451:16A8", "", "CC2531"),
    ],
)
def test_known_sticks_are_guessed_by_their_ids(usb_id: str, product: str, says: str) -> None:
    assert says in str(guess_of(usb_id, product))


def test_every_guess_can_be_reached_and_the_rest_is_unknown() -> None:
    for guess in GUESSES:
        assert any(
            guess_of(guess.usb_id, product) == guess.text
            for product in (
                "",
                "Sonoff Zigbee 3.0 USB Dongle Plus",
                "Sonoff Zigbee 3.0 USB Dongle Plus V2",
                "slae.sh cc2652rb stick",
            )
        ), guess
    assert guess_of("1D6B:0002", "hub") is None
    assert guess_of(None, "") is None


def test_permissions_are_told_with_their_remedy(machine: Machine, tmp_path: Path) -> None:
    closed = Machine(machine.by_id, machine.proc, may_open=lambda path, mode: False)
    told = trouble_of("/dev/null", closed)
    assert told is not None and "you may not open it" in told
    assert trouble_of("/dev/null", machine) is None
    assert trouble_of(str(tmp_path / "none"), machine) == "No such file or directory"
    assert trouble_of(str(tmp_path), machine) == "it is no serial port"


def test_the_far_end_of_a_pseudo_terminal_holds_nothing(machine: Machine) -> None:
    device = "/dev/pts/987654"
    put_process(machine, 1, "stick", device, "/dev/ptmx", tty_index=987654)
    put_process(machine, 2, "terminal", device, "/dev/ptmx", tty_index=1)
    put_process(machine, 3, "host", device)
    holders, known = holders_of(device, machine)
    assert known
    assert [str(one) for one in holders] == ["terminal (process 2)", "host (process 3)"]


def test_a_process_that_has_the_port_open_is_found_and_the_stick_itself_is_not(
    tmp_path: Path,
) -> None:
    with virtual_stick_on_a_pty(tmp_path / "tty") as port:
        assert holders_of(port)[0] == ()
        check_port(port)
        script = (
            f"import os, time; os.open({port!r}, os.O_RDWR | os.O_NOCTTY); "
            "print(flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            run.stdout.readline()
            with pytest.raises(EnvironmentFailure, match=rf"in use by .* \(process {run.pid}\)"):
                check_port(port)
            run.kill()


@pytest.mark.parametrize(
    "port",
    ["", "tcp://127.0.0.1:1", "socket://host", "socket://:1", "socket://h:x", "socket://h:70000"],
)
def test_what_is_no_port_is_the_user_s_fault(port: str) -> None:
    with pytest.raises(ConfigError, match="expected a path or socket://HOST:PORT"):
        check_port(port)


def test_the_command_gives_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["radio", "list", "--json"]) == 0
    out, err = capsys.readouterr()
    for port in json.loads(out)["ports"]:
        assert {"device", "by_id", "guess", "held_by", "trouble"} <= set(port)
    assert err == ""
    assert main(["radio", "list"]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "missing"), [("list", "serial"), ("probe", "zigpy_znp"), ("selftest", "zigpy_znp")]
)
def test_without_the_extra_one_line_says_how_to_install_it(verb: str, missing: str) -> None:
    arguments = ["radio", verb] + ([] if verb == "list" else ["/dev/null"])
    script = (
        f"import sys; sys.modules[{missing!r}] = None; "
        f"from firmware_node.cli import main; sys.exit(main({arguments!r}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (3, "")
    assert run.stderr.count("\n") == 1
    assert "pip install 'firmware-node[radio]'" in run.stderr
