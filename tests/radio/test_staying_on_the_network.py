"""Joining once and for all: restarts, an absent hub, keys, leaving, sticks that are not there."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest
from han import NODE, Han, confirmed, han, until
from home import PPMID, image

from firmware_node.adapters.control_client import call
from firmware_node.crypto import aes_mmo

INSTALL_CODE = "83FED3407A939723A5C639B26916D505C3B5"  # the specification's example, with its CRC
CLOSED = "permit = false"


@pytest.fixture
def home() -> Iterator[Han]:
    with han() as made:
        made.stick("hub")
        made.stick("ppmid")
        yield made


def joined(home: Han) -> int:
    until(lambda: home.joined("ppmid"), "joins")
    address = home.joined("ppmid")
    assert address is not None
    return address


def test_after_restarts_everybody_is_where_they_were_and_nobody_joins_again(home: Han) -> None:
    home.hub()
    home.device("ppmid")
    address = joined(home)
    home.stop("hub")
    home.hub(CLOSED)
    home.stop("ppmid", signal.SIGKILL)
    home.device("ppmid")
    assert joined(home) == address
    for stick in ("ppmid", "hub"):  # with their sticks, as after a power cut
        home.stop(stick)
        home.stop(f"{stick}.stick")
    home.stick("hub")
    home.stick("ppmid")
    home.hub(CLOSED)
    home.device("ppmid")
    assert joined(home) == address
    home.offer(image(2), "ppmid")  # and the hub knows it again
    until(lambda: confirmed(home, "ppmid"), "confirms")
    assert "becomes" in home.errors("ppmid")
    assert home.errors("ppmid").count("becomes") == home.errors("hub").count("becomes") == 1


def test_a_closed_network_is_joined_by_nobody_until_it_opens(home: Han) -> None:
    home.hub(CLOSED)
    home.device("ppmid")
    until(lambda: "waits" in str(home.status("ppmid")), "waits")
    assert home.joined("ppmid") is None
    home.stop("hub")
    home.hub()
    joined(home)


def test_a_device_waits_for_a_hub_that_is_away(home: Han) -> None:
    home.hub()
    home.device("ppmid")
    address = joined(home)
    home.stop("hub")
    home.stop("hub.stick")
    home.stop("ppmid")
    home.device("ppmid")
    home.stick("hub")
    home.hub(CLOSED)
    home.offer(image(2), "ppmid")
    until(lambda: confirmed(home, "ppmid"), "confirms")
    assert home.joined("ppmid") == address


@pytest.mark.parametrize("way", ["install_code", "link_key"])
def test_only_who_has_the_key_that_the_hub_knows_gets_in(home: Han, way: str) -> None:
    key = aes_mmo(bytes.fromhex(INSTALL_CODE)).hex()
    known = {"install_code": INSTALL_CODE, "link_key": key}
    home.hub(
        "require_install_code = true\naps_security = true\n"
        f'[[radio.joiners]]\nentity_id = "{PPMID}"\n{way} = "{known[way]}"\n'
    )
    wrong = aes_mmo(b"another").hex()
    home.device("ppmid", f'link_key = "{wrong}"')
    until(lambda: "waits" in str(home.status("ppmid")), "waits")
    assert home.joined("ppmid") is None
    home.stop("ppmid")
    home.device("ppmid", f'install_code = "{INSTALL_CODE}"\naps_security = true')
    joined(home)
    home.offer(image(2, size=4000), "ppmid")  # every frame of it under the link key
    until(lambda: confirmed(home, "ppmid"), "confirms")


def test_a_factory_reset_leaves_the_network(home: Han) -> None:
    home.hub()
    home.device("ppmid")
    joined(home)
    home.stop("hub")
    home.hub(CLOSED)
    list(call(home.root / "ppmid", "POST", "/v1/factory-reset"))
    until(lambda: home.errors("ppmid").count("ready") == 2, "starts again")
    until(lambda: home.status("ppmid"), "answers")
    assert home.joined("ppmid") is None
    home.stop("hub")
    home.hub()
    joined(home)


def test_a_stick_of_another_role_becomes_ours(home: Han) -> None:
    home.hub()
    home.device("ppmid", 'role = "router"')
    joined(home)
    home.stop("ppmid")
    home.device("ppmid", 'role = "end-device"')
    joined(home)
    assert "becomes end-device" in home.errors("ppmid")


def test_a_missing_radio_is_told_at_once(home: Han) -> None:
    home.stop("ppmid.stick")
    home.device("ppmid", ready=False)
    assert home.processes["ppmid"].wait(60) == 3
    assert home.errors("ppmid") == (
        f"firmware-node: {home.root}/ppmid.tty: there is no such port\n"
    )
    assert not (home.root / "ppmid").exists()  # the control socket


def test_a_port_without_a_stick_is_told_in_words(home: Han) -> None:
    quiet = subprocess.Popen(
        [*NODE[:1], "-c", _ECHOES_NOTHING, str(home.root / "quiet.tty")], stdout=subprocess.PIPE
    )
    try:
        assert quiet.stdout is not None
        quiet.stdout.readline()
        (home.root / "ppmid.tty").unlink()
        (home.root / "ppmid.tty").symlink_to(home.root / "quiet.tty")
        home.device("ppmid", ready=False)
        assert home.processes["ppmid"].wait(60) == 3
        assert "no ZNP stick answers there" in home.errors("ppmid")
    finally:
        quiet.kill()
        quiet.wait()
        quiet.stdout.close()  # type: ignore[union-attr]


def test_a_stick_that_stays_away_ends_the_daemon_and_not_before(home: Han) -> None:
    home.hub()
    home.device("ppmid", "give_up_s = 2")
    joined(home)
    home.stop("ppmid.stick")
    until(lambda: home.joined("ppmid") is None, "notices")
    status = home.status("ppmid")
    assert status is not None
    assert status["radio"]["fault"] is not None
    assert home.processes["ppmid"].wait(60) == 3
    assert "gone for" in home.errors("ppmid").splitlines()[-1]


_ECHOES_NOTHING = """
import os, sys, time, tty
master, slave = os.openpty()
tty.setraw(slave)
os.symlink(os.ttyname(slave), sys.argv[1])
print("ready", flush=True)
time.sleep(1000)
"""
