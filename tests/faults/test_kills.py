"""The processes are killed at random moments of an update; every round ends in the same place.

``kill -9`` keeps what the page cache holds, so it finds other faults than a power cut: states that
no sync ever ordered, locks and sockets left behind, a hub that has forgotten everything.
"""

from __future__ import annotations

import random
import signal
import subprocess

import pytest
from processes import FILES, Household, household, looks

ROUNDS = 3
LONG_ROUNDS = 120
KILLS_MAX = 4
UPDATE_S = 1.2  # about as long as an update takes; a kill comes at any moment of it


def kill_device_after(home: Household, seconds: float) -> None:
    device = home.run()
    with pytest.raises(subprocess.TimeoutExpired):
        device.wait(seconds)
    device.kill()
    assert device.wait() == -signal.SIGKILL


def kill_hub_in_a_download(home: Household, kind: str) -> bool:
    """It loses its offer, never a message: none is under way before the activation.

    False: the update was over before, or went on too fast to be seen in its download.
    """
    device, caught = home.run(), False
    for _ in looks(device):
        status = home.status()
        if status is not None and status["state"] == "downloading":
            caught = status["upgrade"]["file_offset"] > 0
        if caught or (status is not None and status["state"] in ("confirmed", "reverted")):
            break
    if caught:
        home.stop_hub()
        home.start_hub()
        home.offer(FILES[kind])
    device.kill()
    assert device.wait() == -signal.SIGKILL
    return caught


def round_of(home: Household, seed: int) -> None:
    draw = random.Random(seed)
    kind = draw.choice(list(FILES))
    home.fresh()
    home.offer(FILES[kind])
    for _ in range(draw.randint(1, KILLS_MAX)):
        if draw.random() < 0.25:
            kill_hub_in_a_download(home, kind)
        else:
            kill_device_after(home, draw.uniform(0.2, UPDATE_S))
    code, errors = home.carry_through()
    assert code == 0, errors
    home.check_end(kind)


def test_kills_at_any_moment_end_in_the_same_place(request: pytest.FixtureRequest) -> None:
    rounds = LONG_ROUNDS if request.config.getoption("--long") else ROUNDS
    with household() as home:
        for seed in range(rounds):
            try:
                round_of(home, seed)
            except BaseException as failure:
                failure.add_note(f"seed {seed}")
                raise


@pytest.mark.parametrize("kind", FILES)
def test_a_hub_that_dies_in_a_download_and_forgets_it(kind: str) -> None:
    with household('wait_s = 1\nscript = ["wait:1:40000"]\n') as home:
        home.offer(FILES[kind])
        assert kill_hub_in_a_download(home, kind)
        code, errors = home.carry_through()
        assert code == 0, errors
        home.check_end(kind)
