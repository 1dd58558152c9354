"""Notifications that a sink still has to have: a small database beside the device's own.

It is no part of the device's state: a factory reset keeps it, and its loss costs words, nothing
else. What cannot be put in (full disk, ``NOTES_MAX``) is counted, and told in its place as
``notifications_lost`` once there is room.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from firmware_node.errors import StorageError

NOTES_MAX = 20_000  # some 5 MB: a busy week with a webhook that is down
LOST = "notifications_lost"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS note (n INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sink (name TEXT PRIMARY KEY, n INTEGER NOT NULL);
"""
_log = logging.getLogger(__name__)

Document = Mapping[str, str | int | float | bool | None]


class Spool:
    """Opens, or makes, the database; numbers rise for ever, also over restarts.

    ``sinks`` are the names of all that there are: a new one hears what comes from now on, one that
    is no longer named is forgotten.

    Raises:
        StorageError: the file cannot be opened or written.
    """

    def __init__(self, path: Path, sinks: Sequence[str]) -> None:
        self._lost = 0  # notifications that could not be put in
        try:
            self._database = _open(path)
            self._set_sinks(sinks)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path}: {error}") from error

    def add(self, documents: Sequence[Document]) -> None:
        """Durable when this returns, unless there is no room; a failure is logged and counted."""
        wanted = list(documents)
        if self._lost:
            wanted.insert(0, {"at": documents[0].get("at"), "name": LOST, "count": self._lost})
        try:
            (count,) = self._database.execute("SELECT count(*) FROM note").fetchone()
            if count + len(wanted) > NOTES_MAX:
                raise sqlite3.OperationalError(f"{NOTES_MAX} notifications wait")
            self._database.executemany(
                "INSERT INTO note (text) VALUES (?)", [(json.dumps(dict(d)),) for d in wanted]
            )
            self._database.commit()
        except sqlite3.Error as error:
            self._database.rollback()
            if not self._lost:
                _log.error("notifications are not kept any more: %s", error)
            self._lost += len(documents)
        else:
            self._lost = 0

    def waiting(self, sink: str, limit: int = -1) -> list[tuple[int, Document]]:
        """What ``sink`` has not had, with its number, oldest first."""
        rows = self._database.execute(
            "SELECT n, text FROM note WHERE n > (SELECT n FROM sink WHERE name = ?) "
            "ORDER BY n LIMIT ?",
            (sink, limit),
        )
        return [(number, json.loads(text)) for number, text in rows]

    def count(self, sink: str) -> int:
        """How many ``sink`` has not had."""
        (count,) = self._database.execute(
            "SELECT count(*) FROM note WHERE n > (SELECT n FROM sink WHERE name = ?)", (sink,)
        ).fetchone()
        return int(count)

    def delivered(self, sink: str, number: int) -> None:
        """``sink`` has had everything up to ``number``; durable when this returns.

        Raises:
            StorageError: that cannot be written, so it will be delivered again.
        """
        try:
            self._database.execute("UPDATE sink SET n = ? WHERE name = ?", (number, sink))
            self._database.execute("DELETE FROM note WHERE n <= (SELECT min(n) FROM sink)")
            self._database.commit()
        except sqlite3.Error as error:
            self._database.rollback()
            raise StorageError(f"notifications: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _set_sinks(self, sinks: Sequence[str]) -> None:
        row = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'note'")
        (last,) = row.fetchone() or (0,)
        for (name,) in self._database.execute("SELECT name FROM sink").fetchall():
            if name not in sinks:
                self._database.execute("DELETE FROM sink WHERE name = ?", (name,))
        self._database.executemany(
            "INSERT OR IGNORE INTO sink VALUES (?, ?)", [(name, last) for name in sinks]
        )
        self._database.commit()


def _open(path: Path) -> sqlite3.Connection:
    """The database, of its owner alone; a damaged one is put aside."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # the machine's fault, not the file's
            raise
        aside = path.with_name(f"{path.name}.damaged")
        _log.error("%s: %s; put aside as %s, what waited is lost", path, error, aside.name)
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode = TRUNCATE")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_SCHEMA)
        if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("it is damaged")
    except BaseException:
        database.close()
        raise
    return database
