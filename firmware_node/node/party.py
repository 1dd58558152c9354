"""The device as a GBCS party: commands in, responses and alerts out, both logs, one pending date.

    a command comes in      ``receive``: ``Messages`` checks it, the counter is stored, it is
                            carried out or handed over, its answer is queued: one transaction
    its time comes          ``timer``: a future-dated CS06 is handed over
    something is to be told ``tell_outcome``, ``tell_receipt``: built, and queued in the outbox with
                            the change of state it tells of (I8)

Switching banks is not done here: ``ActivationCommanded`` is handed over, and how it ended comes
back through ``tell_outcome``. Source: gbcs.md 3.2; gbcs-supplement 1.2, 1.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from firmware_node.boundary import Effect, Notify, SendFrame, Storage
from firmware_node.crypto import Keyring
from firmware_node.errors import (
    DecodeError,
    KeyMissingError,
    RecordLostError,
    RefusedError,
    StorageFullError,
)
from firmware_node.node.alerts import (
    ACTIVATION_FAILURE,
    HASH_MISMATCH,
    NO_IMAGE_HELD,
    SUCCESS,
    Alerts,
)
from firmware_node.node.banks import Outcome, Wanted
from firmware_node.node.counters import Counters
from firmware_node.node.logs import Log, Logs
from firmware_node.node.messages import (
    ActivateCommand,
    Messages,
    ReadVersionCommand,
    activation_request,
)
from firmware_node.node.outbox import Outbox
from firmware_node.node.schedule import Schedule
from firmware_node.terms import DeviceSettings
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire import gbt

ALERT_INTERVAL_MS = 60_000  # or a forger could make us flood the HAN (gbcs-supplement 1.2)
# What a refusal of an activation is to whoever commanded it; all else is activationFailure.
_RESPONSE_CODES = {
    "no_image_held": NO_IMAGE_HELD,
    "other_supplier": NO_IMAGE_HELD,  # to this party none is held (gbcs-supplement 2.1)
    "hash_mismatch": HASH_MISMATCH,
    # What the bank holds is not what was verified, so its hash is another.
    "bank_changed": HASH_MISMATCH,
    "supplier_signature_wrong": HASH_MISMATCH,
    "manufacturer_signature_wrong": HASH_MISMATCH,
}


@dataclass(frozen=True, slots=True)
class ActivationCommanded:
    """A CS06 command is to be executed now; ``outcome`` goes with the activation and comes back."""

    outcome: Outcome
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Times:
    """The device's clock, as questions: UTC when it is trustworthy, and the best stamp there is."""

    utc: Callable[[int], int | None]  # monotonic ms to seconds since 2000-01-01
    best_utc: Callable[[int], int]


Outputs = list[Effect | ActivationCommanded]


class GbcsParty:
    """See the module; ``version`` is always the file version in force."""

    def __init__(
        self,
        settings: DeviceSettings,
        storage: Storage,
        keyring: Keyring,
        outbox: Outbox,
        times: Times,
        send: Callable[[bytes, int], SendFrame | None],
    ) -> None:
        self._settings = settings
        self._send = send
        self._reassembly: tuple[gbt.Series, gbt.Reassembly] | None = None
        self._outbox = outbox
        self._times = times
        self._counters = Counters(storage.records, storage.ratchet)
        self._messages = Messages(settings, keyring, self._counters)
        self._alerts = Alerts(settings, keyring, self._counters)
        self._logs = Logs(storage.records)
        self.schedule = Schedule(storage.records)
        self._counters_lost = False
        self._next_alert_ms = 0

    @property
    def wake_at(self) -> int | None:
        """When the pending activation is due, as far as the time is known."""
        return self.schedule.wake_at

    def start(self) -> Sequence[Notify]:
        """Counters go on above everything that was used; a pending activation is taken up."""
        notes: list[Notify] = []
        try:
            self._counters.start()
        except RecordLostError as lost:
            self._counters_lost = True
            notes.append(Notify("counters_lost", {"reason": str(lost)}))
        return [*notes, *self.schedule.start()]

    def counters(self) -> dict[str, int | None]:
        """For ``status``; empty while they are lost."""
        return {} if self._counters_lost else self._counters.report()

    def log(self, log: Log) -> Sequence[dict[str, object]]:
        """The security or event log, oldest entry first."""
        return self._logs.entries(log)

    # --- a command comes in -----------------------------------------------------------------------

    def receive(self, octets: bytes, version: int, now_ms: int) -> Outputs:
        """Take what came through the tunnel: a message, or a block of one (gbcs.md 4.10)."""
        if not gbt.is_block(octets):
            return self._receive_message(octets, version, now_ms)
        try:
            block = gbt.decode_block(octets)
            message = self._reassembly_for(block.series).add(block)
        except DecodeError as error:
            self._reassembly = None
            return self._refuse(
                RefusedError(fm.INTEGRITY_CHECK_FAILED, "malformed", str(error)), now_ms
            )
        answer = self._send(gbt.encode_block(gbt.acknowledgement(block.series, block.number)), 0)
        outputs: Outputs = [] if answer is None or not block.data else [answer]
        if message is not None:
            self._reassembly = None
            outputs += self._receive_message(message, version, now_ms)
        return outputs

    def _reassembly_for(self, series: gbt.Series) -> gbt.Reassembly:
        """One message at a time: the newest series takes the place of one that never ended."""
        if self._reassembly is None or self._reassembly[0] != series:
            self._reassembly = (series, gbt.Reassembly(series))
        return self._reassembly[1]

    def _receive_message(self, octets: bytes, version: int, now_ms: int) -> Outputs:
        """Check one message and carry it out; a refusal is silence towards its originator."""
        try:
            if self._counters_lost:
                raise RefusedError(fm.OUT_OF_ORDER, "counters_lost", "counters are not trustworthy")
            self._outbox.check_room()
            command = self._messages.check(octets, self._times.utc(now_ms))
        except RefusedError as refused:
            return self._refuse(refused, now_ms)
        except (RecordLostError, StorageFullError) as error:
            return [Notify("command_refused", {"cause": "storage", "reason": str(error)})]
        self._messages.accept(command)
        header = command.message.header
        accepted = Notify(
            "command_accepted",
            {
                "message_code": f"{header.message_code:04X}",
                "originator": str(header.originator),
                "counter": header.originator_counter,
            },
        )
        match command:
            case ReadVersionCommand(message=message):
                answer = self._queue("CS08", lambda: self._alerts.version(message, version))
                return [accepted, *answer]
            case ActivateCommand():
                return [accepted, *self._on_activate(command, now_ms)]

    def _on_activate(self, command: ActivateCommand, now_ms: int) -> Outputs:
        """CS06: now, for later, or cancelled (gbcs-supplement 1.3)."""
        request, schedule = command.request, self.schedule
        if request.executes_at is None and not request.cancels:
            return [_commanded(command.octets)]
        at = self._times.best_utc(now_ms)
        outputs = self._queue(
            "CS06", lambda: self._alerts.activation_response(command.message, None, at)
        )
        if request.cancels:
            outputs.append(
                Notify("activation_cancelled", {"was_pending": schedule.command is not None})
            )
            schedule.clear()
            return outputs
        schedule.set(command.octets, request)
        outputs.append(Notify("activation_pending", schedule.fields()))
        return [*outputs, *self.timer(now_ms)]  # a time that has passed is now

    def timer(self, now_ms: int) -> Outputs:
        """The time is known anew, or has come: execute what is due for certain."""
        command, utc = self.schedule.command, self._times.utc(now_ms)
        if command is None or not self.schedule.is_due(utc):
            self.schedule.learn_utc(utc, now_ms)
            return []
        self.schedule.clear()
        return [_commanded(command)]

    def _refuse(self, refused: RefusedError, now_ms: int) -> Outputs:
        """Into the security log; for lacking authority an alert, at most one a minute."""
        fields = {
            "code": f"{refused.code:04X}",
            "cause": refused.cause,
            "reason": refused.reason,
        }
        text = f"{refused.cause}: {refused.reason}"
        outputs: Outputs = [
            self._log(Log.SECURITY, refused.code, text, now_ms),
            Notify("command_refused", fields),
        ]
        if refused.code == fm.LACKS_AUTHORITY and now_ms >= self._next_alert_ms:
            self._next_alert_ms = now_ms + ALERT_INTERVAL_MS
            at = self._times.best_utc(now_ms)
            outputs += self._queue("8F30", lambda: self._alerts.generic(fm.LACKS_AUTHORITY, at))
        return outputs

    # --- something is to be told ------------------------------------------------------------------

    def tell_outcome(
        self, outcome: Outcome | None, cause: str | None, version: int, now_ms: int
    ) -> Outputs:
        """How an activation ended: well, or by the cause word of a refusal or a revert."""
        code = SUCCESS if cause is None else _RESPONSE_CODES.get(cause, ACTIVATION_FAILURE)
        outputs: Outputs = []
        if cause is None:
            text = f"version {version:08x}"
            outputs.append(self._log(Log.SECURITY, fm.FIRMWARE_CHANGED, text, now_ms))
        if outcome is None:
            return outputs  # the operator's own activation
        at = self._times.best_utc(now_ms)
        if outcome.kind == "cs09":
            return outputs + self._queue(
                "CS09", lambda: self._alerts.ppmid_activation(code, version, at)
            )
        octets = bytes.fromhex(outcome.command)
        outputs += self._queue(
            "CS06", lambda: self._alerts.activation_outcome(octets, code, version, at)
        )
        _, request = activation_request(octets)
        good, bad = (
            (fm.HAN_COMMAND_DONE, fm.HAN_COMMAND_FAILED)
            if request.executes_at is None
            else (fm.FUTURE_DATED_DONE, fm.FUTURE_DATED_FAILED)
        )
        entry = bad if cause else good
        outputs.append(self._log(Log.EVENT, entry, f"CS06, outcome {code}", now_ms))
        return outputs

    def tell_receipt(self, alert_code: int, manufacturer_sha256: bytes, now_ms: int) -> Outputs:
        """Firmware Distribution Receipt Alert, of whoever has a supplier (gbcs.md 1.4 step 3)."""
        if not self._settings.type.has_supplier:
            return []
        at = self._times.best_utc(now_ms)
        return [
            *self._queue("FDRA", lambda: self._alerts.receipt(alert_code, manufacturer_sha256, at)),
            self._log(Log.SECURITY, alert_code, f"image {manufacturer_sha256.hex()}", now_ms),
        ]

    def _queue(self, use_case: str, build: Callable[[], bytes]) -> Outputs:
        """Into the outbox, or a word to the operator why not."""
        try:
            if self._counters_lost:
                raise RecordLostError("the counters are not trustworthy")
            self._outbox.put(build())
        except (KeyMissingError, RecordLostError, StorageFullError) as error:
            return [Notify("message_withheld", {"use_case": use_case, "reason": str(error)})]
        return [Notify("message_queued", {"use_case": use_case})]

    def _log(self, log: Log, code: int, text: str, now_ms: int) -> Notify:
        return self._logs.add(log, code, text, self._times.best_utc(now_ms), now_ms)


def _commanded(octets: bytes) -> ActivationCommanded:
    """CS06 from its step 3 on (gbcs.md 3.2)."""
    message, request = activation_request(octets)
    wanted = Wanted(request.manufacturer_image_hash, message.header.originator)
    return ActivationCommanded(Outcome("cs06", octets.hex()), wanted)
