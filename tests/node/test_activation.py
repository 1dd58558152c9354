"""How an image behaves after its start: self-test, crash, confirmation, the end of a trial."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firmware_node.boundary import Notify, Reboot
from firmware_node.node.activation import Trial, TrialFailed, TrialPassed
from firmware_node.terms import ActivationSettings, ImageKey
from firmware_node.wire.manufacturer_image import Manifest

SETTINGS = ActivationSettings(confirm_after_s=3, trial_limit_s=60)
WELL = Manifest(ImageKey(0x121D, 0x0084, 2), 0, 0xFFFF)
START = 10_000
PASSED_TEST = Notify("self_test", {"passed": True})
FAILED_TEST = Notify("self_test", {"passed": False})
CRASHED = Notify("image_crashed")


def life(manifest: Manifest | None, *, trial: bool = True) -> list[tuple[int, list[object]]]:
    """What comes of one start, with the milliseconds since it, until nothing more is due."""
    course = Trial(SETTINGS)
    course.begin(manifest, trial, START)
    told: list[tuple[int, list[object]]] = []
    while course.wake_at is not None:
        assert course.step(course.wake_at - 1) == ()
        at = course.wake_at
        outputs: list[object] = list(course.step(at))
        assert outputs, "woken for nothing"
        told.append((at - START, outputs))
        assert len(told) < 10
        if any(isinstance(output, Reboot) for output in outputs):
            break
    return told


@pytest.mark.parametrize("manifest", [WELL, None])
def test_a_good_image_is_confirmed_after_its_self_test_and_some_uptime(
    manifest: Manifest | None,
) -> None:
    assert life(manifest) == [(0, [PASSED_TEST]), (3_000, [TrialPassed()])]


def test_the_time_to_start_counts_before_the_uptime() -> None:
    slow = replace(WELL, startup_ms=5_000)
    assert life(slow) == [(5_000, [PASSED_TEST]), (8_000, [TrialPassed()])]


def test_a_failed_self_test_ends_the_trial() -> None:
    bad = replace(WELL, self_test=False, startup_ms=200)
    assert life(bad) == [(200, [FAILED_TEST, TrialFailed("self_test")])]


def test_an_image_that_never_confirms_is_left_at_the_limit_of_its_uptime() -> None:
    silent = replace(WELL, confirms=False)
    assert life(silent) == [(0, [PASSED_TEST]), (60_000, [TrialFailed("trial_limit")])]


def test_an_image_that_takes_too_long_to_start_is_left_at_the_limit() -> None:
    slow = replace(WELL, startup_ms=100_000)
    assert life(slow)[0] == (60_000, [TrialFailed("trial_limit")])


@pytest.mark.parametrize(
    ("after_ms", "expected"),
    [
        (100, [(0, [PASSED_TEST]), (100, [CRASHED, Reboot("crash")])]),
        (3_000, [(0, [PASSED_TEST]), (3_000, [CRASHED, Reboot("crash")])]),
        (
            3_001,
            [(0, [PASSED_TEST]), (3_000, [TrialPassed()]), (3_001, [CRASHED, Reboot("crash")])],
        ),
        (0, [(0, [PASSED_TEST, CRASHED, Reboot("crash")])]),
    ],
)
def test_an_image_that_crashes_does_so_before_a_confirmation_due_at_the_same_moment(
    after_ms: int, expected: list[tuple[int, list[object]]]
) -> None:
    assert life(replace(WELL, crash_after_ms=after_ms)) == expected


def test_a_crash_counts_from_when_the_image_is_up() -> None:
    manifest = replace(WELL, startup_ms=500, crash_after_ms=100)
    assert life(manifest)[-1] == (600, [CRASHED, Reboot("crash")])


@pytest.mark.parametrize(
    "manifest",
    [WELL, None, replace(WELL, confirms=False), replace(WELL, self_test=False, startup_ms=9)],
)
def test_a_confirmed_image_is_neither_tested_nor_left(manifest: Manifest | None) -> None:
    assert life(manifest, trial=False) == []


def test_a_confirmed_image_may_still_crash_and_nothing_else() -> None:
    manifest = replace(WELL, startup_ms=50, crash_after_ms=1_000)
    assert life(manifest, trial=False) == [(1_050, [CRASHED, Reboot("crash")])]


def test_a_timer_that_comes_late_takes_everything_in_order() -> None:
    course = Trial(SETTINGS)
    course.begin(WELL, True, START)
    assert list(course.step(START + 100_000)) == [PASSED_TEST, TrialPassed()]
    assert course.wake_at is None
    assert course.step(START + 200_000) == ()
