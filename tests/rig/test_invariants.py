"""Every invariant that is watched is broken once on purpose, and found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from home import ACB, HUB, KEYS, PPMID, SETTINGS, image

from firmware_node.boundary import PAGE_SIZE, OfferImage, RatchetValues
from firmware_node.node.assembly import Trailer
from firmware_node.node.records import encode
from firmware_node.rig.comms_hub import CommsHub, HubSettings
from firmware_node.rig.head_end import HeadEnd
from firmware_node.rig.invariants import WatchedDevice
from firmware_node.rig.memory_storage import MemoryStorage
from firmware_node.rig.world import World
from firmware_node.sealing import seal_signed
from firmware_node.terms import BankId, EntityId
from firmware_node.wire.gbcs import Cra, GroupingHeader

FILE = image(2, size=40_000)
FACTORY = image(1)


class Watched:
    """A device in a world, taken to some point of an upgrade, and its storage to tamper with."""

    def __init__(self, *, is_spoilt: bool = False) -> None:
        activation = replace(SETTINGS.activation, checkpoint_bytes=PAGE_SIZE)
        self.device = WatchedDevice(
            replace(SETTINGS, activation=activation),
            KEYS,
            factory_image=FACTORY,
            ota_file=FILE,
            bank_size=64 * 1024,
            is_spoilt=is_spoilt,
        )
        self.world = World()
        hub = CommsHub(HubSettings(HUB, ACB, utc=800_000_000), KEYS)
        self.world.set_hub(hub, HUB, HeadEnd(ACB, KEYS, first_counter=1))
        self.world.after_event = self.device.check
        self.world.on_message = self.device.heard
        self.home = self.world.add(PPMID, self.device.make)
        self.world.run_for(100)

    @property
    def storage(self) -> MemoryStorage:
        assert isinstance(self.home.storage, MemoryStorage)
        return self.home.storage

    def offer(self) -> None:
        self.world.tell_hub(OfferImage("r", FILE, (PPMID,)))

    def until(self, name: str) -> None:
        assert self.world.run_until(lambda: name in self.world.names(PPMID))

    def put(self, key: str, value: bytes) -> None:
        for name in (key, key + "~"):
            self.storage.records.put(name, value)

    def boot(self, active: str, *, trial: bool, tries: int = 0, outcome: bool = False) -> None:
        told = {"kind": "cs09", "counter": 0, "other_info": "", "recipient": ""}
        fields = {"active": active, "trial": trial, "tries": tries}
        self.put("boot", encode({**fields, "outcome": told if outcome else None}))

    def view(self, bank: str, state: str, version: int) -> None:
        fields = {"state": state, "image": [0x121D, 0x0084, version]}
        self.put(
            f"bank/{bank}", encode({**fields, "size": 1, "sha256": "", "manufacturer_sha256": ""})
        )

    def write(self, bank: BankId, data: bytes) -> None:
        self.storage.bank(bank).write(0, data)

    def check(self) -> None:
        """As often as it takes until the bank's octets are looked at again."""
        for _ in range(20):
            self.device.check()


def alert(counter: int, who: EntityId = PPMID, payload: bytes = b"\x05\x00") -> bytes:
    header = GroupingHeader(Cra.ALERT, counter, who, ACB, 0x012B)
    return seal_signed(header, payload, KEYS.signing_key(who))


def test_an_undisturbed_upgrade_breaks_none_of_them() -> None:
    watched = Watched()
    watched.offer()
    assert watched.world.run_until(watched.device.is_done)
    invariants = watched.device.invariants
    assert invariants.checks > 1_000
    assert invariants.outcomes == 1
    assert len(invariants.alerts()) == 1


def test_nothing_is_asked_of_a_device_before_it_is_provisioned() -> None:
    device = WatchedDevice(SETTINGS, KEYS, factory_image=FACTORY, ota_file=FILE, bank_size=65_536)
    device.check()
    device.make()
    device.check()
    assert device.invariants.checks == 0
    assert not device.is_done()


def lose_the_running_image(watched: Watched) -> None:
    watched.boot("B", trial=False)


def write_the_running_bank(watched: Watched) -> None:
    watched.write(BankId.A, FACTORY[:100] + bytes(50))


def activate_an_empty_bank(watched: Watched) -> None:
    watched.write(BankId.B, FILE)
    watched.boot("B", trial=True)


def leave_a_confirmed_image(watched: Watched) -> None:
    watched.write(BankId.B, FILE)
    watched.boot("B", trial=False)


def try_a_confirmed_image_again(watched: Watched) -> None:
    watched.boot("A", trial=True)


def start_too_often(watched: Watched) -> None:
    watched.boot("A", trial=True, tries=6)


def lower_the_ceiling(watched: Watched) -> None:
    watched.put("counter/own", b"7")
    watched.check()
    watched.put("counter/own", b"6")


def lower_a_received_counter(watched: Watched) -> None:
    watched.put("counter/received/004", b"7")
    watched.check()
    watched.put("counter/received/004", b"6")


def lower_the_floor(watched: Watched) -> None:
    watched.put("floor", b"0")


def raise_the_ratchet_first(watched: Watched) -> None:
    watched.storage.ratchet.raise_now(RatchetValues(rollback_floor=2))


def run_below_the_floor(watched: Watched) -> None:
    watched.put("floor", b"2")


def lose_the_ratchet(watched: Watched) -> None:
    watched.device.medium.ratchet = None


BROKEN: dict[Callable[[Watched], None], str] = {
    lose_the_running_image: "I1",
    write_the_running_bank: "I2",
    activate_an_empty_bank: "I3",
    leave_a_confirmed_image: "I10",
    try_a_confirmed_image_again: "I3",
    start_too_often: "I10",
    lower_the_ceiling: "I5",
    lower_a_received_counter: "I6",
    lower_the_floor: "I7",
    raise_the_ratchet_first: "I7",
    run_below_the_floor: "I7",
    lose_the_ratchet: "I7",
}


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda break_it: break_it.__name__)
def test_a_broken_invariant_is_found(break_it: Callable[[Watched], None]) -> None:
    watched = Watched()
    watched.check()
    break_it(watched)
    with pytest.raises(AssertionError, match=f"{BROKEN[break_it]}:"):
        watched.check()


def on_trial() -> Watched:
    watched = Watched()
    watched.offer()
    watched.until("image_activated")
    assert watched.world.run_until(lambda: watched.home.starts == 2)
    watched.check()
    return watched


def test_a_trial_that_ends_without_a_word_is_found() -> None:
    watched = on_trial()
    watched.boot("B", trial=False)
    watched.view("B", "confirmed", 2)
    with pytest.raises(AssertionError, match="I8:"):
        watched.check()


@pytest.mark.parametrize(("active", "bank"), [("B", "B"), ("A", "B")])
def test_a_trial_that_ends_with_the_wrong_state_is_found(active: str, bank: str) -> None:
    watched = on_trial()
    watched.storage.records.put("outbox/0000000000000001", b"message")
    watched.boot(active, trial=False)
    watched.view(bank, "verified", 2)
    with pytest.raises(AssertionError, match="I3:"):
        watched.check()


def test_starts_on_trial_that_go_down_are_found() -> None:
    watched = on_trial()
    watched.boot("B", trial=True, tries=0, outcome=True)
    with pytest.raises(AssertionError, match="I10:"):
        watched.check()


@pytest.mark.parametrize("is_spoilt", [False, True])
def test_a_resume_point_over_other_octets_is_found_unless_they_may_be_spoilt(
    is_spoilt: bool,
) -> None:
    watched = Watched(is_spoilt=is_spoilt)
    watched.offer()
    area = watched.storage.bank(BankId.B)

    def trailer() -> Trailer | None:
        return Trailer.decode(area.read_trailer(1))

    assert watched.world.run_until(lambda: trailer() is not None)
    found = trailer()
    assert found is not None
    watched.check()
    watched.write(BankId.B, bytes(found.size))
    wrong = replace(
        found,
        sequence=found.sequence + 2,
        sha256=hashlib.sha256(bytes(found.size)).digest(),
    )
    area.write_trailer(1, wrong.encode())
    if is_spoilt:
        watched.check()
        return
    with pytest.raises(AssertionError, match="I4:"):
        watched.check()


def test_a_message_that_leaves_the_outbox_unheard_or_out_of_turn_is_found() -> None:
    watched = Watched()
    watched.put("counter/own", b"100")
    records = watched.storage.records
    first, second = alert(50), alert(51)
    records.put("outbox/0000000000000001", first)
    records.put("outbox/0000000000000002", second)
    watched.check()
    records.delete("outbox/0000000000000001")
    with pytest.raises(AssertionError, match=r"I9: .* before it was heard"):
        watched.check()
    watched.device.heard(first)
    watched.device.heard(second)
    records.put("outbox/0000000000000001", first)
    records.delete("outbox/0000000000000002")
    with pytest.raises(AssertionError, match=r"I9: .* out of turn"):
        watched.check()
    records.delete("outbox/0000000000000001")
    watched.check()


def test_words_that_break_a_rule_are_found() -> None:
    watched = Watched()
    watched.put("counter/own", b"100")
    watched.check()
    heard = watched.device.heard
    once = alert(50)
    heard(once)
    heard(once)
    with pytest.raises(AssertionError, match="I9: alert 50 was repeated"):
        heard(alert(50, payload=b"\x01\x01\x00"))
    with pytest.raises(AssertionError, match="I9: alert 49 came behind 50"):
        heard(alert(49))
    with pytest.raises(AssertionError, match="I5: counter 100 left"):
        heard(alert(100))
    heard(alert(200, HUB))  # not ours
    response = GroupingHeader(Cra.RESPONSE, 1300, PPMID, ACB, 0x0129)
    key = KEYS.signing_key(PPMID)
    heard(seal_signed(response, b"\x05\x00", key))
    with pytest.raises(AssertionError, match="I6: counter 1300 answered twice"):
        heard(seal_signed(response, b"\x01\x01\x00", key))
