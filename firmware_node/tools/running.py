"""What a running daemon says of itself, as findings: radio, clock, what waits, what failed.

``findings`` reads the document of ``GET /v1/status``; it is asked for by ``doctor``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from firmware_node.tools.finding import OK, PROBLEM, WARNING, Finding

APART_MAX_S = 60  # between a daemon's clock and the machine's; a network's delay is far below
_FAILED = ("failed", "reverted")  # states; in any other a failure is past
_AFTER_FAILURE = {
    "download": "'firmware-node events' tells more; offer the image again (dcc send)",
    "verification": "the file itself is refused: 'firmware-node image verify' tells why",
    "activation": "'firmware-node banks' tells what is held; send the activation again (SR 11.3)",
    "trial": "the image did not prove itself, and the one before runs again: offer a mended one",
}
_UNDELIVERED = {
    "webhook": "is its url served? Another host than this needs the drop-in 20-network",
    "file": "may the service write there? Its sandbox lets it write to its state directory alone",
    "command": "run it by hand as the service's user, with a line of JSON on standard input",
}


def findings(status: Mapping[str, Any], now: datetime, *, on_a_pi: bool) -> Iterator[Finding]:
    """Of a device's or a hub's status; ``now`` is the machine's clock."""
    is_device = "banks" in status
    words = _device_words(status) if is_device else _hub_words(status)
    yield Finding("daemon", OK, f"{status['entity_id']} runs: {words}")
    if fault := status["radio"]["fault"]:
        path = status["radio"]["path"]
        yield Finding(
            "daemon",
            PROBLEM,
            f"it runs without its radio: {path}: {fault}",
            f"plug the stick in, it goes on by itself; else stop the daemon and ask the stick: "
            f"firmware-node radio probe {path}",
        )
    elif is_device and not status["network"]["joined"]:
        yield Finding(
            "daemon",
            WARNING,
            "it is on no network",
            "start the hub and let it admit this device ([radio] permit, joiners); a device of "
            "another network leaves that by firmware-node factory-reset",
        )
    yield from _clock(status, now)
    if is_device:
        yield from _device(status, on_a_pi=on_a_pi)


def _device_words(status: Mapping[str, Any]) -> str:
    running = status["running_bank"]
    return f"{status['state']}, version {status['banks'][running]['version']} in bank {running}"


def _hub_words(status: Mapping[str, Any]) -> str:
    return f"a hub, devices: {len(status['devices'])}, offers: {len(status['offers'])}"


def _clock(status: Mapping[str, Any], now: datetime) -> Iterator[Finding]:
    """A device has the hub's time, a hub the machine's unless it was told another."""
    if status["utc"] is None:
        if status["network"]["joined"]:
            yield Finding(
                "daemon",
                WARNING,
                "it has no time from the hub yet",
                "an activation at a time waits for it; does the hub's Time cluster answer?",
            )
        return
    apart_s = (datetime.fromisoformat(status["utc"]) - now).total_seconds()
    if abs(apart_s) > APART_MAX_S:
        yield Finding(
            "daemon",
            WARNING,
            f"its clock says {status['utc']}, this machine's {now.astimezone(UTC):%Y-%m-%dT%TZ}",
            "activation follows the hub's clock: firmware-node hub clock set TIME, or start the "
            "hub again where it runs on a machine whose clock was wrong at its start",
        )


def _device(status: Mapping[str, Any], *, on_a_pi: bool) -> Iterator[Finding]:
    if waiting := status["outbox"]:
        yield Finding(
            "daemon",
            WARNING,
            f"{waiting} of its messages wait to be sent to the hub",
            "they leave once the hub is there and its tunnel open: look at the hub's status",
        )
    for name, sink in status["notify"].items():
        if sink["failure"] is not None:
            yield Finding(
                "daemon",
                WARNING,
                f"[notify.{name}]: {sink['waiting']} notifications undelivered: {sink['failure']}",
                f"{_UNDELIVERED[sink['type']]}; what waits is delivered then, in order",
            )
    if status["gpio"]["backend"] == "memory" and on_a_pi:
        yield Finding(
            "daemon",
            WARNING,
            "it drives no pin: GPIO back end memory",
            '[gpio] backend = "auto", without --allow-memory-gpio, and start it again',
        )
    if (failure := status["last_failure"]) is not None:
        at = failure["at"] or "an unknown time"
        told = f"{failure['phase']}: {failure['cause']}, at {at}"
        if status["state"] in _FAILED:
            yield Finding(
                "daemon", WARNING, f"its update failed: {told}", _AFTER_FAILURE[failure["phase"]]
            )
        else:
            yield Finding("daemon", OK, f"its last failure is past: {told}")
