"""Speed and waiting, as a daemon tells them beside its machine's own account."""

from __future__ import annotations

from typing import Any

import pytest

from firmware_node.adapters.pace import WAITS_FOR, Pace, Watch
from firmware_node.boundary import Notify


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def status(upgrade: str = "normal", state: str = "idle", *, joined: bool = True) -> dict[str, Any]:
    return {
        "state": state,
        "network": {"joined": joined},
        "upgrade": {"status": upgrade, "file_offset": 30_000, "total_size": 50_000},
    }


def told(watch: Watch, document: dict[str, Any]) -> tuple[str, float | None]:
    watch.add_to(document)
    waits = document["waits_for"]
    assert waits["text"] == WAITS_FOR[waits["what"]]
    return waits["what"], waits["seconds"]


def test_speed_counts_from_where_we_began_to_look() -> None:
    clock = Clock()
    pace = Pace(10_000, 200, clock)
    assert pace.report(10_000, 50_000, 200) == {"blocks_per_second": None, "eta_seconds": None}
    clock.now_s += 4
    assert pace.report(30_000, 50_000, 600) == {"blocks_per_second": 100, "eta_seconds": 4}


def test_progress_gets_its_speed_and_other_notifications_stay_as_they_are() -> None:
    clock = Clock()
    watch = Watch(50, clock)
    started = Notify("download_started", {"version": "2", "file_offset": 0, "total_size": 50_000})
    assert watch.heard(started) == started
    clock.now_s += 2
    progress = Notify("download_progress", {"file_offset": 30_000, "total_size": 50_000})
    speed: dict[str, Any] = {"blocks_per_second": 300.0, "eta_seconds": 1.3}
    assert watch.heard(progress).fields == {**progress.fields, **speed}
    document = status("download_in_progress")
    watch.add_to(document)
    assert document["upgrade"] == {**status("download_in_progress")["upgrade"], **speed}


def test_a_wait_of_known_length_is_counted_down_and_forgotten_when_a_block_comes() -> None:
    clock = Clock()
    watch = Watch(50, clock)
    watch.heard(Notify("download_started", {"file_offset": 0, "total_size": 50_000}))
    watch.heard(Notify("download_waiting", {"seconds": 60}))
    clock.now_s += 20
    assert told(watch, status("download_in_progress")) == ("server_data", 40.0)
    clock.now_s += 41
    assert told(watch, status("download_in_progress")) == ("block", None)
    watch.heard(Notify("download_waiting", {"seconds": 60}))
    watch.heard(Notify("download_progress", {"file_offset": 500, "total_size": 50_000}))
    assert told(watch, status("download_in_progress")) == ("block", None)


def test_a_scheduled_activation_is_counted_down() -> None:
    clock = Clock()
    watch = Watch(50, clock)
    watch.heard(Notify("activation_scheduled", {"seconds": 3.0}))
    clock.now_s += 1
    assert told(watch, status("count_down", "waiting")) == ("activation_time", 2.0)


def test_a_full_disk_is_what_a_paused_download_waits_for() -> None:
    watch = Watch(50)
    watch.heard(Notify("download_paused", {"cause": "storage_full", "file_offset": 0}))
    assert told(watch, status("download_in_progress")) == ("free_space", None)


@pytest.mark.parametrize(
    ("document", "what"),
    [
        (status(), "offer"),
        (status(joined=False), "network"),
        (status(state="restarting", joined=False), "restart"),
        (status(state="trial", joined=False), "confirmation"),
        (status("download_complete"), "server_answer"),
        (status("waiting_to_upgrade"), "server_permission"),
        (status("waiting_to_upgrade_via_external_event"), "activation_message"),
        (status("count_down"), "activation_time"),
    ],
)
def test_each_state_says_what_it_waits_for(document: dict[str, Any], what: str) -> None:
    assert told(Watch(50), document) == (what, None)
