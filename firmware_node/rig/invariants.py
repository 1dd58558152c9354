"""Holds a device to the invariants of dual-bank.md 1: its records, its banks, its words.

``Invariants.check`` is called after every event and looks at what is kept; ``heard`` is called
with every message that reached the hub. A broken invariant is an ``AssertionError`` that begins
with its number. What cannot be seen from outside (I11 to I13) is left to convergence: the swarm
ends with every fault off and the upgrade done.

``WatchedDevice`` is a device on a ``Medium`` with these invariants around it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from firmware_node.boundary import Machine, Records, Storage
from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError, RecordLostError, RefusedError
from firmware_node.node.assembly import Trailer
from firmware_node.node.device import Device
from firmware_node.node.records import decode
from firmware_node.node.verification import VerifiedImage, verify_image
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.rig.world import SeededEntropy
from firmware_node.terms import BankId, BankState, DeviceSettings, EntityId, ImageKey, Role
from firmware_node.wire.firmware_messages import CS09_ACTIVATION_ALERT
from firmware_node.wire.gbcs import Cra, decode_message
from firmware_node.wire.ota_file import HEADER_SIZE_MAX, decode_ota_header


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look at the storage found."""

    active: BankId
    trial: bool
    tries: int
    has_outcome: bool
    states: dict[BankId, BankState]
    running_sha256: bytes  # of the whole image area


class Invariants:
    """See the module; one for the whole life of a device, over all its restarts.

    ``verify`` is the device's own door; ``file_of`` gives the file that a server offers under an
    image key, or None when its octets may have been spoilt on their way. The running bank's octets
    are looked at in every ``bank_every``-th check: what was written stays written.
    """

    def __init__(
        self,
        entity_id: EntityId,
        settings: DeviceSettings,
        verify: Callable[[bytes], VerifiedImage],
        file_of: Callable[[ImageKey], bytes | None] = lambda _: None,
        *,
        bank_every: int = 1,
    ) -> None:
        self._entity_id = entity_id
        self._settings = settings
        self._verify = verify
        self._file_of = file_of
        self._bank_every = bank_every
        self._last: _Seen | None = None
        self._verified: set[bytes] = set()
        self._trailers: tuple[bytes, bytes] = (b"", b"")
        self._rising: dict[str, int] = {}
        self._answers: dict[tuple[EntityId, int], bytes] = {}
        self._alerts: dict[int, bytes] = {}
        self._heard: set[bytes] = set()
        self._outbox: dict[str, bytes] = {}
        self.checks = 0
        self.outcomes = 0  # trials that ended

    # --- what is kept -----------------------------------------------------------------------------

    def check(self, storage: Storage) -> None:
        """Look at the storage of the present life; before it is provisioned, at nothing."""
        boot = _row(storage.records, "boot")
        if boot is None:
            return
        self.checks += 1
        fields = decode(boot)
        active = BankId(fields["active"])
        seen = _Seen(
            active,
            bool(fields["trial"]),
            int(fields["tries"]),
            fields["outcome"] is not None,
            {bank: _state(storage.records, bank) for bank in BankId},
            self._digest_of(storage, active),
        )
        self._check_running(storage, seen)
        self._check_moves(storage, seen)
        self._check_resume_point(storage, active.other)
        self._check_one_way(storage, active)
        self._check_outbox(storage.records)
        self._last = seen

    def _digest_of(self, storage: Storage, active: BankId) -> bytes:
        last = self._last
        if last is not None and last.active is active and self.checks % self._bank_every:
            return last.running_sha256
        area = storage.bank(active)
        return hashlib.sha256(area.read(0, area.size)).digest()

    def _check_running(self, storage: Storage, seen: _Seen) -> None:
        """I1: the active bank verifies. I2: it is not written."""
        last = self._last
        if last is not None and last.active is seen.active:
            assert seen.running_sha256 == last.running_sha256, (
                f"I2: bank {seen.active.value} was written while it was active"
            )
        if seen.running_sha256 in self._verified:
            return
        area = storage.bank(seen.active)
        try:
            size = decode_ota_header(area.read(0, HEADER_SIZE_MAX)).total_image_size
            assert size <= area.size, f"I1: bank {seen.active.value} holds no whole image"
            self._verify(area.read(0, size))
        except (DecodeError, RefusedError) as error:
            raise AssertionError(f"I1: bank {seen.active.value}: {error}") from error
        self._verified.add(seen.running_sha256)

    def _check_moves(self, storage: Storage, seen: _Seen) -> None:
        """I3, I10: which moves there are. I8: the end of a trial has its message."""
        limit = self._settings.activation.trial_starts_max
        assert seen.tries <= limit, f"I10: {seen.tries} starts on trial, {limit} are permitted"
        last = self._last
        if last is None:
            return
        if seen.active is not last.active:
            if seen.trial:
                state = last.states[seen.active]
                assert state is BankState.VERIFIED, f"I3: activated from {state.value}"
            else:
                assert last.trial, "I10: a confirmed image was left"
                state = seen.states[last.active]
                assert state is BankState.REJECTED, f"I3: reverted and {state.value}"
        elif seen.trial:
            assert last.trial, "I3: a confirmed image is on trial again"
            assert seen.tries >= last.tries, "I10: starts on trial went down"
        if last.trial and not seen.trial:
            self.outcomes += 1
            waiting = storage.records.keys("outbox/")
            assert waiting or not last.has_outcome, "I8: a trial ended and no message tells of it"
            if seen.active is last.active:
                state = seen.states[seen.active]
                assert state is BankState.CONFIRMED, f"I3: confirmed and {state.value}"

    def _check_resume_point(self, storage: Storage, spare: BankId) -> None:
        """I4: what a trailer vouches for are the first octets of the file on offer."""
        session = _row(storage.records, "session")
        area = storage.bank(spare)
        raw = (area.read_trailer(0), area.read_trailer(1))
        if session is None or raw == self._trailers:
            return
        self._trailers = raw
        fields = decode(session)
        file = self._file_of(ImageKey(*fields["image"]))
        for octets in raw:
            trailer = Trailer.decode(octets)
            if trailer is None or trailer.session.hex() != fields["id"] or file is None:
                continue
            held = area.read(0, trailer.size)
            if hashlib.sha256(held).digest() == trailer.sha256:
                assert held == file[: trailer.size], (
                    f"I4: the first {trailer.size} bytes are not those of the file"
                )

    def _check_one_way(self, storage: Storage, active: BankId) -> None:
        """I5, I6, I7: ceilings, received counters and the floor never go down."""
        records = storage.records
        try:
            ratchet = storage.ratchet.read()
        except RecordLostError as lost:
            raise AssertionError(f"I7: {lost}") from lost
        floor = int(_row(records, "floor") or 0)
        assert ratchet.rollback_floor <= floor, (
            "I7: the ratchet's floor rose before the record's: a confirmation may be lost"
        )
        self._rises("I5: counter ceiling", int(_row(records, "counter/own") or 0))
        self._rises("I5: counter ceiling of the ratchet", ratchet.counter_ceiling)
        self._rises("I7: floor of the ratchet", ratchet.rollback_floor)
        self._rises("I7: floor", floor)
        for role in Role:
            key = f"counter/received/{role.value:03d}"
            self._rises(f"I6: received counter of {role.name}", int(_row(records, key) or 0))
        view = _view(records, active)
        if view is not None and view["image"] is not None:
            version = ImageKey(*view["image"]).file_version
            assert version >= floor, f"I7: version {version:08x} runs, the floor is {floor:08x}"

    def _check_outbox(self, records: Records) -> None:
        """I9: only what was heard leaves the outbox, and only its head."""
        now = {key: octets for key in records.keys("outbox/") if (octets := records.get(key))}
        gone = [key for key in sorted(self._outbox) if self._outbox[key] != now.get(key)]
        for key in gone:
            assert self._outbox[key] in self._heard, f"I9: {key} was dropped before it was heard"
        assert gone == sorted(self._outbox)[: len(gone)], f"I9: {gone} left out of turn"
        self._outbox = now

    def _rises(self, name: str, value: int) -> None:
        last = self._rising.get(name, 0)
        assert value >= last, f"{name} went from {last} to {value}"
        self._rising[name] = value

    # --- what is said -----------------------------------------------------------------------------

    def heard(self, octets: bytes) -> None:
        """A message reached the hub. I5: its counter was reserved. I6, I9: repeats are the same."""
        message = decode_message(octets)
        header = message.header
        if header.originator != self._entity_id:
            return
        self._heard.add(octets)
        if header.cra is Cra.RESPONSE:
            answer = self._answers.setdefault((header.recipient, header.originator_counter), octets)
            assert answer == octets, f"I6: counter {header.originator_counter} answered twice"
            return
        counter = header.originator_counter
        ceiling = max(
            self._rising.get("I5: counter ceiling", 0),
            self._rising.get("I5: counter ceiling of the ratchet", 0),
        )
        assert counter < ceiling, f"I5: counter {counter} left, the ceiling is {ceiling}"
        if counter not in self._alerts:
            highest = max(self._alerts, default=-1)
            assert counter > highest, f"I9: alert {counter} came behind {highest}"
        first = self._alerts.setdefault(counter, octets)
        assert first == octets, f"I9: alert {counter} was repeated with other octets"

    def alerts(self, message_code: int = CS09_ACTIVATION_ALERT) -> list[bytes]:
        """The different alerts that were heard of this code, in the order of their counters."""
        return [
            octets
            for _, octets in sorted(self._alerts.items())
            if decode_message(octets).header.message_code == message_code
        ]


class WatchedDevice:
    """A device on a medium that survives power cuts, with every invariant watched."""

    def __init__(
        self,
        settings: DeviceSettings,
        keyring: Keyring,
        *,
        factory_image: bytes,
        ota_file: bytes,
        bank_size: int,
        seed: int = 0,
        is_spoilt: bool = False,
    ) -> None:
        self.settings = settings
        self.entity_id = settings.entity_id
        self.ota_file = ota_file
        self.medium = Medium(bank_size, seed=seed)
        self._keyring = keyring
        self._factory_image = factory_image
        self._seed = seed
        self._lives = 0
        self._storage: MemoryStorage | None = None
        offered = decode_ota_header(ota_file).image
        self.invariants = Invariants(
            settings.entity_id,
            settings,
            lambda data: verify_image(data, settings, keyring),
            lambda image: ota_file if image == offered and not is_spoilt else None,
            bank_every=16,
        )

    def make(self) -> tuple[Machine, Storage]:
        """A new life on what the medium kept."""
        self._lives += 1
        self._storage = MemoryStorage(self.medium)
        device = Device(
            self.settings,
            self._storage,
            self._keyring,
            SeededEntropy(1000 * self._seed + self._lives),
            factory_image=self._factory_image,
        )
        return device, self._storage

    def cut_after(self, calls: int) -> None:
        """The supply goes at the storage call that comes as the ``calls``-th from now."""
        self.medium.cut_at = self.medium.calls + calls

    def power_cycle(self) -> None:
        """The supply went: what was not synced is kept, lost or torn."""
        self.medium.power_cycle()

    def check(self) -> None:
        """Every invariant, now."""
        if self._storage is not None:
            self.invariants.check(self._storage)

    def heard(self, message: bytes) -> None:
        """A message reached the hub."""
        self.invariants.heard(message)

    def is_done(self) -> bool:
        """The offered image runs, is confirmed, and the alert about it was heard."""
        records = MemoryStorage(self.medium).records
        boot = _row(records, "boot")
        if boot is None or not self.invariants.alerts():
            return False
        fields = decode(boot)
        view = _view(records, BankId(fields["active"]))
        offered = decode_ota_header(self.ota_file).image
        return not fields["trial"] and view is not None and view["image"] == list(offered)


def _row(records: Records, key: str) -> bytes | None:
    """A row that is kept twice, without mending it: reading must not change what is watched."""
    for name in (key, key + "~"):
        try:
            value = records.get(name)
        except RecordLostError:
            continue
        if value is not None:
            return value
    return None


def _view(records: Records, bank: BankId) -> dict[str, Any] | None:
    row = _row(records, f"bank/{bank.value}")
    return None if row is None else decode(row)


def _state(records: Records, bank: BankId) -> BankState:
    view = _view(records, bank)
    return BankState.EMPTY if view is None else BankState(view["state"])
