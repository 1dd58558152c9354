"""What a fleet run leaves on the disk: what happened, and what its devices keep.

One SQLite database. A commit carries everything up to the end of one turn: the events, what the
operator did, the orders, and the kept state of every device that something happened to. So a run
that was killed goes on from that turn as after a power cut of the whole street. Pages of banks are
held once, however many devices hold them.

The *lives* of a run are the moments at which it began: 0, and the end of the turn from which each
resumption went on. Between two of them a home follows from the plan and its orders alone, so a
device's run can be played again from here (``fleet.again``).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from firmware_node.errors import ConfigError, StorageError
from firmware_node.fleet.campaign import Turn
from firmware_node.fleet.home import Kept
from firmware_node.fleet.terms import Event, Order

FORM = "1"  # of the tables below
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE life (begin_ms INTEGER NOT NULL);
CREATE TABLE turn (now_ms INTEGER PRIMARY KEY, actions TEXT NOT NULL);
CREATE TABLE event (
    n INTEGER PRIMARY KEY, turn_ms INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    member INTEGER NOT NULL, name TEXT NOT NULL, fields TEXT NOT NULL
);
CREATE INDEX event_of_member ON event (member);
CREATE TABLE orders (
    n INTEGER PRIMARY KEY, turn_ms INTEGER NOT NULL, verb TEXT NOT NULL,
    member INTEGER NOT NULL, image TEXT NOT NULL, amount INTEGER NOT NULL
);
CREATE TABLE kept (member INTEGER PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE page (digest BLOB PRIMARY KEY, octets BLOB NOT NULL) WITHOUT ROWID;
"""


class Journal:
    """One run's; ``create`` or ``open`` it.

    Everything is put in at once and is durable with the next ``commit``.

    Raises:
        StorageError: the disk does not take it.
    """

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database = database
        self._path = path
        self._pages = {row[0] for row in database.execute("SELECT digest FROM page")}

    @classmethod
    def create(cls, path: Path, about: Mapping[str, str]) -> Journal:
        """A new one, in place of whatever is at ``path``."""
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Kept states hold what devices know; they are nobody else's.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            database = _connect(path)
            database.executescript(_SCHEMA)
            rows = {"form": FORM, "now_ms": "0", "state": "running"} | dict(about)
            database.executemany("INSERT INTO about VALUES (?, ?)", rows.items())
            database.execute("INSERT INTO life VALUES (0)")
            database.commit()
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path}: {error}") from error
        return cls(database, path)

    @classmethod
    def open(cls, path: Path) -> Journal:
        """The one at ``path``.

        Raises:
            ConfigError: there is none, or it is of another form.
        """
        if not path.exists():
            raise ConfigError(f"{path}: no fleet run was begun there")
        try:
            database = _connect(path)
            row = database.execute("SELECT value FROM about WHERE name = 'form'").fetchone()
        except sqlite3.Error as error:
            raise ConfigError(f"{path}: no journal of a fleet run ({error})") from error
        if row is None or row[0] != FORM:
            raise ConfigError(f"{path}: expected form {FORM}, found {row and row[0]}")
        return cls(database, path)

    def about(self) -> dict[str, str]:
        """What the run is: ``plan``, ``options``, ``now_ms``, ``state`` and what ``create`` had."""
        return dict(self._database.execute("SELECT name, value FROM about"))

    @property
    def now_ms(self) -> int:
        """The end of the last turn that was committed."""
        return int(self.about()["now_ms"])

    # --- the run writes -------------------------------------------------------------------------

    def put_turn(self, turn: Turn) -> None:
        """A turn that had events or actions; others need not be kept."""
        self._execute("INSERT INTO turn VALUES (?, ?)", [(turn.now_ms, json.dumps(turn.actions))])
        self._execute(
            "INSERT INTO event (turn_ms, at_ms, member, name, fields) VALUES (?, ?, ?, ?, ?)",
            [
                (turn.now_ms, event.at_ms, event.member, event.name, _json(event.fields))
                for event in turn.events
            ],
        )

    def put_orders(self, turn_ms: int, orders: Sequence[Order]) -> None:
        """Orders that are carried out at the beginning of the turn after ``turn_ms``."""
        self._execute(
            "INSERT INTO orders (turn_ms, verb, member, image, amount) VALUES (?, ?, ?, ?, ?)",
            [(turn_ms, *order) for order in orders],
        )

    def spare_no_sync(self) -> None:
        """A crash of the machine costs no commit: others act upon what stands here."""
        self._database.execute("PRAGMA synchronous = FULL")

    def put_about(self, name: str, value: str) -> None:
        """In place of what it was."""
        self._execute("INSERT OR REPLACE INTO about VALUES (?, ?)", [(name, value)])

    def put_life(self, begin_ms: int) -> None:
        """The run goes on from there."""
        self._execute("INSERT INTO life VALUES (?)", [(begin_ms,)])

    def put_kept(self, kept: Mapping[int, Kept]) -> None:
        """The states of devices, in place of their earlier ones."""
        rows = [(member, json.dumps(self._state(state))) for member, state in kept.items()]
        self._execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", rows)

    def commit(self, now_ms: int, state: str = "running") -> None:
        """All that was put in is durable, and belongs to the end of this turn."""
        self._execute("UPDATE about SET value = ? WHERE name = 'now_ms'", [(str(now_ms),)])
        self._execute("UPDATE about SET value = ? WHERE name = 'state'", [(state,)])
        try:
            self._database.commit()
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}") from error

    def close(self) -> None:
        """Let go of the file; what was not committed is gone."""
        self._database.close()

    # --- whoever resumes, replays or reports reads ------------------------------------------------

    @contextlib.contextmanager
    def at_one_commit(self) -> Iterator[None]:
        """What is read inside belongs together, also while the run goes on; nothing is written."""
        self._database.execute("BEGIN")
        try:
            yield
        finally:
            self._database.rollback()

    def turns(self) -> Iterator[Turn]:
        """All turns that were put in, in order."""
        events = self._database.execute(
            "SELECT turn_ms, at_ms, member, name, fields FROM event ORDER BY n"
        )
        by_turn = groupby(events, lambda row: int(row[0]))
        turn_ms, group = next(by_turn, (None, iter(())))
        for now_ms, actions in self._database.execute("SELECT * FROM turn ORDER BY now_ms"):
            told: list[Event] = []
            if turn_ms == now_ms:
                told = [_event(*row[1:]) for row in group]
                turn_ms, group = next(by_turn, (None, iter(())))
            yield Turn(now_ms, told, tuple(json.loads(actions)))

    def events(self, members: Sequence[int], newest: int = -1) -> list[Event]:
        """What happened to these members, oldest first; ``newest``: at most so many of each."""
        told = [
            event
            for member in members
            for event in self._database.execute(
                "SELECT n, at_ms, member, name, fields FROM event WHERE member = ?"
                " ORDER BY n DESC LIMIT ?",
                (member, newest),
            )
        ]
        return [_event(*row[1:]) for row in sorted(told)]

    def events_after(self, number: int) -> Iterator[tuple[int, Event]]:
        """What was written down since that event, of all members, each with its number from 1."""
        rows = self._database.execute(
            "SELECT n, at_ms, member, name, fields FROM event WHERE n > ? ORDER BY n", (number,)
        )
        for n, *event in rows:
            yield n, _event(*event)

    def orders(self, members: Sequence[int]) -> list[tuple[int, Order]]:
        """Every order that these members were given, with the end of the turn before."""
        marks = ",".join("?" * len(members))
        rows = self._database.execute(
            f"SELECT turn_ms, verb, member, image, amount FROM orders WHERE member IN ({marks})"  # noqa: S608 - the marks alone
            " ORDER BY n",
            tuple(members),
        )
        return [(turn_ms, Order(*order)) for turn_ms, *order in rows]

    def all_orders(self) -> list[Order]:
        """Every order that was given, in order."""
        rows = self._database.execute("SELECT verb, member, image, amount FROM orders ORDER BY n")
        return [Order(*row) for row in rows]

    def held(self) -> frozenset[int]:
        """Members that were paused or removed, and not taken back."""
        rows = self._database.execute(
            "SELECT member, verb FROM orders WHERE verb IN ('pause', 'remove', 'resume', 'add')"
            " ORDER BY n"
        )
        last = dict(rows)
        return frozenset(member for member, verb in last.items() if verb in ("pause", "remove"))

    def lives(self) -> list[int]:
        """When the run began, and went on."""
        return [
            row[0] for row in self._database.execute("SELECT begin_ms FROM life ORDER BY rowid")
        ]

    def kept(self) -> dict[int, Kept]:
        """The state of every device that has one."""
        pages = dict(self._database.execute("SELECT digest, octets FROM page"))
        return {
            member: _kept(json.loads(state), pages)
            for member, state in self._database.execute("SELECT member, state FROM kept")
        }

    # --- how it is written ------------------------------------------------------------------------

    def _state(self, kept: Kept) -> dict[str, Any]:
        banks = []
        for bank in kept.banks:
            digests = [hashlib.sha256(page).digest()[:16] for page in bank]
            for digest, page in zip(digests, bank, strict=True):
                if digest not in self._pages:
                    self._execute("INSERT INTO page VALUES (?, ?)", [(digest, page)])
                    self._pages.add(digest)
            banks.append(_text(b"".join(digests)))
        records = {name: _text(value) for name, value in kept.records.items()}
        return {"records": records, "ratchet": kept.ratchet, "banks": banks, "at": kept.at_ms}

    def _execute(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            self._database.executemany(statement, rows)
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")  # a crash may cost the last commits, no more
    return database


def _kept(state: Mapping[str, Any], pages: Mapping[bytes, bytes]) -> Kept:
    banks = []
    for bank in state["banks"]:
        digests = base64.b64decode(bank)
        banks.append(tuple(pages[digests[at : at + 16]] for at in range(0, len(digests), 16)))
    records = {name: base64.b64decode(value) for name, value in state["records"].items()}
    return Kept(records, tuple(state["ratchet"]), tuple(banks), state["at"])


def _event(at_ms: int, member: int, name: str, fields: str) -> Event:
    return Event(at_ms, member, name, json.loads(fields))


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(dict(fields), separators=(",", ":"))


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")
