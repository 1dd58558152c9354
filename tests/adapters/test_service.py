"""The state of a daemon in words, and what SIGHUP changes."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware_node.adapters.service import Reload, device_words, hub_words, tell_status
from firmware_node.config import DeviceConfig, DeviceSection, KeysSection, LogSection
from firmware_node.errors import ConfigError

CONFIG = DeviceConfig(
    DeviceSection("ppmid", "00-DB-12-34-56-78-90-A4", 0x121D, 0x84, 0x1111), KeysSection("keys")
)


def status(state: str, upgrade: str = "normal", **changes: Any) -> dict[str, Any]:
    return {
        "state": state,
        "network": {"joined": True},
        "radio": {"fault": None},
        "upgrade": {"status": upgrade, "file_offset": 6_500, "total_size": 10_000},
        "banks": {"A": {"version": "00000001"}, "B": {"version": None}},
        "running_bank": "A",
        "last_failure": None,
    } | changes


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (status("idle"), "idle: running version 00000001 in bank A"),
        (status("confirmed"), "confirmed: running version 00000001 in bank A"),
        (status("trial"), "trial: version 00000001 in bank A, not confirmed yet"),
        (
            status("downloading", "download_in_progress"),
            "downloading: 65 % of 10000 bytes, running version 00000001 in bank A",
        ),
        (
            status("waiting", "waiting_to_upgrade_via_external_event"),
            "waiting: an image is verified, activation by command (CS06); "
            "running version 00000001 in bank A",
        ),
        (
            status("waiting", "count_down"),
            "waiting: activation has its time; running version 00000001 in bank A",
        ),
        (
            status("failed", last_failure={"phase": "download", "cause": "aborted"}),
            "failed (download: aborted): running version 00000001 in bank A",
        ),
        (
            status("idle", network={"joined": False}),
            "degraded: no network, waiting for the hub; idle: running version 00000001 in bank A",
        ),
        (
            status("idle", network={"joined": False}, radio={"fault": "no such port"}),
            "degraded: the radio is away (no such port); idle: running version 00000001 in bank A",
        ),
    ],
)
def test_a_state_is_one_line_for_people(document: dict[str, Any], words: str) -> None:
    assert device_words(document) == words


def test_a_hub_counts_what_it_serves() -> None:
    status: dict[str, Any] = {"devices": [1, 2], "offers": [1], "radio": {"fault": None}}
    assert hub_words(status) == "serving: 2 devices, 1 offer"
    status["radio"] = {"fault": "no such port"}
    assert hub_words(status) == "degraded: the radio is away (no such port); 2 devices, 1 offer"


def test_only_changed_words_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/somewhere")
    told: list[str] = []
    words = iter(["idle", "idle", "downloading"])

    async def story() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await tell_status(lambda: next(words), told.append, 0)

    asyncio.run(story())
    assert told == ["STATUS=downloading"]


def test_nobody_is_told_where_no_service_manager_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    told: list[str] = []
    asyncio.run(tell_status(lambda: "idle", told.append))
    assert told == []


@pytest.fixture
def root_level() -> Iterator[Callable[[], int]]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.WARNING)
    yield lambda: root.level
    root.setLevel(before)


def test_a_reload_takes_the_level_and_gives_it_back(root_level: Callable[[], int]) -> None:
    files = iter([dataclasses.replace(CONFIG, log=LogSection("debug")), CONFIG])
    reload = Reload(CONFIG, lambda: next(files))
    reload()
    assert root_level() == logging.DEBUG
    reload()
    assert root_level() == logging.WARNING


def test_a_reload_names_each_value_that_needs_a_start(
    root_level: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    ota = dataclasses.replace(CONFIG.ota, block_size=48)
    new = dataclasses.replace(CONFIG, ota=ota, keys=KeysSection(str(Path("other"))))
    reload = Reload(CONFIG, lambda: new)
    reload()
    reload()  # still not taken, so still named
    names = [message.split()[0] for message in caplog.messages]
    assert names == ["keys.directory", "ota.block_size"] * 2


def test_a_configuration_that_cannot_be_read_changes_nothing(
    root_level: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> DeviceConfig:
        raise ConfigError("ppmid.toml:3: unknown key")

    reload = Reload(dataclasses.replace(CONFIG, log=LogSection("error")), broken)
    reload()
    assert caplog.messages == ["configuration not taken: ppmid.toml:3: unknown key"]
    assert root_level() == logging.ERROR
