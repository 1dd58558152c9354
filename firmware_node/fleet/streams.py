"""What makes messages count once, over a bus on which they may be lost, late, or come twice.

    ``Outbox``      items numbered from 1, sent again until the other side says that it has them
    ``Inbox``       takes the next ones, and none twice
    ``Remembered``  outcomes of the last commands, by id: the same command gets the same answer
    ``Backoff``     how long to wait before the next try: full jitter, up to a minute

An outbox and the inbox it feeds belong together by the name of the stream, its *source*. A source
that lost its memory takes another name; then both begin at 1. Nothing here is durable by itself:
whoever owns it keeps ``Outbox.items`` and ``Inbox.taken`` in the same transaction as what they
stand for, and only then lets the acknowledgement go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from firmware_node.fleet.bus import BATCH_MAX, Ack, Batch, Outcome

OUTBOX_MAX: Final = 200_000  # items, some 40 MB; a host whose events nobody takes waits with them
REMEMBERED_MAX: Final = 1_000  # commands; whoever repeats one does so within minutes
PAST_MAX: Final = 16  # sources; a message is not late by more of them
BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0


class Outbox:
    """Items that the other side does not have yet, oldest first."""

    def __init__(
        self, fleet: str, source: str, items: Iterable[Any] = (), *, acknowledged: int = 0
    ) -> None:
        self.fleet = fleet
        self.source = source
        self.items = deque(items)
        self.acknowledged = acknowledged  # the number of the last item that the other side has

    @property
    def last(self) -> int:
        """The number of the newest item."""
        return self.acknowledged + len(self.items)

    @property
    def is_full(self) -> bool:
        """Whether its owner had better bring forth nothing new."""
        return len(self.items) >= OUTBOX_MAX

    def put(self, items: Iterable[Any]) -> None:
        """New items, at the end."""
        self.items.extend(items)

    def acknowledge(self, ack: Ack) -> int:
        """How many items the other side has got now that it had not; 0 for an old message."""
        if ack.fleet != self.fleet or ack.source != self.source:
            return 0
        count = min(ack.upto, self.last) - self.acknowledged
        for _ in range(count):
            self.items.popleft()
        self.acknowledged += max(count, 0)
        return max(count, 0)

    def batches(self, after: int = 0, most: int = 8) -> list[Batch]:
        """What to send, beyond item ``after``; at most so many messages."""
        begin = max(after - self.acknowledged, 0)
        found = []
        for at in range(begin, min(len(self.items), begin + most * BATCH_MAX), BATCH_MAX):
            end = min(at + BATCH_MAX, len(self.items))
            some = tuple(self.items[n] for n in range(at, end))
            found.append(Batch(self.fleet, self.source, self.acknowledged + at + 1, some))
        return found


class Inbox:
    """How far a stream was taken."""

    def __init__(
        self, fleet: str, source: str = "", taken: int = 0, past: Iterable[str] = ()
    ) -> None:
        self.fleet = fleet
        self.source = source
        self.taken = taken
        self.past = deque(past, PAST_MAX)  # sources that were left

    def take(self, batch: Batch) -> tuple[Any, ...]:
        """The items that are new and next; none of a batch that leaves a gap.

        A batch of another source that begins at 1 begins a new stream; a source that was left
        does not come back, for its messages are late ones.
        """
        if batch.fleet != self.fleet or batch.source in self.past:
            return ()
        if batch.source != self.source:
            if batch.first != 1:
                return ()
            self.past.append(self.source)
            self.source, self.taken = batch.source, 0
        skip = self.taken + 1 - batch.first
        if skip < 0:
            return ()
        items = batch.items[skip:]
        self.taken += len(items)
        return items

    def ack(self) -> Ack:
        """What to tell the other side, once what was taken is durable."""
        return Ack(self.fleet, self.source, self.taken)


class Remembered:
    """Outcomes of commands, by id, the oldest first; as many as fit."""

    def __init__(self, outcomes: Mapping[str, Outcome] | None = None) -> None:
        self.outcomes: dict[str, Outcome] = dict(outcomes or {})

    def get(self, command_id: str) -> Outcome | None:
        """What came of it, if it was carried out."""
        return self.outcomes.get(command_id)

    def put(self, outcome: Outcome) -> None:
        """It was carried out."""
        self.outcomes[outcome.id] = outcome
        while len(self.outcomes) > REMEMBERED_MAX:
            del self.outcomes[next(iter(self.outcomes))]


class Backoff:
    """Full jitter: up to 1 s, 2 s, 4 s, … 60 s, each drawn anew, so that hosts do not all return
    at once to a broker that was away. ``draw`` gives 0 to 1.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._most_s = BACKOFF_FIRST_S

    def next_s(self) -> float:
        """Seconds to wait."""
        wait_s = self._draw() * self._most_s
        self._most_s = min(self._most_s * 2, BACKOFF_MAX_S)
        return wait_s

    def reset(self) -> None:
        """It went well."""
        self._most_s = BACKOFF_FIRST_S
