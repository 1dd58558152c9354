"""Banks on a medium that forgets: the test plays supply, disk and rot, life after life."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from home import KEYS, SETTINGS, image

from firmware_node.boundary import RatchetValues
from firmware_node.crypto import Keyring
from firmware_node.node.banks import Banks, BankView, Outcome, StartReport
from firmware_node.node.records import decode
from firmware_node.node.verification import verify_image
from firmware_node.rig.memory_storage import Medium, MemoryStorage, PowerCut
from firmware_node.terms import BankId, BankState, DeviceSettings

A, B = BankId.A, BankId.B
AREA = 32 * 1024  # bytes of a bank; holds 8 pages
FACTORY = image(1, size=5_000)
IMAGE_2 = image(2, size=6_000)
IMAGE_3 = image(3, size=9_000)
IMAGE_4 = image(4, size=4_000)
CS09 = Outcome("cs09")
FIRST_ROWS = {"counter/own": b"0"}


@dataclass(frozen=True, slots=True)
class Kept:
    """Everything that a power cut leaves."""

    records: dict[str, bytes]
    banks: dict[BankId, bytes]
    ratchet: RatchetValues | None


class BankBench:
    """One device's banks; ``start`` begins its next life, on what was made durable."""

    def __init__(
        self,
        *,
        seed: int = 0,
        settings: DeviceSettings = SETTINGS,
        factory: bytes = FACTORY,
        keyring: Keyring = KEYS,
        **numbers: object,
    ) -> None:
        activation = replace(settings.activation, **numbers)  # type: ignore[arg-type]  # the test's
        self.settings = replace(settings, activation=activation)
        self.medium = Medium(AREA, seed=seed)
        self.keyring = keyring
        self.factory = factory
        self.rotten: set[str] = set()  # durable rows whose checksum is wrong
        self.first_rows = dict(FIRST_ROWS)
        self.report: StartReport
        self._new_life()

    def _new_life(self) -> None:
        self.storage = MemoryStorage(self.medium)
        self.records = self.storage.records
        self.records.lost.update(self.rotten)
        settings, keyring = self.settings, self.keyring
        self.banks = Banks(
            self.storage, settings, lambda data: verify_image(data, settings, keyring), self.factory
        )

    # --- life -------------------------------------------------------------------------------------

    def start(self, *, commit: bool = True) -> BankBench:
        """The next life begins; what was not committed is forgotten."""
        self._new_life()
        self.report = self.banks.start(self.first_rows)
        if commit:
            self.commit()
        return self

    def commit(self) -> BankBench:
        self.storage.commit()
        self.rotten = set(self.records.lost)
        return self

    def lives(self, happen: Callable[[], object], cut_at: int) -> int:
        """Let it happen with the supply going at that call; start until one start is through.

        Returns:
            how often the supply went.
        """
        self.medium.cut_at = self.medium.calls + cut_at
        cuts = 0
        while True:
            try:
                happen()
            except PowerCut:
                cuts += 1
                self.medium.power_cycle()
                happen = self.start
            else:
                self.medium.cut_at = None
                return cuts

    # --- how banks come to where the test wants them ----------------------------------------------

    def hold(self, file: bytes = IMAGE_2) -> BankBench:
        """A verified image in the spare bank."""
        self.banks.load(file)
        return self.commit()

    def activated(self, file: bytes = IMAGE_2, outcome: Outcome = CS09) -> BankBench:
        """Activated and not started yet."""
        self.hold(file)
        self.banks.activate(outcome)
        return self.commit()

    def trial(self, file: bytes = IMAGE_2) -> BankBench:
        """Its first start on trial."""
        return self.activated(file).start()

    def confirmed(self, file: bytes = IMAGE_2) -> BankBench:
        self.trial(file).banks.confirm()
        return self.commit()

    def reverted(self, file: bytes = IMAGE_2) -> BankBench:
        self.trial(file).banks.revert("self_test")
        return self.commit()

    # --- damage ---------------------------------------------------------------------------------

    def rot(self, *keys: str) -> BankBench:
        """The checksums of these rows are wrong from the next life on."""
        assert set(keys) <= self.medium.records.keys(), keys
        self.rotten |= set(keys)
        return self

    def rot_pair(self, *keys: str) -> BankBench:
        return self.rot(*keys, *(f"{key}~" for key in keys))

    def flip(self, bank: BankId, offset: int = 3_000) -> BankBench:
        """One bit of a bank changes."""
        self.medium.banks[bank][offset] ^= 1
        return self

    # --- what is kept -----------------------------------------------------------------------------

    def kept(self) -> Kept:
        medium = self.medium
        assert not medium.pending
        banks = {bank: bytes(octets) for bank, octets in medium.banks.items()}
        return Kept(dict(medium.records), banks, medium.ratchet)

    def holds(self, bank: BankId, file: bytes) -> bool:
        """Whether the medium has the file in that bank."""
        return bytes(self.medium.banks[bank][: len(file)]) == file

    def row(self, key: str) -> dict[str, Any]:
        """A durable record, both rows of which are the same."""
        first, second = self.medium.records[key], self.medium.records[f"{key}~"]
        assert first == second and not {key, f"{key}~"} & self.rotten
        return decode(first)

    def boot(self) -> tuple[BankId, bool, int]:
        """Active bank, whether it is on trial, and the starts that were counted."""
        boot = self.row("boot")
        return BankId(boot["active"]), boot["trial"], boot["tries"]

    def states(self) -> tuple[BankState, BankState]:
        """The durable states of A and B."""
        return BankState(self.row("bank/A")["state"]), BankState(self.row("bank/B")["state"])

    def view(self, bank: BankId) -> BankView:
        return self.banks.view(bank)

    def floors(self) -> tuple[int, int]:
        """The rollback floor of record and ratchet."""
        records, ratchet = self.medium.records, self.medium.ratchet
        assert records["floor"] == records["floor~"] and ratchet is not None
        return int(records["floor"]), ratchet.rollback_floor

    def rejects(self) -> list[str]:
        stored = self.medium.records.get("rejects")
        return [] if stored is None else list(decode(stored)["digests"])

    def notes(self) -> list[str]:
        """The names of what the last start reported."""
        return [note.name for note in self.report.notes]

    def update(self, file: bytes = IMAGE_4) -> None:
        """A whole update from wherever things are; it runs and is confirmed at the end (I12)."""
        if self.banks.is_on_trial:
            self.banks.revert("given up")
            self.commit().start()
        self.confirmed(file).start()
        assert self.report.image == self.banks.view(self.banks.running).image
        assert self.report.image.file_version == self.floors()[0] == self.floors()[1]
        assert self.holds(self.banks.running, file)
        assert not self.report.trial


def every_cut(
    make: Callable[[], BankBench], happen: Callable[[BankBench], object]
) -> Iterator[BankBench]:
    """A bench for each storage call at which the supply can go while it happens, started again."""
    cut_at = 0
    while True:
        cut_at += 1
        bench = make()
        before = bench.medium.calls

        def story(bench: BankBench = bench) -> None:
            happen(bench)
            bench.commit()

        cuts = bench.lives(story, cut_at)
        if not cuts:
            assert cut_at > 1 and bench.medium.calls > before, "nothing was written"
            return
        yield bench
