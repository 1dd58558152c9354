"""One upgrade a seed, through whatever it drew."""

from __future__ import annotations

import json

import pytest

from firmware_node.cli import main
from firmware_node.replay import SetUp, run_replay
from firmware_node.rig.hub_terms import BLOCK_FAULTS, END_FAULTS, QUERY_FAULTS
from firmware_node.rig.invariants import WatchedDevice
from firmware_node.rig.swarm import Options, draw

SET_UP = SetUp()


@pytest.mark.parametrize("seed", range(40))
def test_an_upgrade_comes_to_its_end_whatever_the_seed_draws(seed: int) -> None:
    report = SET_UP.run(seed)
    assert report.options == draw(seed)
    assert report.checks > 100


@pytest.mark.long
@pytest.mark.parametrize("seed", range(40, 1_000))
def test_an_upgrade_comes_to_its_end_for_many_more_seeds(seed: int) -> None:
    SET_UP.run(seed)


def test_the_same_seed_gives_the_same_report() -> None:
    assert SET_UP.run(6) == SET_UP.run(6)


def test_the_seeds_draw_every_kind_of_fault() -> None:
    drawn = [draw(seed) for seed in range(1_000)]
    names = {rule.what for options in drawn for rule in options.script}
    assert names == {*BLOCK_FAULTS, *QUERY_FAULTS, *END_FAULTS}
    for name in ("loss", "duplication", "corruption", "reordering", "delay", "jitter_ms"):
        assert {bool(getattr(options.air, name)) for options in drawn} == {True, False}
    for name in ("cuts", "outages", "page_size", "block_period", "activate_after_s"):
        assert {bool(getattr(options, name)) for options in drawn} == {True, False}


class Forgetful(SetUp):
    """Offers the version that runs already, so that nothing will happen."""

    def device(self, options: Options) -> WatchedDevice:
        device = super().device(options)
        device.ota_file = self.image(1, 8_000)
        return device


def test_a_run_that_fails_tells_what_was_drawn_and_the_command_that_repeats_it() -> None:
    with pytest.raises(AssertionError, match="I12") as failed:
        Forgetful().run(13)
    assert failed.value.__notes__ == [
        f"seed 13: {draw(13)}",
        "again: firmware-node rig replay 13",
    ]


def test_a_replay_that_fails_is_a_no_with_what_was_drawn_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_replay(13, Forgetful(), as_json=False) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("seed 13 draws\n")
    assert shown.index("image_size:") < shown.index("broken: I12: ")
    assert shown.endswith("result: failed\n")
    assert run_replay(13, Forgetful(), as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["result"], document["report"]) == ("failed", None)
    assert document["broken"].startswith("I12: ")


def test_the_command_shows_what_was_drawn_and_then_the_same_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["rig", "replay", "6"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("seed 6 draws\n")
    assert shown.index("image_size:") < shown.index("running\n") < shown.index("virtual_ms:")
    assert shown.endswith("result: ok\n")
    assert main(["rig", "replay", "6", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    report = SET_UP.run(6)
    assert document["options"]["image_size"] == report.options.image_size
    assert document["report"]["virtual_ms"] == report.virtual_ms
    assert document["report"]["fired"] == list(report.fired)
    assert (document["result"], document["broken"]) == ("ok", None)
