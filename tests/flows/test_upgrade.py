"""A PPMID and its hub in virtual time: from the offer to the alert, and what goes wrong between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from home import ACB, FACTORY_ONLY, HUB, PPMID, SETTINGS, Story, image, with_ota

from firmware_node.boundary import ReadVersion, RebootRequested
from firmware_node.rig.comms_hub import HubSettings, Misbehaviour
from firmware_node.rig.world import Air
from firmware_node.terms import EntityId


def test_an_offered_image_is_downloaded_activated_confirmed_and_told(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.offer(image(2))
    assert story.until("CS09")
    story.world.tell_head_end(ReadVersion("q", EntityId.parse("90B3D51F30010000"), 7, PPMID))
    assert story.until("CS08")
    story.world.run_for(1000)
    told = [(m.use_case, m.kind, m.alert_code, m.signature, m.mac) for m in story.messages()]
    assert told == [
        ("CCS08", "alert", 0x8F8A, "valid", "absent"),
        ("CS09", "alert", 0x8F8B, "valid", "absent"),
        ("CS08", "response", None, "absent", "valid"),
    ]
    assert [m.fields.get("firmware_version") for m in story.messages()] == ["00000002"] * 3
    assert story.versions() == ("B", "00000001", "00000002")
    assert story.bank_states() == ("confirmed", "confirmed")
    assert story.status()["state"] == "confirmed"
    assert story.status()["outbox"] == 0


def test_two_upgrades_in_a_row_use_the_banks_in_turn(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.offer(image(2))
    assert story.until("CS09")
    story.world.head_end_effects.clear()
    story.offer(image(3))
    assert story.until("CS09")
    assert story.versions() == ("A", "00000003", "00000002")


def test_a_failed_self_test_reverts_and_tells_of_failure(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.offer(image(2, change=lambda manifest: replace(manifest, self_test=False)))
    assert story.until("CS09")
    assert story.messages()[-1].fields["result"] == 1
    assert story.messages()[-1].fields["firmware_version"] == "00000001"
    story.world.run_for(2000)
    assert story.versions() == ("A", "00000001", "00000002")
    assert story.bank_states() == ("confirmed", "rejected")
    assert story.status()["state"] == "reverted"


def test_a_crash_loop_is_left_after_the_permitted_starts(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.offer(image(2, change=lambda manifest: replace(manifest, crash_after_ms=100)))
    assert story.until("CS09")
    assert story.names().count("image_crashed") == SETTINGS.activation.trial_starts_max
    assert story.messages()[-1].fields["result"] == 1
    assert story.versions()[0] == "A"


def test_an_image_that_never_confirms_is_reverted_at_the_uptime_limit(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.offer(image(2, change=lambda manifest: replace(manifest, confirms=False)))
    assert story.until("CS09")
    assert story.world.now_ms > SETTINGS.activation.trial_limit_s * 1000
    assert story.bank_states() == ("confirmed", "rejected")


def test_power_cycles_of_a_confirmed_image_never_count(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.offer(image(2))
    assert story.until("CS09")
    for _ in range(3 * SETTINGS.activation.trial_starts_max):
        story.world.restart(story.home)
    assert story.versions() == ("B", "00000001", "00000002")


def test_a_rejected_image_is_not_taken_a_second_time(tmp_path: Path) -> None:
    story = Story(tmp_path)
    bad = image(2, change=lambda manifest: replace(manifest, self_test=False))
    story.offer(bad)
    assert story.until("CS09")
    story.world.head_end_effects.clear()
    story.offer(bad)
    assert story.until("CCS08")
    assert story.messages()[-1].fields["response_code"] == 3
    assert story.status()["last_failure"] is not None
    assert story.versions()[0] == "A"


def test_a_restart_in_mid_download_goes_on_where_it_was(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.offer(image(2, size=40_000))
    story.world.run_until(lambda: story.device.status(0)["upgrade"]["file_offset"] > 20_000)  # type: ignore[index]
    story.world.tell(story.home, RebootRequested())
    assert story.until("CS09")
    started = [
        note.fields["file_offset"]
        for _, _, note in story.world.notes
        if note.name == "download_started"
    ]
    assert started[0] == 0
    assert isinstance(started[1], int) and started[1] >= 16_384
    assert story.versions() == ("B", "00000001", "00000002")


def test_pages_carry_the_same_image(tmp_path: Path) -> None:
    story = Story(tmp_path, settings=with_ota(page_size=1024, page_spacing_ms=10))
    story.offer(image(2))
    assert story.until("CS09")
    assert story.versions() == ("B", "00000001", "00000002")


def test_pages_fall_back_to_blocks_when_the_hub_has_none(tmp_path: Path) -> None:
    hub = HubSettings(HUB, ACB, pages=False)
    story = Story(tmp_path, hub=hub, settings=with_ota(page_size=1024))
    story.offer(image(2))
    assert story.until("CS09")
    assert story.versions()[0] == "B"


def test_shorter_blocks_than_asked_for_are_taken(tmp_path: Path) -> None:
    story = Story(tmp_path, hub=HubSettings(HUB, ACB, block_size_max=17))
    story.offer(image(2))
    assert story.until("CS09")
    assert story.versions()[0] == "B"


@pytest.mark.parametrize(
    "what",
    [
        "silence",
        "wait",
        "wrong_offset",
        "wrong_image",
        "truncated",
        "oversized",
        "malformed",
        "repeated",
        "default_error",
    ],
)
def test_a_hub_that_misbehaves_for_a_while_delays_and_does_not_spoil(
    tmp_path: Path, what: str
) -> None:
    hub = HubSettings(HUB, ACB, script=(Misbehaviour(what, times=3, from_offset=1000),))
    story = Story(tmp_path, hub=hub)
    story.offer(image(2))
    assert story.until("CS09")
    assert story.hub.fired == [what] * 3
    assert story.versions() == ("B", "00000001", "00000002")


def test_an_abort_ends_the_download_and_a_fresh_start_succeeds(tmp_path: Path) -> None:
    hub = HubSettings(HUB, ACB, script=(Misbehaviour("abort", from_offset=3000),))
    story = Story(tmp_path, hub=hub)
    story.offer(image(2))
    assert story.world.run_until(lambda: "upgrade_failed" in story.names())
    assert story.bank_states() == FACTORY_ONLY
    assert story.until("CS09")
    assert story.versions()[0] == "B"


def test_a_hub_that_holds_is_asked_again_and_may_let_go(tmp_path: Path) -> None:
    story = Story(tmp_path, hub=HubSettings(HUB, ACB, activate_after_s=None))
    story.offer(image(2))
    assert story.until("CCS08")
    story.world.run_for(30 * 60_000)
    assert story.bank_states() == ("confirmed", "verified")
    assert story.status()["state"] == "waiting"


@pytest.mark.parametrize("seed", range(6))
def test_a_bad_air_delays_and_does_not_spoil(tmp_path: Path, seed: int) -> None:
    air = Air(latency_ms=5, jitter_ms=40, loss=5, duplication=5)
    story = Story(tmp_path, air=air, seed=seed)
    story.offer(image(2))
    assert story.until("CS09", limit_ms=24 * 3_600_000)
    assert story.versions() == ("B", "00000001", "00000002")


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        story = Story(tmp_path / name, air=Air(jitter_ms=30, loss=5, duplication=5), seed=4)
        story.offer(image(2))
        assert story.until("CS09")
        runs.append((story.world.notes, [m.message for m in story.messages()]))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("seed", range(6))
def test_corrupted_frames_never_make_a_bad_image_run(tmp_path: Path, seed: int) -> None:
    story = Story(tmp_path, air=Air(loss=2, corruption=2), seed=seed)
    story.offer(image(2))
    story.world.run_for(600_000)
    running, _, other = story.versions()
    assert (running, other) in {("A", None), ("B", "00000002")}
    assert story.bank_states()[0] == "confirmed"


def test_a_verified_image_that_waits_survives_a_restart(tmp_path: Path) -> None:
    story = Story(tmp_path, hub=HubSettings(HUB, ACB, activate_after_s=120))
    story.offer(image(2))
    assert story.until("CCS08")
    story.world.run_for(1000)
    story.world.tell(story.home, RebootRequested())
    assert story.until("CS09")
    assert story.names().count("download_started") == 1
    assert story.versions()[0] == "B"
