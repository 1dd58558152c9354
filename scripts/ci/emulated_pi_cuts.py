"""Power cuts: the machine is killed at ten moments of two updates, and its card goes on.

Each time it boots again from the card as it was left, must run an image that is known and whole,
and go on with the update, which in the end is done. What the emulated machine had written is on
the card, what it had not is lost; a card that loses what it had acknowledged is not emulated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from emulated_pi_home import Home
from emulated_pi_machine import Machine
from proof import expect, wait

# Of each image: shares of the download at which power goes, and seconds after its activation.
PLAN = (("good", "00000002", (5, 30, 55, 80, 97), (1.0,)), ("newer", "00000008", (50, 90), (4, 15)))
WHOLE = ("confirmed", "trial")  # states of a bank that may run


class Cuts:
    """``boot`` gives a machine whose device is ready, ``status`` what that device says."""

    def __init__(
        self,
        home: Home,
        boot: Callable[[], Machine],
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self._home = home
        self._boot = boot
        self._status = status

    def run(self) -> Iterator[str]:
        """A line for each cut, and one for the end."""
        machine = self._boot()
        status = self._status()
        known = {status["banks"]["A"]["version"]: status["banks"]["A"]["sha256"]}
        count = 0
        for name, version, shares, delays in PLAN:
            known[version] = self._home.sha256(name)
            update = self._home.begin(name)
            for share in shares:
                update.wait_for(share)
                expect(not update.ended, f"the download of {name} ended before {share} %")
                machine = self._cut(machine)
                count += 1
                yield f"cut {count}, {update.share} % of {name}: {self._found(known)}"
            update.wait_for_end()
            for delay_s in delays:
                if self._running() != version:
                    self._home.activate(name, wait_for_it=False)
                time.sleep(delay_s)
                machine = self._cut(machine)
                count += 1
                yield f"cut {count}, {delay_s} s after {name} was activated: {self._found(known)}"
            if self._running() != version:
                self._home.activate(name)
            self._wait_until_confirmed(version)
            outside = self._home.read_version()
            expect(outside == version, f"outside it is {outside}")
            yield f"{name} runs, confirmed; outside: {outside}"

    def _cut(self, machine: Machine) -> Machine:
        machine.cut_power()
        return self._boot()

    def _found(self, known: dict[str, str]) -> str:
        """What runs after a boot, which must be an image that is known, whole."""
        status = self._status()
        bank = status["banks"][status["running_bank"]]
        expect(bank["state"] in WHOLE, f"what runs is {bank}")
        expect(known.get(bank["version"]) == bank["sha256"], f"what runs is {bank}, of {known}")
        others = [each for name, each in status["banks"].items() if name != status["running_bank"]]
        return (
            f"runs {bank['version']} ({bank['state']}), the other bank is {others[0]['state']}, "
            f"download at {status['upgrade']['file_offset']}"
        )

    def _running(self) -> str:
        status = self._status()
        return str(status["banks"][status["running_bank"]]["version"])

    def _wait_until_confirmed(self, version: str) -> None:
        def is_confirmed() -> bool:
            status = self._status()
            bank = status["banks"][status["running_bank"]] if status else {}
            return (bank.get("state"), bank.get("version")) == ("confirmed", version)

        wait(is_confirmed, f"{version} is confirmed", 120)
