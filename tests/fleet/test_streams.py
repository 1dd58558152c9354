"""Streams over a bus that loses, repeats and reorders; memory of commands; back-off."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_node.fleet import streams
from firmware_node.fleet.bus import BATCH_MAX, Ack, Batch, Outcome
from firmware_node.fleet.streams import Backoff, Inbox, Outbox, Remembered


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 3 * BATCH_MAX), loss=st.integers(0, 40))
def test_over_a_bad_bus_every_item_arrives_once_and_in_order(
    seed: int, count: int, loss: int
) -> None:
    draw = random.Random(seed)
    outbox, inbox = Outbox("fleet", "a"), Inbox("fleet")
    arrived: list[int] = []
    wanted = list(range(count))
    on_the_way: list[Batch | Ack] = []
    left = list(wanted)
    for _ in range(10_000):
        share = draw.randint(0, BATCH_MAX)
        outbox.put(left[:share])
        del left[:share]
        messages: list[Batch | Ack] = [*outbox.batches(0)]
        if inbox.source:
            messages.append(inbox.ack())
        for message in messages:
            for _ in range(draw.choice((1, 1, 2))):
                if draw.randrange(100) >= loss:
                    on_the_way.insert(draw.randint(0, len(on_the_way)), message)
        for _ in range(len(on_the_way) // 2 + 1):
            if on_the_way:
                message = on_the_way.pop(0)
                if isinstance(message, Ack):
                    outbox.acknowledge(message)
                else:
                    arrived += inbox.take(message)
        if not left and not outbox.items:
            break
    assert arrived == wanted
    assert outbox.last == inbox.taken == count


def test_a_batch_that_leaves_a_gap_waits_and_one_that_overlaps_is_cut() -> None:
    inbox = Inbox("fleet")
    assert inbox.take(Batch("fleet", "a", 2, ("two",))) == ()
    assert inbox.take(Batch("fleet", "a", 1, ("one", "two"))) == ("one", "two")
    assert inbox.take(Batch("fleet", "a", 2, ("two", "three"))) == ("three",)
    assert inbox.take(Batch("other", "a", 4, ("four",))) == ()
    assert inbox.ack() == Ack("fleet", "a", 3)


def test_a_new_source_begins_at_one_and_the_old_one_does_not_come_back() -> None:
    inbox = Inbox("fleet")
    inbox.take(Batch("fleet", "old", 1, (1, 2)))
    assert inbox.take(Batch("fleet", "new", 3, (9,))) == ()
    assert inbox.take(Batch("fleet", "new", 1, (1,))) == (1,)
    assert inbox.take(Batch("fleet", "old", 1, (1, 2, 3))) == ()
    again = Inbox("fleet", inbox.source, inbox.taken, inbox.past)  # after a restart
    assert again.take(Batch("fleet", "old", 1, (1, 2, 3))) == ()
    assert again.take(Batch("fleet", "new", 1, (1, 2))) == (2,)


def test_an_acknowledgement_of_what_was_never_sent_takes_nothing_away_beyond() -> None:
    outbox = Outbox("fleet", "a", (1, 2, 3), acknowledged=10)
    assert outbox.acknowledge(Ack("fleet", "b", 12)) == 0
    assert outbox.acknowledge(Ack("fleet", "a", 9)) == 0
    assert outbox.acknowledge(Ack("fleet", "a", 12)) == 2
    assert outbox.acknowledge(Ack("fleet", "a", 99)) == 1
    assert (outbox.last, list(outbox.items)) == (13, [])
    assert outbox.batches() == []


def test_an_outbox_says_when_it_is_full() -> None:
    outbox = Outbox("fleet", "a", range(streams.OUTBOX_MAX - 1))
    assert not outbox.is_full
    outbox.put((1,))
    assert outbox.is_full


def test_a_command_is_remembered_until_a_thousand_others_came() -> None:
    remembered = Remembered()
    first = Outcome("0", "done")
    remembered.put(first)
    for number in range(1, streams.REMEMBERED_MAX):
        remembered.put(Outcome(str(number), "done"))
    assert remembered.get("0") == first
    assert Remembered(remembered.outcomes).get("0") == first  # as after a restart
    remembered.put(Outcome("another", "failed"))
    assert remembered.get("0") is None
    assert len(remembered.outcomes) == streams.REMEMBERED_MAX


def test_backoff_draws_from_the_whole_of_a_time_that_doubles_up_to_a_minute() -> None:
    longest = Backoff(lambda: 1.0)
    assert [longest.next_s() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert Backoff(lambda: 0.0).next_s() == 0
    longest.reset()
    assert longest.next_s() == 1


def test_backoff_spreads_a_thousand_hosts_over_the_time() -> None:
    draw = random.Random(1)
    waits = []
    for _ in range(1_000):
        backoff = Backoff(draw.random)
        for _ in range(6):
            backoff.next_s()
        waits.append(backoff.next_s())  # of up to a minute
    for second in range(0, 60, 10):
        assert 100 < sum(second <= wait < second + 10 for wait in waits) < 240
