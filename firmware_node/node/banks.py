"""Which image runs: the boot record, the two banks, trial, confirm, revert.

Invariants I1 to I3, I7 and I10 of dual-bank.md live here. Ordering rules:

1. The running bank's bytes are never written: everything that writes takes ``spare``. While the
   running image is on trial ``spare`` is the way back and is not written either.
2. ``boot`` changes only in ``activate`` and ``revert`` and, when a bank fails its check at start,
   in ``start``; an activation verifies the bank again right before.
3. The start counter rises only in trial, before the image starts; a confirmed image is never left
   by counting.
4. The rollback floor rises at confirmation, record first, ratchet after the commit.
5. A start provisions only where there is no row at all: provisioning is one commit, so anything
   less than everything is a loss, and a loss is mended from the banks, never by starting over.

An ``Outcome`` stored by ``activate`` comes back from ``confirm`` or ``revert``: it says which
message tells of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from firmware_node.boundary import PAGE_SIZE, Notify, RatchetValues, Storage
from firmware_node.errors import (
    DecodeError,
    RecordLostError,
    RefusedError,
    StorageError,
    StorageFullError,
)
from firmware_node.node.records import decode, encode, get_twice, put_twice
from firmware_node.node.verification import VerifiedImage, manufacturer_sha256
from firmware_node.terms import BankId, BankState, DeviceSettings, EntityId, ImageKey
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.ota_file import HEADER_SIZE_MAX, decode_ota_header
from firmware_node.wire.zcl import Status

REJECTS_MAX = 16  # digests; the oldest is forgotten
_MARKER = "marker"
_LOST = "lost"
_FLOOR = "floor"
_BOOT = "boot"
_REJECTS = "rejects"
_KEY_MISSING = ("manufacturer_key_missing", "supplier_key_missing")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Which message will tell of an activation: ``cs09``, or what ``cs06`` is answered with."""

    kind: str
    command: str = ""  # hex; the whole CS06 command


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which image a CS06 command means, and whose word it is (gbcs-supplement 2.1)."""

    manufacturer_sha256: bytes
    supplier: EntityId


@dataclass(frozen=True, slots=True)
class BankView:
    """What a bank's record says."""

    state: BankState
    image: ImageKey | None = None
    size: int = 0  # bytes of the OTA file
    fingerprint: str = ""  # hex, of the OTA file
    manufacturer_sha256: str = ""  # hex
    supplier: str = ""  # hex; the entity id of who signed its tail

    @property
    def version_hex(self) -> str | None:
        """The file version; None for an empty bank."""
        return None if self.image is None else self.image.version_hex

    @property
    def sha256_hex(self) -> str | None:
        """The hash of the manufacturer image; None while there is none."""
        return self.manufacturer_sha256 or None


@dataclass(frozen=True, slots=True)
class StartReport:
    """What start-up found and did."""

    running: BankId
    image: ImageKey
    manifest: Manifest | None
    trial: bool
    reverted: bool = False
    outcome: Outcome | None = None  # of the activation that was reverted
    cause: str = ""
    notes: tuple[Notify, ...] = ()


@dataclass(slots=True)
class _Boot:
    active: BankId
    trial: bool = False
    tries: int = 0
    outcome: Outcome | None = None


@dataclass(slots=True)
class _Notes:
    items: list[Notify] = field(default_factory=list)

    def add(self, name: str, **fields: str | int | None) -> None:
        self.items.append(Notify(name, fields))


class Banks:
    """See the module; ``verify`` is the one door of ``verification``."""

    def __init__(
        self,
        storage: Storage,
        settings: DeviceSettings,
        verify: Callable[[bytes], VerifiedImage],
        factory_image: bytes,
    ) -> None:
        self._storage = storage
        self._records = storage.records
        self._settings = settings
        self._verify = verify
        self._factory_image = factory_image
        self._boot = _Boot(BankId.A)
        self._image = ImageKey(settings.manufacturer_code, settings.image_type, 0)
        self.manifest: Manifest | None = None

    @property
    def running(self) -> BankId:
        """The bank whose image runs, or will after the restart that follows an activation."""
        return self._boot.active

    @property
    def spare(self) -> BankId:
        """The bank that may be written."""
        return self._boot.active.other

    @property
    def is_on_trial(self) -> bool:
        """Whether the running image is not confirmed yet."""
        return self._boot.trial

    @property
    def running_image(self) -> ImageKey:
        """The image in force."""
        return self._image

    def view(self, bank: BankId) -> BankView:
        """What is known of a bank; a lost record reads as empty, which only costs a download."""
        try:
            fields = decode(get_twice(self._records, f"bank/{bank.value}"))
        except RecordLostError:
            return BankView(BankState.EMPTY)
        image = fields.pop("image")
        return BankView(
            state=BankState(fields.pop("state")),
            image=None if image is None else ImageKey(*image),
            **fields,
        )

    # --- start-up, steps 4 to 6 of dual-bank.md 8 -------------------------------------------------

    def start(self, first_rows: dict[str, bytes]) -> StartReport:
        """Recover; repeatable at any point. ``first_rows`` are provisioned beside our own.

        Raises:
            StorageError: the medium failed, or a factory image that does not verify.
        """
        notes = _Notes()
        if not self._records.keys(""):  # rule 5
            self._provision(first_rows)
            notes.add("provisioned", version=self.view(BankId.A).version_hex)
        elif _LOST in self._records.keys(_LOST):
            notes.add("records_lost")
        self._load_boot(notes)
        self._merge_floor(notes)
        was, outcome = self._boot, self._boot.outcome
        verified, cause = self._verify_running(notes), ""
        if was.trial and not self._boot.trial:
            cause = "bank_fault"
        elif was.trial and verified is not None:  # else its key is missing, and it does not start
            if was.tries >= self._settings.activation.trial_starts_max:
                cause = "start_limit"
                self.revert(cause)
                verified = self._verify_running(notes)
            else:
                was.tries += 1
                self._store_boot()
        if verified is not None:
            self._image, self.manifest = verified.image, verified.manifest
        self._check_spare(notes)
        self._records.delete(_LOST)
        put_twice(self._records, _MARKER, b"1")
        return StartReport(
            running=self.running,
            image=self._image,
            manifest=self.manifest,
            trial=self._boot.trial and verified is not None,
            reverted=bool(cause),
            outcome=outcome if cause else None,
            cause=cause,
            notes=tuple(notes.items),
        )

    def _provision(self, first_rows: dict[str, bytes]) -> None:
        """The factory image into bank A, all else blank; the marker comes with the commit."""
        verified = self._verify_factory()
        self._write_whole(BankId.A, self._factory_image)
        floor = verified.image.file_version
        self._storage.ratchet.raise_now(RatchetValues(rollback_floor=floor))
        for key, value in first_rows.items():
            put_twice(self._records, key, value)
        self._store_view(BankId.A, _view_of(verified, BankState.CONFIRMED))
        self._store_view(BankId.B, BankView(BankState.EMPTY))
        self._boot = _Boot(BankId.A)
        self._store_boot()
        put_twice(self._records, _FLOOR, b"%d" % floor)

    def _load_boot(self, notes: _Notes) -> None:
        try:
            fields = decode(get_twice(self._records, _BOOT))
        except RecordLostError:
            bank = self._find_confirmed()
            self._boot = _Boot(bank)
            self._store_boot()
            if self.view(bank).state is not BankState.CONFIRMED:
                self._store_view(bank, BankView(BankState.EMPTY))  # it is filled in when verified
            if self.view(bank.other).state is BankState.TRIAL:
                self._store_view(bank.other, BankView(BankState.EMPTY))
            notes.add("boot_record_rebuilt", bank=bank.value)
            return
        outcome = fields["outcome"]
        self._boot = _Boot(
            BankId(fields["active"]),
            fields["trial"],
            fields["tries"],
            None if outcome is None else Outcome(**outcome),
        )

    def _find_confirmed(self) -> BankId:
        """The boot record is lost: the confirmed image is the one whose version is the floor.

        Where the floor names none, a bank recorded as confirmed goes first, then the older image:
        the newer one may never have been confirmed.
        """
        floors = self._floors(_Notes())
        found: list[tuple[bool, bool, int, BankId]] = []
        for bank in BankId:
            try:
                version = self._check(bank).image.file_version
            except RefusedError:
                continue
            was_confirmed = self.view(bank).state is BankState.CONFIRMED
            found.append((version not in floors, not was_confirmed, version, bank))
        return min(found, key=lambda one: one[:3])[3] if found else BankId.A

    def _merge_floor(self, notes: _Notes) -> None:
        """The higher of record and ratchet, and both lifted to it."""
        values = self._floors(notes)
        if values:
            put_twice(self._records, _FLOOR, b"%d" % max(values))
            self._storage.ratchet.raise_now(RatchetValues(rollback_floor=max(values)))

    def _floors(self, notes: _Notes) -> list[int]:
        """What record and ratchet say, as far as they can be read."""
        values = []
        try:
            values.append(int(get_twice(self._records, _FLOOR)))
        except RecordLostError as lost:
            notes.add("record_lost", record=_FLOOR, reason=str(lost))
        try:
            values.append(self._storage.ratchet.read().rollback_floor)
        except RecordLostError as lost:
            notes.add("record_lost", record="ratchet", reason=str(lost))
        return values

    def _floor(self) -> int:
        """The rollback floor; when it is lost nothing may be activated."""
        try:
            return int(get_twice(self._records, _FLOOR))
        except RecordLostError as lost:
            raise RefusedError(Status.FAILURE, "floor_lost", str(lost)) from lost

    def _verify_running(self, notes: _Notes) -> VerifiedImage | None:
        """The active bank, else the other, else the factory image anew, else none (I1)."""
        for bank in (self.running, self.spare):
            try:
                verified = self._check(bank)
                if bank is not self.running:
                    self._check_way_out(bank, verified)
            except RefusedError as error:
                notes.add("bank_fault", bank=bank.value, cause=error.cause, reason=error.reason)
                if error.cause in _KEY_MISSING:
                    # The key folder is at fault, and no bank is given up for that.
                    notes.add("nothing_to_run", reason=error.reason)
                    return None
                continue
            if bank is not self.running:
                self._switch(bank, verified)
                notes.add("running_other_bank", bank=bank.value)
            elif self.view(bank).state is BankState.EMPTY:  # its record was lost
                state = BankState.TRIAL if self._boot.trial else BankState.CONFIRMED
                self._store_view(bank, _view_of(verified, state))
            return verified
        restored = self._restore_factory(notes)
        if restored is None and self._boot.trial:  # nothing is left to go back to
            self._store_view(self.running, BankView(BankState.EMPTY))
            self._boot = _Boot(self.running)
            self._store_boot()
        return restored

    def _check_way_out(self, bank: BankId, verified: VerifiedImage) -> None:
        """An image that ran before may run again; one that never did must be permitted to."""
        if self.view(bank).state is not BankState.CONFIRMED:
            self._check_permitted(verified)

    def _switch(self, bank: BankId, verified: VerifiedImage) -> None:
        """Run the other bank because the active one is no image any more."""
        self._boot = _Boot(bank)
        self._store_boot()
        self._store_view(bank, _view_of(verified, BankState.CONFIRMED))
        # Not rejected: the medium failed, not the image, and the same upgrade may come again.
        self._store_view(bank.other, BankView(BankState.EMPTY))

    def _restore_factory(self, notes: _Notes) -> VerifiedImage | None:
        """Neither bank verifies. The factory image goes into the spare one if the floor lets it;
        otherwise nothing runs, as in a boot loader, and a new upgrade is awaited.
        """
        try:
            verified = self._verify(self._factory_image)
            floor = self._floor()
        except RefusedError as error:
            notes.add("nothing_to_run", reason=error.reason)
            return None
        if verified.image.file_version < floor:
            notes.add("nothing_to_run", reason="the factory image is below the rollback floor")
            return None
        bank = self.spare
        self._write_whole(bank, self._factory_image)
        self._switch(bank, verified)
        notes.add("factory_image_restored", bank=bank.value)
        return verified

    def _check_spare(self, notes: _Notes) -> None:
        """A spare bank that is said to hold an image holds it (dual-bank.md 10)."""
        if self.view(self.spare).state not in (BankState.VERIFIED, BankState.CONFIRMED):
            return
        try:
            self._check(self.spare)
        except RefusedError as error:
            notes.add("bank_fault", bank=self.spare.value, cause=error.cause, reason=error.reason)
            if error.cause not in _KEY_MISSING:
                self._store_view(self.spare, BankView(BankState.EMPTY))

    # --- the spare bank ---------------------------------------------------------------------------

    def check_spare_is_free(self) -> None:
        """Whoever means to write the spare bank asks this first.

        Raises:
            StorageFullError: it is the way back from a trial; later.
            RefusedError: it is worn.
        """
        if self._boot.trial:
            raise StorageFullError("the spare bank is the way back while an image is on trial")
        if self._is_worn():
            raise self._misread("bank_worn", Status.INSUFFICIENT_SPACE)

    def mark_receiving(self, image: ImageKey, size: int) -> None:
        """The spare bank is about to be written."""
        assert not self._boot.trial
        self._store_view(self.spare, BankView(BankState.RECEIVING, image, size))

    def mark_empty(self) -> None:
        """What the spare bank was given is of no use; an image that ran before stays."""
        if self.view(self.spare).state in (BankState.RECEIVING, BankState.VERIFIED):
            self._store_view(self.spare, BankView(BankState.EMPTY))

    def verify_held(self, size: int, sha256: bytes) -> VerifiedImage:
        """Read the spare bank back and put it through the one door.

        Raises:
            RefusedError: the image is refused; or the read-back differs from what was received:
                ``readback_differs``, and it may be tried again, or ``bank_worn``.
        """
        data = self._storage.bank(self.spare).read(0, size)
        if hashlib.sha256(data).digest() != sha256:
            self._records.put(self._misread_key(), b"%d" % (self._misreads() + 1))
            raise self._misread("bank_worn" if self._is_worn() else "readback_differs")
        self._records.delete(self._misread_key())
        return self._verify(data)

    def held_sha256(self, size: int) -> bytes:
        """The Manufacturer Image Hash of what the spare bank holds, be it good or not."""
        data = self._storage.bank(self.spare).read(0, size)
        return manufacturer_sha256(data, self._settings)

    def mark_verified(self, verified: VerifiedImage) -> None:
        """Transaction *image stored*."""
        self._store_view(self.spare, _view_of(verified, BankState.VERIFIED))

    def load(self, data: bytes) -> VerifiedImage:
        """Flash a file into the spare bank: verified before the bank is touched, and after.

        A cut in the middle leaves a record that says more than the bank holds; ``start`` finds out.

        Raises:
            RefusedError: it does not fit, or is refused.
            StorageFullError: the spare bank may not be written now.
        """
        self.check_spare_is_free()
        if len(data) > self._storage.bank(self.spare).size:
            raise RefusedError(
                Status.INSUFFICIENT_SPACE, "image_too_large", f"{len(data)} bytes do not fit"
            )
        verified = self._verify(data)
        self.check_policy(verified)
        self._write_whole(self.spare, data)
        verified = self.verify_held(len(data), hashlib.sha256(data).digest())
        self.mark_verified(verified)
        return verified

    def check_policy(self, verified: VerifiedImage) -> None:
        """Roll-back floor, reject list and permitted earlier versions.

        Raises:
            RefusedError: INVALID_IMAGE and which of them.
        """
        self._check_permitted(verified)
        allowed = verified.manifest.from_versions if verified.manifest else ()
        if allowed and self._image.file_version not in allowed:
            raise RefusedError(
                Status.INVALID_IMAGE,
                "upgrade_pathway",
                f"cannot be reached from version {self._image.version_hex}",
            )

    def _check_permitted(self, verified: VerifiedImage) -> None:
        """Whoever has a supplier runs what that one signed, and the factory image."""
        version = verified.image.file_version
        if (
            self._settings.type.has_supplier
            and verified.supplier is None
            and not self._is_factory_image(verified)
        ):
            raise RefusedError(
                Status.INVALID_IMAGE, "supplier_signature_absent", "no supplier signed this image"
            )
        if version < self._floor():
            raise RefusedError(
                Status.INVALID_IMAGE,
                "below_rollback_floor",
                f"version {version:08x} is below the rollback floor {self._floor():08x}",
            )
        if verified.manufacturer_sha256.hex() in self._rejects():
            raise RefusedError(
                Status.INVALID_IMAGE, "image_rejected", "this image failed its trial before"
            )

    # --- activation, confirmation, revert ---------------------------------------------------------

    def activate(self, outcome: Outcome | None, wanted: Wanted | None = None) -> VerifiedImage:
        """Transaction *activate*: the spare bank becomes the active one, on trial.

        The hash is calculated anew over the image that is held (gbcs-supplement 2.1).

        Raises:
            RefusedError: nothing held, changed since, not wanted, below the floor, rejected.
            StorageFullError: too little space to carry it through.
        """
        bank, view = self.spare, self.view(self.spare)
        if view.state is not BankState.VERIFIED:
            raise RefusedError(Status.FAILURE, "no_image_held", f"bank {bank.value} holds no image")
        if wanted is not None and view.supplier != wanted.supplier.hex:
            raise RefusedError(
                Status.FAILURE,
                "other_supplier",
                f"signed by {view.supplier or 'nobody'}, the command is from {wanted.supplier}",
            )
        verified = self._check(bank)
        if wanted is not None and verified.manufacturer_sha256 != wanted.manufacturer_sha256:
            raise RefusedError(
                Status.FAILURE,
                "hash_mismatch",
                f"image {verified.manufacturer_sha256.hex()}, "
                f"wanted {wanted.manufacturer_sha256.hex()}",
            )
        self.check_policy(verified)
        if self._storage.free_bytes() < self._settings.activation.free_bytes_min:
            raise StorageFullError("too little space for an activation")
        self._store_view(bank, _view_of(verified, BankState.TRIAL))
        self._boot = _Boot(bank, trial=True, outcome=outcome)
        self._store_boot()
        return verified

    def confirm(self) -> Outcome | None:
        """Transaction *confirm*: the trial is over and the floor rises."""
        assert self._boot.trial
        view = self.view(self.running)
        self._store_view(self.running, replace(view, state=BankState.CONFIRMED))
        floor = self._image.file_version
        try:
            floor = max(floor, self._floor())
        except RefusedError:
            pass  # it was lost; the version that now runs is a floor again
        put_twice(self._records, _FLOOR, b"%d" % floor)
        self._storage.ratchet.raise_after_commit(RatchetValues(rollback_floor=floor))
        outcome = self._boot.outcome
        self._boot = _Boot(self.running)
        self._store_boot()
        return outcome

    def revert(self, cause: str) -> Outcome | None:
        """Transaction *revert*: back to the other bank, whatever the floor; the image is rejected.

        Where the other bank is no image any more, the factory image is written there and taken.

        Raises:
            StorageError: neither can be run; the device stays where it is.
        """
        assert self._boot.trial
        bank = self.running
        try:
            verified = self._check(bank.other)
        except RefusedError:
            verified = self._verify_factory()
            self._write_whole(bank.other, self._factory_image)
        view = self.view(bank)
        self._store_view(bank, replace(view, state=BankState.REJECTED))
        rejects = [*self._rejects(), view.manufacturer_sha256][-REJECTS_MAX:]
        self._records.put(_REJECTS, encode({"digests": rejects, "cause": cause}))
        outcome = self._boot.outcome
        self._boot = _Boot(bank.other)
        self._store_boot()
        self._store_view(bank.other, _view_of(verified, BankState.CONFIRMED))
        self._image, self.manifest = verified.image, verified.manifest
        return outcome

    # --- helpers ----------------------------------------------------------------------------------

    def _check(self, bank: BankId) -> VerifiedImage:
        """Read a bank, verify it, and hold it against its record."""
        area, view = self._storage.bank(bank), self.view(bank)
        size = view.size
        if view.state in (BankState.EMPTY, BankState.RECEIVING) or not size:
            size = self._size_from_header(bank)
        if not 0 < size <= area.size:
            raise RefusedError(Status.INVALID_IMAGE, "image_malformed", f"size {size}")
        verified = self._verify(area.read(0, size))
        if view.fingerprint and view.fingerprint != verified.fingerprint.hex():
            raise RefusedError(
                Status.INVALID_IMAGE, "bank_changed", f"bank {bank.value} is not what was stored"
            )
        return verified

    def _verify_factory(self) -> VerifiedImage:
        try:
            return self._verify(self._factory_image)
        except RefusedError as error:
            raise StorageError(f"factory image: {error.reason}") from error

    def _is_factory_image(self, verified: VerifiedImage) -> bool:
        try:
            return self._verify(self._factory_image).fingerprint == verified.fingerprint
        except RefusedError:
            return False

    def _misread_key(self) -> str:
        return f"misreads/{self.spare.value}"

    def _misread(self, cause: str, status: int = Status.INVALID_IMAGE) -> RefusedError:
        return RefusedError(
            status, cause, f"bank {self.spare.value} does not hold what was written to it"
        )

    def _is_worn(self) -> bool:
        return self._misreads() >= self._settings.activation.download_attempts_max

    def _misreads(self) -> int:
        """How often in a row the spare bank did not hold what it was given (dual-bank.md 9)."""
        try:
            return int(self._records.get(self._misread_key()) or 0)
        except RecordLostError:
            return 0  # it spares the medium; losing it costs a few writes

    def _size_from_header(self, bank: BankId) -> int:
        try:
            header = decode_ota_header(self._storage.bank(bank).read(0, HEADER_SIZE_MAX))
        except DecodeError as error:
            raise RefusedError(Status.INVALID_IMAGE, "image_malformed", str(error)) from error
        return header.total_image_size

    def _write_whole(self, bank: BankId, data: bytes) -> None:
        area = self._storage.bank(bank)
        if len(data) > area.size:
            raise StorageError(f"an image of {len(data)} bytes does not fit bank {bank.value}")
        for offset in range(0, len(data), 16 * PAGE_SIZE):
            area.write(offset, data[offset : offset + 16 * PAGE_SIZE])
        area.sync()

    def _rejects(self) -> list[str]:
        try:
            value = self._records.get(_REJECTS)
        except RecordLostError:
            return []  # it spares a second trial; losing it costs one
        return list(decode(value)["digests"]) if value else []

    def _store_boot(self) -> None:
        boot = self._boot
        fields = {
            "active": boot.active.value,
            "trial": boot.trial,
            "tries": boot.tries,
            "outcome": None if boot.outcome is None else asdict(boot.outcome),
        }
        put_twice(self._records, _BOOT, encode(fields))

    def _store_view(self, bank: BankId, view: BankView) -> None:
        fields = asdict(view)
        fields["state"] = view.state.value
        fields["image"] = None if view.image is None else list(view.image)
        put_twice(self._records, f"bank/{bank.value}", encode(fields))


def _view_of(verified: VerifiedImage, state: BankState) -> BankView:
    return BankView(
        state,
        verified.image,
        verified.file_size,
        verified.fingerprint.hex(),
        verified.manufacturer_sha256.hex(),
        verified.supplier.hex if verified.supplier else "",
    )
