"""One upgrade a seed, through whatever it drew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from home import ACB, HUB, KEYS, SETTINGS, image

from firmware_node.rig.hub_terms import BLOCK_FAULTS, END_FAULTS, QUERY_FAULTS
from firmware_node.rig.invariants import WatchedDevice
from firmware_node.rig.swarm import Options, draw, replay

FACTORY = image(1)


def build(options: Options) -> WatchedDevice:
    ota = replace(SETTINGS.ota, block_size=options.block_size, page_size=options.page_size)
    return WatchedDevice(
        replace(SETTINGS, ota=ota),
        KEYS,
        factory_image=FACTORY,
        ota_file=image(2, size=options.image_size),
        bank_size=80 * 1024,
        seed=options.seed,
        is_spoilt=options.is_spoilt,
    )


@pytest.mark.parametrize("seed", range(40))
def test_an_upgrade_comes_to_its_end_whatever_the_seed_draws(seed: int) -> None:
    report = replay(seed, build, KEYS, HUB, ACB)
    assert report.options == draw(seed)
    assert report.checks > 100


@pytest.mark.long
@pytest.mark.parametrize("seed", range(40, 1_000))
def test_an_upgrade_comes_to_its_end_for_many_more_seeds(seed: int) -> None:
    replay(seed, build, KEYS, HUB, ACB)


def test_the_same_seed_gives_the_same_report() -> None:
    assert replay(6, build, KEYS, HUB, ACB) == replay(6, build, KEYS, HUB, ACB)


def test_the_seeds_draw_every_kind_of_fault() -> None:
    drawn = [draw(seed) for seed in range(1_000)]
    names = {rule.what for options in drawn for rule in options.script}
    assert names == {*BLOCK_FAULTS, *QUERY_FAULTS, *END_FAULTS}
    for name in ("loss", "duplication", "corruption", "reordering", "delay", "jitter_ms"):
        assert {bool(getattr(options.air, name)) for options in drawn} == {True, False}
    for name in ("cuts", "outages", "page_size", "block_period", "activate_after_s"):
        assert {bool(getattr(options, name)) for options in drawn} == {True, False}


def test_a_run_that_fails_tells_what_was_drawn() -> None:
    def forgetful(options: Options) -> WatchedDevice:
        device = build(options)
        device.ota_file = image(1)  # the version that runs already: nothing will happen
        return device

    with pytest.raises(AssertionError, match="I12") as failed:
        replay(13, forgetful, KEYS, HUB, ACB)
    assert failed.value.__notes__ == [f"seed 13: {draw(13)}"]
