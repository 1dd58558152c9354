"""One home of a fleet: its hub and head end, its devices, its air, and what goes wrong there.

    the plan's faults are laid      ``_lay_faults``, each at its moment, at the home's beginning
    a turn's orders are obeyed      ``obey``: the service user, or the operator, wants something
    time passes                     ``run_to``: the world runs; everything told becomes an ``Event``
    somebody looks                  ``show``, ``keep``: a device's account, and what it would keep

A home is the real thing: ``Device``, ``CommsHub`` and ``HeadEnd`` in a ``World``, with GBCS
messages signed, MACed and carried through the tunnel. It knows no other home, and follows from the
plan, its index and its orders alone; so any process can run it, and can run it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from firmware_node.boundary import (
    Delivered,
    Effect,
    Input,
    Machine,
    MessageChecked,
    Notify,
    OfferImage,
    QueryRequested,
    RatchetValues,
    SendSigned,
    Storage,
)
from firmware_node.fleet.draws import Draws
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.terms import Event, FaultRule, Field, Member, Order, Plan, hub_entity_id
from firmware_node.node.device import Device
from firmware_node.rig.comms_hub import CommsHub, HubSettings, Misbehaviour
from firmware_node.rig.head_end import HeadEnd
from firmware_node.rig.memory_storage import Medium, MemoryStorage, PowerCut
from firmware_node.rig.world import Air, Home, World
from firmware_node.sealing import seal_signed
from firmware_node.terms import BankId, EntityId
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader

# What a device tells that a campaign, a report or a view has a use for.
TOLD: Final = frozenset(
    (
        "image_offered",
        "offer_refused",
        "download_started",
        "download_progress",
        "download_waiting",
        "download_paused",
        "download_kept",
        "download_aborted",
        "block_retried",
        "image_verified",
        "activation_scheduled",
        "activation_held",
        "activation_pending",
        "activation_cancelled",
        "image_activated",
        "image_running",
        "self_test",
        "image_crashed",
        "image_confirmed",
        "image_reverted",
        "upgrade_failed",
        "command_accepted",
        "command_refused",
        "message_undelivered",
        "bank_fault",
        "running_other_bank",
        "factory_image_restored",
        "nothing_to_run",
    )
)
CUT_FOR_MS: Final = 5_000  # how long the supply is off after a cut at a storage call


@dataclass(frozen=True, slots=True)
class Kept:
    """What a device would keep without its supply: plain values, to be put away and given back."""

    records: Mapping[str, bytes]
    ratchet: tuple[int, ...]
    banks: tuple[tuple[bytes, ...], ...]  # pages of A and B, without the zeros at their ends
    at_ms: int  # when it was kept


class _Drifting:
    """A machine whose clock runs fast or slow, by parts in a million."""

    def __init__(self, machine: Machine, ppm: int) -> None:
        self._machine = machine
        self._ppm = ppm

    @property
    def wake_at(self) -> int | None:
        """In true time; rounded up, for a timer may be late and never early."""
        at = self._machine.wake_at
        return None if at is None else -(-at * 1_000_000 // (1_000_000 + self._ppm))

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        """At the time that its own clock shows."""
        return self._machine.step(item, now_ms * (1_000_000 + self._ppm) // 1_000_000)


@dataclass(slots=True)
class _Place:
    """A member in its home."""

    member: Member
    medium: Medium
    machine: Machine | None = None
    ppm: int = 0
    kept_calls: int = -1  # of the storage, when it was last kept
    held: bool = False  # paused or removed: no fault switches it on again
    off_until_ms: int = 0  # its supply comes back with the last of the cuts, not with the first


class FleetHome:
    """See the module. ``kept`` puts devices back to what they kept, by member index."""

    def __init__(
        self,
        plan: Plan,
        stock: Stock,
        home: int,
        *,
        begin_ms: int = 0,
        kept: Mapping[int, Kept] | None = None,
        absent: frozenset[int] = frozenset(),
        tells_all: bool = False,
    ) -> None:
        self._tells_all = tells_all
        self._plan = plan
        self._stock = stock
        self._index = home
        self._told: list[Event] = []
        self._hub_id = hub_entity_id(home)
        self._draws = Draws("home", plan.shape.seed, home, begin_ms)
        air = plan.air
        self._quiet = Air(air.latency_ms, air.jitter_ms, air.loss, air.duplication)
        self._quiet = replace(self._quiet, reordering=air.reordering)
        self._world = World(air=self._quiet, now_ms=begin_ms, entropy=self._draws)
        self._world.on_note = self._on_note
        self._world.on_effect = self._on_effect
        self._hub_back_ms = 0  # the hub stays away until the last rule has it back
        self._losses: tuple[tuple[int | None, int], ...] = ()  # until when, percent; as they began
        self._places: dict[int, _Place] = {}
        self._by_entity: dict[EntityId, _Place] = {}
        members = plan.shape.members_of(home)
        for member in members:
            self._place(member, (kept or {}).get(member.index))
        self._rules = [
            (number, rule, member)
            for number, rule in enumerate(plan.faults)
            for member in members
            if self._is_struck(number, rule, member)
        ]
        # Counters rise with the time, so that a hub that began again repeats none of its values.
        self._hub = CommsHub(
            HubSettings(
                self._hub_id,
                stock.acb,
                utc=plan.start_utc,
                first_counter=1 + begin_ms,
                script=tuple(self._script()),
            ),
            stock.keyring,
        )
        head_end = HeadEnd(stock.acb, stock.keyring, first_counter=1 + begin_ms)
        self._world.set_hub(self._hub, self._hub_id, head_end)
        for place in self._places.values():
            if place.member.index in absent:
                place.held = True
            else:
                jitter_ms = self._draws.below(plan.shape.start_jitter_ms + 1)
                self._cut(place, begin_ms + jitter_ms)
        self._lay_faults(begin_ms)

    @property
    def next_ms(self) -> int | None:
        """When something happens here by itself."""
        return self._world.next_ms

    def obey(self, order: Order) -> None:
        """Carry out an order, now; one that cannot be is told of as ``order_refused``."""
        try:
            self._obey(self._places[order.member], order)
        except PowerCut:
            self._through_cut()

    def run_to(self, end_ms: int) -> list[Event]:
        """Let the time pass; what was told since the last call, in order."""
        while True:
            try:
                self._world.run_to(end_ms)
            except PowerCut:
                self._through_cut()
            else:
                break
        told, self._told = self._told, []
        return told

    def show(self, member: int) -> dict[str, Any]:
        """``status`` and ``banks`` of a device, as its daemon would answer; for people."""
        place = self._places[member]
        device = self._at(place)
        shown: dict[str, Any] = {"entity_id": str(place.member.entity_id), "on": device is not None}
        if device is not None:
            shown |= device.status(self._world.now_ms)
        progress = self._hub.progress(place.member.entity_id)
        if progress is not None:
            shown["hub"] = {"offset": progress[0], "total": progress[1], "blocks": progress[2]}
        return shown

    def keep(self, member: int) -> Kept:
        """What the device has made durable."""
        medium = self._places[member].medium
        ratchet = medium.ratchet or RatchetValues()
        banks = tuple(tuple(medium.banks[bank].pages) for bank in BankId)
        return Kept(dict(medium.records), tuple(ratchet), banks, self._world.now_ms)

    def keep_changed(self) -> dict[int, Kept]:
        """The same of every device that wrote something since this was last asked."""
        changed = {}
        for member, place in self._places.items():
            if place.medium.calls != place.kept_calls:
                place.kept_calls = place.medium.calls
                changed[member] = self.keep(member)
        return changed

    # --- devices ----------------------------------------------------------------------------------

    def _obey(self, place: _Place, order: Order) -> None:
        match order.verb:
            case "offer":
                self._offer(place, order.image)
            case "activate":
                self._activate(place, order)
            case "cut":
                self._cut(place, self._world.now_ms + order.amount)
            case "pause" | "remove":
                place.held = True
                self._switch_off(place)
                if order.verb == "remove":
                    self._tell(place, "left")
            case "resume" | "add":
                place.held, place.off_until_ms = False, 0
                self._switch_on(place)
            case "query" if self._at(place) is not None:
                self._world.tell(self._world.homes[place.member.entity_id], QueryRequested())
            case _:
                self._refuse(place, order, "it is switched off")

    def _place(self, member: Member, kept: Kept | None) -> None:
        stock = self._stock
        entropy = Draws("medium", self._plan.shape.seed, member.index)
        medium = Medium(stock.bank_size, entropy=entropy, share=stock.share)
        if kept is not None:
            medium.records = dict(kept.records)
            medium.ratchet = RatchetValues(*kept.ratchet)
            for bank, pages in zip(BankId, kept.banks, strict=True):
                medium.banks[bank].pages = pages
        place = _Place(member, medium)
        self._places[member.index] = self._by_entity[member.entity_id] = place

    def _make(self, place: _Place) -> tuple[Machine, Storage]:
        """A life of the device, on what it kept."""
        member, stock = place.member, self._stock
        storage = MemoryStorage(place.medium)
        device = Device(
            stock.settings(member.type, member.entity_id),
            storage,
            stock.keyring,
            Draws("device", self._plan.shape.seed, member.index, self._world.now_ms),
            factory_image=stock.factory[member.type],
        )
        place.machine = device
        return (_Drifting(device, place.ppm) if place.ppm else device), storage

    def _at(self, place: _Place) -> Device | None:
        """The device, while its supply is on."""
        home = self._world.homes.get(place.member.entity_id)
        if home is None or (not home.up and place.machine is None):
            return None
        assert isinstance(place.machine, Device)
        return place.machine

    def _cut(self, place: _Place, end_ms: int) -> None:
        """Its supply is off until then, or for longer if it is already."""
        place.off_until_ms = max(place.off_until_ms, end_ms)
        self._switch_off(place)
        self._world.after(end_ms - self._world.now_ms, lambda: self._switch_on(place))

    def _switch_on(self, place: _Place) -> None:
        if place.held or self._world.now_ms < place.off_until_ms or self._at(place) is not None:
            return
        home = self._home_of(place)
        if home is None:
            self._world.add(place.member.entity_id, lambda: self._make(place))
        else:
            self._tell(place, "power_on")
            self._world.restart(home)

    def _switch_off(self, place: _Place) -> None:
        home = self._home_of(place)
        if home is None or self._at(place) is None:
            return
        self._world.power_off(home)
        place.medium.power_cycle()
        place.kept_calls = -1  # what was pending may be there now, without a call
        place.machine = None
        self._tell(place, "power_off")

    def _home_of(self, place: _Place) -> Home | None:
        return self._world.homes.get(place.member.entity_id)

    def _through_cut(self) -> None:
        """The supply of one device went at a storage call."""
        for place in self._places.values():
            cut_at = place.medium.cut_at
            if cut_at is not None and place.medium.calls >= cut_at:
                self._cut(place, self._world.now_ms + CUT_FOR_MS)
                return
        raise AssertionError("a supply went that nobody cut")

    # --- the service user -------------------------------------------------------------------------

    def _offer(self, place: _Place, image: str) -> None:
        """SR 11.4 for a PPMID, SR 11.1 for a device with a supplier."""
        member = place.member
        out_of_band = member.type.has_supplier
        ware = self._stock.wares[image]
        item = OfferImage(image, ware.ota_file, (member.entity_id,), out_of_band)
        self._world.tell_head_end(item)
        self._world.tell_hub(item)

    def _activate(self, place: _Place, order: Order) -> None:
        """SR 11.3: CS06, signed by the supplier, MACed by the access control broker."""
        stock = self._stock
        counter = self._plan.start_utc * 1000 + self._world.now_ms
        command = fm.ActivateFirmware(
            stock.wares[order.image].manufacturer_sha256, counter, order.amount or None
        )
        header = GroupingHeader(
            Cra.COMMAND,
            counter,
            stock.supplier,
            place.member.entity_id,
            fm.CS06_ACTIVATE_FIRMWARE,
        )
        signed = seal_signed(header, fm.encode_cs06_command(command), stock.supplier_key)
        self._world.tell_head_end(SendSigned(f"activate {order.image}", signed))

    # --- faults -----------------------------------------------------------------------------------

    def _is_struck(self, number: int, rule: FaultRule, member: Member) -> bool:
        """Whether a rule strikes a member; a share is drawn for each member by itself."""
        select = rule.select
        if select.types and member.type not in select.types:
            return False
        if select.members and member.index not in select.members:
            return False
        if select.homes and not any(a <= member.home <= b for a, b in select.homes):
            return False
        if select.every and member.home % select.every:
            return False
        if select.percent is None:
            return True
        draw = Draws("fault", self._plan.shape.seed, number, member.index)
        return draw.below(100) < select.percent

    def _script(self) -> list[Misbehaviour]:
        """What the hub does wrong: each rule once, however many of its devices it strikes."""
        rules = {number: rule for number, rule, _ in self._rules if rule.what not in _OWN_FAULTS}
        return [Misbehaviour(rule.what, times=max(rule.amount, 1)) for rule in rules.values()]

    def _lay_faults(self, begin_ms: int) -> None:
        """Everything that is not over yet; rules of the whole home strike it once.

        What began before ``begin_ms`` goes on without being told again. A cut at a storage call is
        not laid again: whether it came is not known any more.
        """
        homes_done = set()
        for number, rule, member in self._rules:
            if rule.what not in _OWN_FAULTS:
                continue
            if rule.what in ("loss", "hub_away"):
                if number in homes_done:
                    continue
                homes_done.add(number)
            draw = Draws("moment", self._plan.shape.seed, number, member.index)
            at_ms = rule.at_ms + draw.below(rule.jitter_ms + 1)
            place = self._places[member.index]
            if rule.what == "clock_drift":
                place.ppm = rule.amount if draw.below(2) else -rule.amount
                continue
            if at_ms > begin_ms or not begin_ms:
                self._world.after(at_ms - begin_ms, self._fault(rule, place))
            elif rule.what != "cut_at_call":
                self._strike(rule, place, at_ms)

    def _fault(self, rule: FaultRule, place: _Place) -> Callable[[], None]:
        def happen() -> None:
            self._tell(place, "fault", {"what": rule.what, "for_ms": rule.for_ms})
            self._strike(rule, place, self._world.now_ms)

        return happen

    def _strike(self, rule: FaultRule, place: _Place, at_ms: int) -> None:
        """What began at ``at_ms``, if it is not over."""
        end_ms = at_ms + rule.for_ms
        is_over = end_ms <= self._world.now_ms
        match rule.what:
            case "loss" if not rule.for_ms:
                self._lose(rule.amount, None)
            case "cut_at_call":
                place.medium.cut_at = place.medium.calls + max(rule.amount, 1)
            case _ if is_over:
                pass
            case "loss":
                self._lose(rule.amount, end_ms)
            case "hub_away":
                self._hub_back_ms = max(self._hub_back_ms, end_ms)
                self._world.hub_reachable = False
                self._world.after(end_ms - self._world.now_ms, self._hub_back)
            case "power_cut":
                self._cut(place, end_ms)

    def _hub_back(self) -> None:
        if self._world.now_ms >= self._hub_back_ms:
            self._world.hub_reachable = True

    def _lose(self, percent: int, end_ms: int | None) -> None:
        self._losses = (*self._losses, (end_ms, percent))
        self._set_loss()
        if end_ms is not None:
            self._world.after(end_ms - self._world.now_ms, self._set_loss)

    def _set_loss(self) -> None:
        """That of the rule which began last, of those that are not over."""
        now_ms = self._world.now_ms
        self._losses = tuple(loss for loss in self._losses if loss[0] is None or loss[0] > now_ms)
        percent = self._losses[-1][1] if self._losses else self._quiet.loss
        self._world.air = replace(self._quiet, loss=percent)

    # --- what is told -----------------------------------------------------------------------------

    def _tell(self, place: _Place, name: str, fields: Mapping[str, Field] | None = None) -> None:
        self._told.append(Event(self._world.now_ms, place.member.index, name, fields or {}))

    def _refuse(self, place: _Place, order: Order, reason: str) -> None:
        self._tell(place, "order_refused", {"verb": order.verb, "reason": reason})

    def _on_note(self, who: EntityId | None, note: Notify) -> None:
        if who is not None:
            if self._tells_all or note.name in TOLD:
                self._tell(self._by_entity[who], note.name, note.fields)
        elif note.name == "device_announced":
            place = self._by_entity[EntityId.parse(str(note.fields["entity_id"]))]
            self._tell(place, "joined")

    def _on_effect(self, effect: Effect) -> None:
        match effect:
            case Delivered(entity_id=who, status=status, request_id=request_id):
                if who in self._by_entity:
                    fields: dict[str, Field] = {"status": status, "request_id": request_id}
                    self._tell(self._by_entity[who], "delivered", fields)
            case MessageChecked():
                about = effect.fields.get("entity_id")  # CCS08: of the hub, about a device
                who = effect.originator if about is None else EntityId.parse(str(about))
                if who in self._by_entity:
                    self._tell(self._by_entity[who], "message", _message_fields(effect))
            case _:
                pass


_OWN_FAULTS: Final = ("loss", "hub_away", "power_cut", "cut_at_call", "clock_drift")


def _message_fields(checked: MessageChecked) -> dict[str, Field]:
    return {
        "use_case": checked.use_case,
        "kind": checked.kind,
        "message_code": checked.message_code,
        "alert_code": checked.alert_code,
        "counter": checked.counter,
        "signature": checked.signature,
        "mac": checked.mac,
        **checked.fields,
    }
