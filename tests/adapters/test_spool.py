"""The spool of notifications on real files."""

from __future__ import annotations

import logging
import resource
import signal
from pathlib import Path

import pytest

from firmware_node.adapters import spool as module
from firmware_node.adapters.spool import LOST, Spool
from firmware_node.errors import StorageError


def told(*names: str) -> list[dict[str, str]]:
    return [{"at": "2030-01-01T00:00:00Z", "name": name} for name in names]


def names(spool: Spool, sink: str) -> list[str]:
    return [str(document["name"]) for _, document in spool.waiting(sink)]


def test_each_sink_has_what_it_has_not_had_over_restarts_and_numbers_only_rise(
    tmp_path: Path,
) -> None:
    path = tmp_path / "n.db"
    spool = Spool(path, ["a", "b"])
    assert path.stat().st_mode & 0o777 == 0o600
    spool.add(told("one", "two", "three"))
    spool.delivered("a", spool.waiting("a")[1][0])
    spool.close()
    spool = Spool(path, ["a", "b"])
    assert (names(spool, "a"), names(spool, "b")) == (["three"], ["one", "two", "three"])
    assert (spool.count("a"), spool.count("b")) == (1, 3)
    (last, _) = spool.waiting("b")[-1]
    for sink in ("a", "b"):
        spool.delivered(sink, last)
    spool.close()
    spool = Spool(path, ["a", "b"])  # empty, and yet the next number is a new one
    spool.add(told("four"))
    assert spool.waiting("a") == [(last + 1, told("four")[0])]
    spool.close()


def test_a_new_sink_hears_from_now_on_and_one_that_is_gone_holds_nothing_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "n.db", ["old"])
    spool.add(told("one"))
    spool.close()
    spool = Spool(tmp_path / "n.db", ["new"])
    spool.add(told("two"))
    assert names(spool, "new") == ["two"]
    spool.delivered("new", spool.waiting("new")[0][0])
    spool.close()
    spool = Spool(tmp_path / "n.db", ["new", "old"])
    assert names(spool, "old") == []
    spool.close()


def test_when_too_many_wait_the_new_ones_are_counted_and_told_as_lost_in_their_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "n.db", ["a"])
    spool.add(told(*["early"] * module.NOTES_MAX))
    with caplog.at_level(logging.ERROR):
        spool.add(told("never", "ever"))
        spool.add(told("again"))
    assert len(caplog.records) == 1
    assert spool.count("a") == module.NOTES_MAX
    spool.delivered("a", spool.waiting("a", 10)[-1][0])
    spool.add(told("late"))
    (_, lost), (_, late) = spool.waiting("a")[-2:]
    assert (lost["name"], lost["count"], late["name"]) == (LOST, 3, "late")
    spool.close()


def test_a_file_that_cannot_grow_loses_words_and_nothing_else(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "n.db", ["a"])
    spool.add(told("one"))
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "n.db").stat().st_size, limits[1]))
    try:
        spool.add(told("x" * 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert names(spool, "a") == ["one"]
    spool.add(told("two"))
    assert names(spool, "a") == ["one", LOST, "two"]
    spool.close()


def test_a_damaged_file_is_put_aside_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "n.db"
    path.write_bytes(b"no database at all" * 1000)
    spool = Spool(path, ["a"])
    spool.add(told("one"))
    assert names(spool, "a") == ["one"]
    assert (tmp_path / "n.db.damaged").read_bytes().startswith(b"no database")
    assert "what waited is lost" in caplog.text
    spool.close()


def test_a_folder_that_is_not_there_is_an_error_of_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        Spool(tmp_path / "none" / "n.db", ["a"])
