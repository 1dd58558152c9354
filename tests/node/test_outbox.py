"""The outbox: what waits, what leaves and what is kept until the hub has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from firmware_node.boundary import Effect, Frame, Notify, SendConfirmed, SendFrame
from firmware_node.errors import StorageFullError
from firmware_node.node.outbox import OUTBOX_MAX, Outbox
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.terms import COORDINATOR


class Bench:
    """An outbox, and a tunnel that the test opens and closes."""

    def __init__(self) -> None:
        self.medium = Medium(4096)
        self.now = 1_000
        self.open = True
        self.start()

    def start(self) -> Bench:
        """The next life, on what was committed."""
        self.storage = MemoryStorage(self.medium)
        self.records = self.storage.records
        self.outbox = Outbox(self.records, self._send)
        self.sent: list[bytes] = []
        self.tags: list[int] = []
        self.notes: list[Notify] = []
        return self

    def _send(self, message: bytes, tag: int) -> SendFrame | None:
        if not self.open:
            return None
        return SendFrame(Frame(COORDINATOR, 1, 1, 0x0109, 0x0704, message), tag)

    def take(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendFrame):
                self.sent.append(effect.frame.payload)
                self.tags.append(effect.tag)
            elif isinstance(effect, Notify):
                self.notes.append(effect)
        self.storage.commit()

    def put(self, *messages: bytes) -> Bench:
        for message in messages:
            self.outbox.put(message)
        self.storage.commit()
        return self

    def pump(self) -> Bench:
        self.take(self.outbox.pump(self.now))
        return self

    def confirm(self, delivered: bool = True, tag: int | None = None) -> Bench:
        """The radio's word on the last send."""
        word = SendConfirmed(self.tags[-1] if tag is None else tag, delivered)
        self.take(self.outbox.confirmed(word, self.now))
        return self

    def tick(self) -> int:
        """The next timer; the milliseconds that took."""
        assert self.outbox.wake_at is not None
        passed, self.now = self.outbox.wake_at - self.now, self.outbox.wake_at
        self.take(self.outbox.timer(self.now))
        return passed

    def wakes_at(self) -> int | None:
        return self.outbox.wake_at

    def names(self) -> list[str]:
        return [note.name for note in self.notes]

    def kept(self) -> list[bytes]:
        """The messages that are durable, in order, each in two rows."""
        rows = self.medium.records
        keys: Sequence[str] = sorted(key for key in rows if not key.endswith("~"))
        assert sorted(rows) == sorted([*keys, *(f"{key}~" for key in keys)])
        assert all(rows[key] == rows[f"{key}~"] for key in keys)
        return [rows[key] for key in keys]


def test_a_message_is_kept_before_it_is_sent_and_until_the_hub_has_it() -> None:
    bench = Bench().put(b"one")
    assert bench.sent == []
    assert bench.kept() == [b"one"]
    bench.pump()
    assert bench.sent == [b"one"]
    assert bench.kept() == [b"one"]
    bench.confirm()
    assert bench.names() == ["message_delivered"]
    assert bench.notes[-1].fields == {"waiting": 0}
    assert (bench.kept(), len(bench.outbox), bench.wakes_at()) == ([], 0, None)


def test_a_message_is_durable_with_the_commit_of_its_step_and_not_before() -> None:
    bench = Bench()
    bench.outbox.put(b"one")
    assert bench.kept() == []
    assert len(bench.start().outbox) == 0


def test_only_the_head_is_under_way_and_the_next_leaves_when_it_arrived() -> None:
    bench = Bench().put(b"one", b"two", b"three").pump().pump()
    assert bench.sent == [b"one"]
    bench.confirm()
    assert bench.sent == [b"one", b"two"]
    assert bench.kept() == [b"two", b"three"]
    bench.put(b"four").confirm().confirm().confirm()
    assert bench.sent == [b"one", b"two", b"three", b"four"]
    assert bench.kept() == []


def test_what_was_not_acknowledged_is_sent_again_with_the_same_octets() -> None:
    bench = Bench().put(b"one", b"two").pump()
    for expected in (2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000):
        bench.confirm(delivered=False)
        assert bench.names()[-1] == "message_undelivered"
        assert bench.notes[-1].fields == {"waiting": 2}
        bench.pump()  # a tunnel that opens meanwhile changes nothing
        assert bench.tick() == expected
    assert bench.sent == [b"one"] * 8
    assert len(set(bench.tags)) == 8
    assert bench.kept() == [b"one", b"two"]
    bench.confirm().confirm(delivered=False)
    assert bench.tick() == 2_000  # the next message begins with patience
    assert bench.sent[8:] == [b"two"] * 2


def test_a_radio_that_says_nothing_counts_as_not_delivered() -> None:
    bench = Bench().put(b"one").pump()
    assert bench.tick() == 15_000
    assert bench.names() == ["message_undelivered"]
    bench.confirm()  # too late: it is sent again, and the hub knows it already
    assert bench.kept() == [b"one"]
    assert bench.tick() == 2_000
    assert bench.sent == [b"one"] * 2


def test_a_word_on_another_send_says_nothing() -> None:
    bench = Bench().put(b"one", b"two")
    bench.confirm(tag=0).confirm(tag=1)
    assert bench.kept() == [b"one", b"two"]
    bench.pump().confirm(tag=2).confirm(tag=0)
    assert bench.kept() == [b"one", b"two"]
    bench.confirm().confirm(tag=1)
    assert bench.kept() == [b"two"]
    assert bench.names() == ["message_delivered"]


def test_without_a_tunnel_the_message_waits_and_leaves_when_one_opens() -> None:
    bench = Bench().put(b"one")
    bench.open = False
    bench.pump()
    assert (bench.sent, bench.wakes_at()) == ([], None)
    bench.open = True
    bench.pump().confirm()
    assert bench.sent == [b"one"]
    assert bench.tags == [1]
    assert bench.kept() == []


def test_a_retry_that_finds_no_tunnel_waits_for_one_and_sets_no_timer() -> None:
    bench = Bench().put(b"one").pump().confirm(delivered=False)
    bench.open = False
    assert bench.tick() == 2_000
    assert (bench.sent, bench.wakes_at()) == ([b"one"], None)
    bench.open = True
    assert bench.pump().confirm().kept() == []


def test_a_tunnel_that_opens_while_the_radio_is_silent_sends_nothing_twice() -> None:
    bench = Bench().put(b"one").pump()
    bench.now += 20_000
    bench.pump()
    assert bench.sent == [b"one"]
    assert bench.confirm().kept() == []


@pytest.mark.parametrize("state", ["under way", "waiting to retry"])
def test_when_the_tunnel_goes_the_head_leaves_again_as_soon_as_one_opens(state: str) -> None:
    bench = Bench().put(b"one").pump()
    if state == "waiting to retry":
        bench.confirm(delivered=False)
    bench.outbox.tunnel_lost()
    assert bench.wakes_at() is None
    bench.confirm()  # of the send before
    assert bench.kept() == [b"one"]
    bench.pump()
    assert bench.sent == [b"one"] * 2
    assert bench.confirm().kept() == []


def test_after_a_restart_the_same_octets_leave_in_the_same_order() -> None:
    bench = Bench().put(b"one", b"two").pump()
    bench.start().pump().confirm()
    assert bench.sent == [b"one", b"two"]
    bench.start().put(b"three").pump().confirm().confirm()
    assert bench.sent == [b"two", b"three"]
    assert bench.kept() == []


def test_order_holds_over_many_messages_and_restarts() -> None:
    bench = Bench()
    wanted = [b"%d" % number for number in range(300)]
    for number, message in enumerate(wanted):
        bench.put(message)
        if number >= 20:
            bench.start().pump().confirm()
            assert bench.sent[0] == wanted[number - 20]
    assert bench.kept() == wanted[-20:]


def test_a_full_outbox_refuses_the_newest_and_keeps_the_head() -> None:
    messages = [b"%d" % number for number in range(OUTBOX_MAX)]
    bench = Bench().put(*messages)
    with pytest.raises(StorageFullError, match="64 messages"):
        bench.outbox.put(b"one more")
    bench.storage.commit()
    assert bench.kept() == messages
    bench.pump().confirm()
    assert bench.sent == messages[:2]
    bench.put(b"one more")
    assert bench.kept() == [*messages[1:], b"one more"]


@pytest.mark.parametrize("suffix", ["", "~"])
def test_one_lost_row_of_a_message_costs_nothing(suffix: str) -> None:
    bench = Bench().put(b"one", b"two").start()
    bench.records.lost.add(f"outbox/{1:016x}{suffix}")
    assert len(bench.outbox) == 2
    bench.pump()
    assert bench.sent == [b"one"]
    assert bench.records.lost == set()
    assert bench.confirm().kept() == [b"two"]


def test_a_message_whose_rows_are_both_lost_is_given_up_and_those_behind_it_leave() -> None:
    bench = Bench().put(b"one", b"two").start()
    key = f"outbox/{1:016x}"
    bench.records.lost |= {key, f"{key}~"}
    bench.pump()
    assert bench.names() == ["message_lost"]
    assert bench.sent == [b"two"]
    assert bench.kept() == [b"two"]
    assert bench.confirm().kept() == []


def test_a_number_is_not_used_again_while_a_lost_message_holds_it() -> None:
    bench = Bench().put(b"one").start()
    key = f"outbox/{1:016x}"
    bench.records.lost |= {key, f"{key}~"}
    bench.put(b"two").pump()
    assert bench.sent == [b"two"]
    assert bench.medium.records.keys() == {f"outbox/{2:016x}", f"outbox/{2:016x}~"}


def test_a_timer_without_a_message_does_nothing() -> None:
    bench = Bench()
    bench.take(bench.outbox.timer(bench.now))
    bench.pump()
    assert (bench.sent, bench.notes, bench.wakes_at()) == ([], [], None)
