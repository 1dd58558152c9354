"""The device: routes what comes in through the stages, in the order in which an image travels.

    a frame comes in        ``_on_frame``       radio → OTA client, tunnel, attributes
    blocks become an image  ``OtaClient`` asks, ``Assembly`` puts each block into the spare bank
    the image is verified   ``_verify_held``    full read-back, ``verify_image``
    a bank holds it         ``Banks.mark_verified``, then the Upgrade End Request
    activation runs it      ``_activate``       banks switch, the process starts again on trial
    a notification tells    ``_trial_passed`` / ``_trial_failed``: confirm or revert, then
                            ``GbcsParty.tell_outcome``: CS09, or what CS06 is answered with
    a switch moves          ``LoadSwitch``, of an HCALCS alone: load control, beside all of this
    a command comes in      ``GbcsParty.receive``: checked, counter stored, carried out, answered

Stages never call each other; they return effects, or typed values that only ``_take`` routes.
All records of one step become durable together, before any of its effects leaves.

Ordering rules:

1. ``Started`` is the first input: banks recover, then counters, then the stages may speak.
2. A confirm or revert and its alert are one step, so one transaction (I8).
3. An activation is the last thing of its step: after it only ``Reboot`` leaves.
4. The switch hears of the running image before ``Started``: a faulty one moves nothing, ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from firmware_node.boundary import (
    Answer,
    Effect,
    Entropy,
    EraseAndReboot,
    FactoryResetRequested,
    Frame,
    FrameReceived,
    Input,
    LoadImage,
    NetworkDown,
    NetworkUp,
    Notify,
    QueryRequested,
    Reboot,
    RebootRequested,
    SendConfirmed,
    SendFrame,
    SetIndicator,
    SetRelay,
    Started,
    Storage,
    SwitchRequested,
)
from firmware_node.crypto import Keyring
from firmware_node.errors import (
    RecordLostError,
    RefusedError,
    StorageFullError,
)
from firmware_node.node.activation import Trial, TrialFailed, TrialPassed
from firmware_node.node.assembly import Assembly
from firmware_node.node.attributes import Attributes, TimeClient, UtcLearned
from firmware_node.node.banks import Banks, Outcome, StartReport, Wanted
from firmware_node.node.counters import Counters
from firmware_node.node.indicators import Indicators
from firmware_node.node.load_switch import LoadSwitch
from firmware_node.node.logs import Log
from firmware_node.node.ota_client import (
    ActivationRequested,
    ImageHeld,
    OtaClient,
    UpgradeAbandoned,
)
from firmware_node.node.outbox import Outbox
from firmware_node.node.party import ActivationCommanded, GbcsParty, Times
from firmware_node.node.results import Results
from firmware_node.node.tunnel_server import MessageReceived, TunnelServer
from firmware_node.node.verification import VerifiedImage, verify_image
from firmware_node.terms import (
    BankId,
    BankState,
    DeviceSettings,
    DeviceState,
    DeviceType,
    UpgradeStatus,
)
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire import ota, tunneling, zcl

Output = (
    Effect
    | ImageHeld
    | ActivationRequested
    | ActivationCommanded
    | UpgradeAbandoned
    | MessageReceived
    | UtcLearned
    | TrialPassed
    | TrialFailed
)


class Device:
    """One emulated PPMID or HCALCS; a ``Machine``. The constructor touches nothing."""

    def __init__(
        self,
        settings: DeviceSettings,
        storage: Storage,
        keyring: Keyring,
        entropy: Entropy,
        *,
        factory_image: bytes,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._records = storage.records
        self._keyring = keyring
        self._banks = Banks(storage, settings, self._verify, factory_image)
        self._assembly = Assembly(storage, settings, self._banks, entropy)
        self._ota = OtaClient(settings, self._assembly, entropy, storage.records)
        self._tunnel = TunnelServer(entropy)
        self._time = TimeClient(settings.activation)
        self._outbox = Outbox(storage.records, self._tunnel.send)
        times = Times(self._time.utc, self._best_utc)
        self._party = GbcsParty(settings, storage, keyring, self._outbox, times, self._tunnel.send)
        self._results = Results(storage.records)
        self._attributes = Attributes(settings)
        self._trial = Trial(settings.activation)
        self._switch = (
            LoadSwitch(settings.switch, storage.records, entropy)
            if settings.type is DeviceType.HCALCS
            else None
        )
        self._indicators = Indicators()
        self._network: NetworkUp | None = None
        self._restarting = False

    @property
    def wake_at(self) -> int | None:
        """The earliest timer of any stage."""
        if self._restarting:
            return None
        times = (
            self._ota.wake_at,
            self._trial.wake_at,
            self._outbox.wake_at,
            self._time.wake_at,
            self._assembly.wake_at,
            self._tunnel.wake_at,
            self._party.wake_at,
            None if self._switch is None else self._switch.wake_at,
        )
        return min((at for at in times if at is not None), default=None)

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        """Advance by one input or timer; see ``Machine``."""
        effects: list[Effect] = []
        if self._restarting:
            return effects
        match item:
            case FrameReceived(frame=frame):
                self._on_frame(item, frame, now_ms, effects)
            case None:
                self._on_timer(now_ms, effects)
            case SendConfirmed():
                effects.extend(self._outbox.confirmed(item, now_ms))
            case NetworkUp():
                self._network = item
                self._on_network(item, now_ms, effects)
            case NetworkDown():
                self._network = None
                self._tunnel.network_down()
                self._outbox.tunnel_lost()
                self._on_network(item, now_ms, effects)
            case Started():
                self._start(now_ms, effects)
            case LoadImage():
                self._load(item, now_ms, effects)
            case QueryRequested(file_version=version):
                effects.append(Answer(done=True, text="asking the OTA server"))
                self._take(self._ota.query_now(version, now_ms), now_ms, effects)
            case SwitchRequested():
                self._on_switch_requested(item, now_ms, effects)
            case RebootRequested():
                effects.append(Answer(done=True, text="restarting"))
                self._reboot("operator", effects)
            case FactoryResetRequested():
                effects.append(Answer(done=True, text="back to the factory image"))
                self._restarting = True
                effects.append(EraseAndReboot())
            case _:
                raise TypeError(f"a device takes no {type(item).__name__}")
        if self._outbox.has_new and not self._restarting:
            effects.extend(self._outbox.pump(now_ms))
        # A frame changes nothing that can be seen, unless something is told of it.
        if not self._restarting and (type(item) is not FrameReceived or _tells(effects)):
            effects.extend(self._indicators.show(self._network is not None, self._state()))
        return effects

    # --- a frame comes in -----------------------------------------------------------------------

    def _on_frame(
        self, item: FrameReceived, frame: Frame, now_ms: int, effects: list[Effect]
    ) -> None:
        if frame.cluster == ota.CLUSTER and not self._attributes.claims(frame):
            self._take(self._ota.step(item, now_ms), now_ms, effects)
        elif frame.cluster == tunneling.CLUSTER and not self._attributes.claims(frame):
            self._take(self._tunnel.step(item, now_ms), now_ms, effects)
            if not self._restarting:
                effects.extend(self._outbox.pump(now_ms))
        elif self._time.claims(frame):
            self._take(self._time.step(item, now_ms), now_ms, effects)
        elif (
            self._switch is not None
            and self._switch.claims(frame)
            and not self._attributes.claims(frame)
        ):
            self._take(self._switch.step(item, now_ms), now_ms, effects)
        elif frame.profile == 0:
            self._take(self._ota.step(item, now_ms), now_ms, effects)  # answers to its discovery
        else:
            switch = None if self._switch is None else self._switch.attributes()
            effects.extend(self._attributes.answer(frame, self._ota.attributes(), switch))

    def _on_network(
        self, item: NetworkUp | NetworkDown, now_ms: int, effects: list[Effect]
    ) -> None:
        self._take(self._time.step(item, now_ms), now_ms, effects)
        self._take(self._ota.step(item, now_ms), now_ms, effects)
        if self._switch is not None:
            self._take(self._switch.step(item, now_ms), now_ms, effects)

    def _on_switch_requested(
        self, item: SwitchRequested, now_ms: int, effects: list[Effect]
    ) -> None:
        if self._switch is None:
            text = f"a {self._settings.type.value} has no load switch"
            effects.append(Answer(done=False, text=text))
        else:
            self._take(self._switch.step(item, now_ms), now_ms, effects)

    def _on_timer(self, now_ms: int, effects: list[Effect]) -> None:
        if _due(self._time.wake_at, now_ms):
            self._take(self._time.step(None, now_ms), now_ms, effects)
        if _due(self._ota.wake_at, now_ms):
            self._take(self._ota.step(None, now_ms), now_ms, effects)
        if _due(self._trial.wake_at, now_ms):
            self._take(self._trial.step(now_ms), now_ms, effects)
        if _due(self._party.wake_at, now_ms):
            self._take(self._party.timer(now_ms), now_ms, effects)
        if self._restarting:
            return
        if self._switch is not None and _due(self._switch.wake_at, now_ms):
            self._take(self._switch.step(None, now_ms), now_ms, effects)
        if _due(self._assembly.wake_at, now_ms):
            self._assembly.timer(now_ms)
        if _due(self._tunnel.wake_at, now_ms):
            self._take(self._tunnel.step(None, now_ms), now_ms, effects)
        if _due(self._outbox.wake_at, now_ms):
            effects.extend(self._outbox.timer(now_ms))

    def _take(self, outputs: Iterable[Output], now_ms: int, effects: list[Effect]) -> None:
        """Route what a stage handed over, in pipeline order; effects pass through."""
        for output in outputs:
            match output:
                case SendFrame() | Notify() | SetRelay() | SetIndicator() | Answer():
                    effects.append(output)
                case ImageHeld():
                    self._verify_held(now_ms, effects)
                case UpgradeAbandoned(cause=cause):
                    self._failed("download", cause, now_ms, effects)
                case ActivationRequested():
                    self._activate(Outcome("cs09"), None, now_ms, effects)
                case ActivationCommanded(outcome=outcome, wanted=wanted):
                    self._activate(outcome, wanted, now_ms, effects)
                case Reboot(reason=reason):
                    self._reboot(reason, effects)
                case TrialPassed():
                    self._trial_passed(now_ms, effects)
                case TrialFailed(cause=cause):
                    self._trial_failed(cause, now_ms, effects)
                case MessageReceived(message=message):
                    version = self._banks.running_image.file_version
                    self._take(self._party.receive(message, version, now_ms), now_ms, effects)
                    self._time.watch(self._party.schedule.is_pending, now_ms)
                case UtcLearned():
                    self._on_utc(now_ms, effects)
                case _:
                    raise TypeError(f"no stage hands over a {type(output).__name__}")

    # --- blocks became an image: verify it, let a bank hold it ------------------------------------

    def _verify_held(self, now_ms: int, effects: list[Effect]) -> None:
        """Read the whole bank back and verify it; the server hears of it after the commit (I13)."""
        try:
            size, sha256 = self._assembly.finish()
            verified = self._banks.verify_held(size, sha256)
            self._banks.check_policy(verified)
        except RefusedError as refused:
            self._failed("verification", refused.cause, now_ms, effects, refused.reason)
            if refused.cause == "readback_differs":
                self._assembly.abandon()
                self._take(self._ota.image_misread(now_ms), now_ms, effects)
                return
            received = self._banks.held_sha256(self._ota.total_size)
            told = self._party.tell_receipt(fm.IMAGE_NOT_VERIFIED, received, now_ms)
            self._take(told, now_ms, effects)
            self._assembly.abandon()
            self._take(self._ota.image_refused(refused.code, now_ms), now_ms, effects)
            return
        self._banks.mark_verified(verified)
        self._assembly.close()
        effects.append(_image_notify("image_verified", verified))
        told = self._party.tell_receipt(fm.IMAGE_VERIFIED, verified.manufacturer_sha256, now_ms)
        self._take(told, now_ms, effects)
        self._take(self._ota.image_verified(now_ms), now_ms, effects)

    def _load(self, item: LoadImage, now_ms: int, effects: list[Effect]) -> None:
        """Flash an image that the operator brings: the door is the same as over the air."""
        try:
            self._banks.load(item.data)
        except (RefusedError, StorageFullError) as refused:
            effects.append(Answer(done=False, text=str(refused)))
            return
        self._assembly.close()
        self._ota.cancel(now_ms)
        effects.append(Answer(done=True, text=f"held in bank {self._banks.spare.value}"))
        effects.append(Notify("image_loaded", {"bank": self._banks.spare.value}))
        if item.activate:
            ppmid = self._settings.type is DeviceType.PPMID
            self._activate(Outcome("cs09") if ppmid else None, None, now_ms, effects)

    # --- activation runs it -----------------------------------------------------------------------

    def _activate(
        self,
        outcome: Outcome | None,
        wanted: Wanted | None,
        now_ms: int,
        effects: list[Effect],
    ) -> None:
        """Switch the banks and start again; ``outcome`` says who hears how it ends."""
        try:
            activated = self._banks.activate(outcome, wanted)
        except (RefusedError, StorageFullError) as refused:
            cause = refused.cause if isinstance(refused, RefusedError) else "storage_full"
            self._failed("activation", cause, now_ms, effects, str(refused))
            self._tell_outcome(outcome, cause, now_ms, effects)
            if wanted is None:  # else what is held stays, for a further command
                self._take(self._ota.activation_failed(now_ms), now_ms, effects)
            return
        self._results.clear()
        effects.append(
            Notify(
                "image_activated",
                {"bank": self._banks.running.value, "version": activated.image.version_hex},
            )
        )
        self._reboot("activation", effects)

    def _reboot(self, reason: str, effects: list[Effect]) -> None:
        self._assembly.flush()
        self._restarting = True
        effects.append(Notify("restarting", {"reason": reason}))
        effects.append(Reboot(reason))

    # --- start ------------------------------------------------------------------------------------

    def _start(self, now_ms: int, effects: list[Effect]) -> None:
        report = self._banks.start(Counters.first_rows())
        effects.extend(report.notes)
        effects.extend(self._party.start())
        self._time.watch(self._party.schedule.is_pending, now_ms)
        self._announce(report, effects)
        if report.reverted:
            self._reverted(report.outcome, report.cause, now_ms, effects)
        self._attributes.set_running(report.image, report.manifest)
        self._ota.set_running(report.image)
        held = self._banks.view(self._banks.spare)
        if held.state is BankState.VERIFIED and held.image is not None:
            self._ota.image_kept(held.image, held.size)
        self._trial.begin(report.manifest, report.trial, now_ms)
        if self._switch is not None:
            self._switch.set_running(report.manifest is None or report.manifest.switch_works)
            self._take(self._switch.step(Started(), now_ms), now_ms, effects)
        self._take(self._ota.step(Started(), now_ms), now_ms, effects)

    def _announce(self, report: StartReport, effects: list[Effect]) -> None:
        effects.append(
            Notify(
                "image_running",
                {
                    "bank": report.running.value,
                    "version": report.image.version_hex,
                    "trial": report.trial,
                    "version_string": report.manifest.version_string if report.manifest else None,
                },
            )
        )

    # --- a notification tells ---------------------------------------------------------------------

    def _trial_passed(self, now_ms: int, effects: list[Effect]) -> None:
        outcome = self._banks.confirm()
        self._results.set(DeviceState.CONFIRMED)
        effects.append(
            Notify("image_confirmed", {"version": self._banks.running_image.version_hex})
        )
        self._tell_outcome(outcome, None, now_ms, effects)

    def _trial_failed(self, cause: str, now_ms: int, effects: list[Effect]) -> None:
        outcome = self._banks.revert(cause)
        self._reverted(outcome, cause, now_ms, effects)
        self._reboot("revert", effects)

    def _reverted(
        self, outcome: Outcome | None, cause: str, now_ms: int, effects: list[Effect]
    ) -> None:
        self._failed("trial", cause, now_ms, effects)
        self._results.set(DeviceState.REVERTED)
        effects.append(
            Notify(
                "image_reverted", {"cause": cause, "version": self._banks.running_image.version_hex}
            )
        )
        self._tell_outcome(outcome, cause, now_ms, effects)

    def _tell_outcome(
        self, outcome: Outcome | None, cause: str | None, now_ms: int, effects: list[Effect]
    ) -> None:
        version = self._banks.running_image.file_version
        self._take(self._party.tell_outcome(outcome, cause, version, now_ms), now_ms, effects)

    # --- time and results -------------------------------------------------------------------------

    def _on_utc(self, now_ms: int, effects: list[Effect]) -> None:
        utc = self._time.utc(now_ms)
        assert utc is not None
        self._ota.set_utc(utc, now_ms)
        if utc // 3600 != self._not_before() // 3600:
            self._records.put("time/not_before", b"%d" % utc)  # hourly (dual-bank.md 8)
        self._take(self._party.timer(now_ms), now_ms, effects)
        self._time.watch(self._party.schedule.is_pending, now_ms)
        if self._switch is not None and not self._restarting:
            self._take(self._switch.learn_utc(utc, now_ms), now_ms, effects)

    def _not_before(self) -> int:
        try:
            return int(self._records.get("time/not_before") or 0)
        except RecordLostError:
            return 0  # only a lower bound for stamps; losing it costs precision, not safety

    def _best_utc(self, now_ms: int) -> int:
        return self._time.best_utc(now_ms, self._not_before())

    def _failed(
        self, phase: str, cause: str, now_ms: int, effects: list[Effect], reason: str = ""
    ) -> None:
        """Keep the last failure for ``status`` and tell the operator."""
        self._results.failed(phase, cause, self._time.utc(now_ms))
        effects.append(Notify("upgrade_failed", {"phase": phase, "cause": cause, "reason": reason}))

    # --- what the operator sees -------------------------------------------------------------------

    def status(self, now_ms: int) -> dict[str, object]:
        """``status --json`` of the contract; the daemon adds ``eta_seconds``."""
        network = self._network
        return {
            "type": self._settings.type.value,
            "entity_id": str(self._settings.entity_id),
            "state": self._state().value,
            "network": {
                "joined": network is not None,
                "short_address": network.short_address if network else None,
                "channel": network.channel if network else None,
            },
            "upgrade": {
                "status": self._ota.status.name.lower(),
                "file_offset": self._ota.file_offset,
                "total_size": self._ota.total_size,
                "eta_seconds": None,
            },
            "banks": self.banks_report(),
            "running_bank": self._banks.running.value,
            "counters": self._party.counters(),
            "outbox": len(self._outbox),
            "switch": None if self._switch is None else self._switch.report(),
            "utc": None if (utc := self._time.utc(now_ms)) is None else zcl.utc_text(utc),
            "pending_activation": self._party.schedule.report(),
            "last_failure": self._results.last_failure(),
        }

    def banks_report(self) -> dict[str, dict[str, object]]:
        """State, version and hash of both banks; *pending* is a verified image with a date."""
        report: dict[str, dict[str, object]] = {}
        for bank in BankId:
            view = self._banks.view(bank)
            state = view.state
            if state is BankState.VERIFIED and self._has_date(view.manufacturer_sha256):
                state = BankState.PENDING
            report[bank.value] = {
                "state": state.value,
                "version": view.version_hex,
                "sha256": view.sha256_hex,
                "size": view.size,
            }
        return report

    def log(self, log: Log) -> Sequence[dict[str, object]]:
        """The security or event log, oldest entry first."""
        return self._party.log(log)

    def _has_date(self, manufacturer_sha256: str) -> bool:
        return (
            self._ota.status is UpgradeStatus.COUNT_DOWN
            or self._party.schedule.manufacturer_sha256.hex() == manufacturer_sha256
        )

    def _state(self) -> DeviceState:
        if self._restarting:
            return DeviceState.RESTARTING
        if self._banks.view(self._banks.running).state is BankState.TRIAL:
            return DeviceState.TRIAL
        match self._ota.status:
            case UpgradeStatus.DOWNLOAD_IN_PROGRESS:
                return DeviceState.DOWNLOADING
            case UpgradeStatus.NORMAL:
                return self._results.state()
            case _:
                return DeviceState.WAITING

    def _verify(self, data: bytes) -> VerifiedImage:
        return verify_image(data, self._settings, self._keyring)


def _due(at: int | None, now_ms: int) -> bool:
    return at is not None and at <= now_ms


def _tells(effects: Sequence[Effect]) -> bool:
    for effect in effects:  # noqa: SIM110 - for every block, and a generator costs more
        if type(effect) is not SendFrame:
            return True
    return False


def _image_notify(name: str, image: VerifiedImage) -> Notify:
    return Notify(
        name,
        {
            "version": image.image.version_hex,
            "format": image.format.value,
            "size": image.file_size,
            "manufacturer_sha256": image.manufacturer_sha256.hex(),
        },
    )
