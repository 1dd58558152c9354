"""What a host keeps of its share of a fleet, so that it comes back as after a power cut.

One SQLite database for each share. A commit holds together: what devices made durable, how far
the orders were carried out that led there, and what is to be told of it. So an order was either
carried out, remembered and will be told of, or it was not and comes again. Pages of banks are held
once, however many devices hold them.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from firmware_node.errors import StorageError
from firmware_node.fleet.home import Kept
from firmware_node.fleet.streams import Inbox
from firmware_node.fleet.terms import Event

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS kept (member INTEGER PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS page (digest BLOB PRIMARY KEY, octets BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY, event TEXT NOT NULL);
"""


class ShardStore:
    """The store at ``path``; made if it is not there. One thread at a time.

    Raises:
        StorageError: the disk does not take or give it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._database = sqlite3.connect(path, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
            self._about: dict[str, str] = dict(self._database.execute("SELECT * FROM about"))
            self._pages = {row[0] for row in self._database.execute("SELECT digest FROM page")}
            if "source" not in self._about:
                self._put_about("source", secrets.token_hex(8))
                self._database.commit()
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path}: {error}") from error
        self._digests: dict[bytes, bytes] = {}

    @property
    def source(self) -> str:
        """The name of the stream of events: this store's own."""
        return self._about["source"]

    @property
    def now_ms(self) -> int | None:
        """How far the share was at the last commit; None: it never ran."""
        found = self._about.get("now_ms")
        return None if found is None else int(found)

    @property
    def acknowledged(self) -> int:
        """The number of the last event that is not held here any more."""
        return int(self._about.get("acknowledged", "0"))

    def held(self) -> set[int]:
        """Members without supply until somebody gives it back."""
        return set(json.loads(self._about.get("held", "[]")))

    def inbox(self, fleet: str) -> Inbox:
        """How far the orders were carried out."""
        source, taken, past = json.loads(self._about.get("orders", '["", 0, []]'))
        return Inbox(fleet, source, taken, past)

    def events(self) -> list[Event]:
        """What was told and nobody acknowledged, oldest first."""
        rows = self._database.execute("SELECT event FROM outbox ORDER BY number")
        return [Event(*json.loads(row[0])) for row in rows]

    def kept(self) -> dict[int, Kept]:
        """The state of every device that has one."""
        pages: dict[bytes, bytes] = dict(self._database.execute("SELECT * FROM page"))
        found = {}
        for member, text in self._database.execute("SELECT * FROM kept"):
            state = json.loads(text)
            found[member] = Kept(
                {name: bytes.fromhex(value) for name, value in state["records"].items()},
                tuple(state["ratchet"]),
                tuple(
                    tuple(pages[bytes.fromhex(digest)] for digest in bank)
                    for bank in state["banks"]
                ),
                state["at_ms"],
            )
        return found

    def commit(
        self,
        now_ms: int,
        *,
        kept: Mapping[int, Kept],
        held: Iterable[int],
        orders: Inbox,
        first: int,
        events: Sequence[Event],
        acknowledged: int,
    ) -> None:
        """All of it, or nothing; durable when it returns. ``first`` numbers ``events``."""
        try:
            for member, state in kept.items():
                self._put_kept(member, state)
            rows = [
                (first + place, json.dumps([*event[:3], dict(event.fields)]))
                for place, event in enumerate(events)
            ]
            self._database.executemany("INSERT INTO outbox VALUES (?, ?)", rows)
            if acknowledged != self.acknowledged:
                self._database.execute("DELETE FROM outbox WHERE number <= ?", (acknowledged,))
            self._put_about("now_ms", str(now_ms))
            self._put_about("acknowledged", str(acknowledged))
            self._put_about("held", json.dumps(sorted(held)))
            self._put_about("orders", json.dumps([orders.source, orders.taken, [*orders.past]]))
            self._database.commit()
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _put_about(self, name: str, value: str) -> None:
        if self._about.get(name) != value:
            self._database.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))
            self._about[name] = value

    def _put_kept(self, member: int, kept: Kept) -> None:
        state = {
            "records": {name: value.hex() for name, value in kept.records.items()},
            "ratchet": kept.ratchet,
            "banks": [[self._put_page(page).hex() for page in bank] for bank in kept.banks],
            "at_ms": kept.at_ms,
        }
        row = (member, json.dumps(state, separators=(",", ":")))
        self._database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", row)

    def _put_page(self, page: bytes) -> bytes:
        digest = self._digests.get(page)
        if digest is None:
            digest = hashlib.sha256(page).digest()[:16]
            if len(self._digests) < _DIGESTS_MAX:
                self._digests[page] = digest
        if digest not in self._pages:
            self._database.execute("INSERT INTO page VALUES (?, ?)", (digest, page))
            self._pages.add(digest)
        return digest


_DIGESTS_MAX: Final = 4_096  # pages whose digest is at hand: 16 MiB of images


def remove_store(path: Path) -> None:
    """The share is not wanted any more."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
