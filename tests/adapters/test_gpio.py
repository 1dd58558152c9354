"""One suite for every GPIO back end, what is each one's own, and which one ``auto`` takes.

The back ends work on fakes of their libraries, or where ``real_pins`` says so on real pins.
"""

from __future__ import annotations

import errno
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import real_pins
from gpio_fakes import LABEL, Board, Chip, GpiodModules, LineSettings, RpiGpio

from firmware_node.adapters.gpio import Maker, open_lines
from firmware_node.adapters.gpio.gpiod_lines import GpiodLines
from firmware_node.adapters.gpio.memory_lines import EDGES_KEPT, MemoryLines, NoLines
from firmware_node.adapters.gpio.refusals import UnusableError
from firmware_node.adapters.gpio.rpi_lines import RpiLines
from firmware_node.boundary import LineSpec, RelayPort
from firmware_node.errors import ConfigError, EnvironmentFailure

MAIN = {"main": LineSpec(17)}
BOTH = {"main": LineSpec(17), "boost": LineSpec(27, active_low=True)}


@dataclass
class Bench:
    """A back end, and a look at its pins that does not go through it."""

    port: RelayPort
    label: str  # of its chip
    level: Callable[[int], int | None]  # None: not driven
    press: Callable[[int, int], None]  # an input gets this level from outside
    count: Callable[[], int] | None = None  # edges; None: nobody counts them
    pulls: bool = True  # its inputs have resistors

    def edges(self) -> int:
        return self.count() if self.count is not None else 0

    def has_seen(self, edges: int) -> bool:
        return self.count is None or self.count() == edges


def gpiod_bench(board: Board) -> Bench:
    modules = GpiodModules({"/dev/gpiochip0": Board("other"), "/dev/gpiochip4": board})
    port = GpiodLines(load=modules.load, devices=modules.devices)
    return Bench(port, LABEL, board.levels.get, board.pull, lambda: len(board.history))


def rpi_bench(board: Board, flavour: str, label: str) -> Bench:
    port = RpiLines(load=RpiGpio(board, flavour).load)
    return Bench(port, label, board.levels.get, board.pull, lambda: len(board.history))


def memory_bench(board: Board) -> Bench:
    port = MemoryLines(held_by=board.holders)

    def press(number: int, level: int) -> None:
        port.levels[number] = level

    return Bench(
        port, "memory", lambda number: port.levels.get(number), press, lambda: len(port.edges)
    )


def real_bench(board: Board) -> Bench:
    pins = real_pins.Pins()
    label = real_pins.LABEL if real_pins.ASKED == "gpiod" else "RPi.GPIO"
    return Bench(real_pins.make_port(board), label, pins.level, pins.press, pulls=False)


BENCHES: dict[str, Callable[[Board], Bench]] = {
    "gpiod": gpiod_bench,
    "rpi-gpio": lambda board: rpi_bench(board, "original", "RPi.GPIO"),
    "rpi-lgpio": lambda board: rpi_bench(board, "lgpio", "rpi-lgpio"),
    "memory": memory_bench,
}
if real_pins.ASKED:
    BENCHES = {real_pins.ASKED: real_bench}
WITHOUT_HISTORY = ("memory", real_pins.ASKED)
every_back_end = pytest.mark.parametrize("name", BENCHES)


@pytest.fixture(autouse=True)
def lines_are_let_go() -> Iterator[None]:
    yield
    real_pins.let_go()


# --- the contract ---------------------------------------------------------------------------------


@every_back_end
def test_a_claim_drives_each_line_to_its_initial_state(name: str) -> None:
    bench = BENCHES[name](Board())
    lines = {
        "a": LineSpec(5, active_low=False, initial=False),
        "b": LineSpec(6, active_low=False, initial=True),
        "c": LineSpec(7, active_low=True, initial=False),
        "d": LineSpec(8, active_low=True, initial=True),
    }
    bench.port.claim(lines)
    assert [bench.level(number) for number in (5, 6, 7, 8)] == [0, 1, 1, 0]
    assert [bench.port.get(line) for line in lines] == [False, True, False, True]
    assert bench.has_seen(4)  # none was driven the other way first


@every_back_end
@pytest.mark.parametrize(("line", "number", "levels"), [("main", 17, "010"), ("boost", 27, "101")])
def test_a_line_follows_what_is_set(name: str, line: str, number: int, levels: str) -> None:
    bench = BENCHES[name](Board())
    bench.port.claim(BOTH)
    seen = str(bench.level(number))
    for on in (True, False):
        bench.port.set(line, on)
        assert bench.port.get(line) is on
        seen += str(bench.level(number))
    assert seen == levels


@every_back_end
def test_a_line_that_is_so_already_sees_no_edge(name: str) -> None:
    bench = BENCHES[name](Board())
    bench.port.claim(BOTH)
    before = bench.edges()
    bench.port.set("main", False)
    bench.port.set("boost", False)
    assert bench.has_seen(before)
    bench.port.set("boost", True)
    bench.port.set("boost", True)
    assert bench.has_seen(before + 1)


@every_back_end
def test_a_release_drives_the_safe_state_and_then_lets_go(name: str) -> None:
    board = Board()
    bench = BENCHES[name](board)
    bench.port.claim(BOTH)
    bench.port.set("main", True)
    bench.port.set("boost", True)
    before = len(board.history)
    bench.port.release({"main": False, "boost": False})
    assert (bench.level(17), bench.level(27)) == (None, None)
    if name not in WITHOUT_HISTORY:
        assert board.history[before:] == [(17, 0), (27, 1), (17, None), (27, None)]
    bench.port.release({"main": False})  # once more does nothing
    assert bench.level(17) is None


@every_back_end
def test_a_release_without_a_safe_state_drives_nothing(name: str) -> None:
    bench = BENCHES[name](Board())
    bench.port.claim(MAIN)
    bench.port.set("main", True)
    before = bench.edges()
    bench.port.release(None)
    assert bench.has_seen(before + (0 if name == "memory" else 1))  # the letting go itself
    assert bench.level(17) is None


@every_back_end
def test_released_lines_can_be_claimed_again(name: str) -> None:
    bench = BENCHES[name](Board())
    for on in (False, True):
        bench.port.claim({"main": LineSpec(17, initial=on)})
        assert bench.level(17) == int(on)
        bench.port.release(None)


@every_back_end
@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ({"main": LineSpec(17), "boost": LineSpec(17)}, "line 17 is both main and boost"),
        ({"main": LineSpec(64)}, "line of main: found 64, expected 0 to"),
        ({"main": LineSpec(-1)}, "line of main: found -1, expected 0 to"),
    ],
)
def test_lines_that_cannot_be_are_the_operators_error(
    name: str, lines: dict[str, LineSpec], reason: str
) -> None:
    bench = BENCHES[name](Board())
    with pytest.raises(ConfigError, match=reason):
        bench.port.claim(lines)
    assert bench.has_seen(0)
    bench.port.claim(MAIN)


@pytest.mark.parametrize("name", [name for name in BENCHES if name != "rpi-gpio"])
def test_a_held_line_is_named_and_no_other_is_kept(name: str) -> None:
    board = Board(holders={27: "w1"})
    bench = BENCHES[name](board)
    with pytest.raises(EnvironmentFailure) as refused:
        bench.port.claim(BOTH)
    who = "RPi.GPIO is held by" if name == "rpi-lgpio" else f'{bench.label} is held by "w1"'
    assert f"line 27 on {who}" in str(refused.value)
    assert not isinstance(refused.value, UnusableError)  # no other back end would do better
    assert board.holders == {27: "w1"}
    bench.port.claim(MAIN)
    assert bench.level(17) == 0


@every_back_end
@pytest.mark.parametrize("active_low", [False, True])
def test_an_input_is_pulled_off_and_read_and_never_driven(name: str, active_low: bool) -> None:
    bench = BENCHES[name](Board())
    if not bench.pulls:
        bench.press(5, int(active_low))
    bench.port.claim(MAIN | {"button": LineSpec(5, active_low, is_input=True)})
    before = bench.edges()
    assert bench.port.get("button") is False
    for on in (True, False):
        bench.press(5, int(on != active_low))
        assert bench.port.get("button") is on
    assert bench.has_seen(before)
    bench.port.release({"main": False})
    assert (bench.level(5), bench.level(17)) == (None, None)


@every_back_end
def test_a_port_describes_what_it_drives(name: str) -> None:
    bench = BENCHES[name](Board())
    bench.port.claim(BOTH)
    bench.port.set("boost", True)
    described = bench.port.describe()
    assert described["backend"] == {"rpi-lgpio": "rpi-gpio"}.get(name, name)
    assert described["label"] == bench.label
    lines = described["lines"]
    assert isinstance(lines, dict)
    assert {line: (entry["line"], entry["on"]) for line, entry in lines.items()} == {
        "main": (17, False),
        "boost": (27, True),
    }


# --- each one's own -------------------------------------------------------------------------------


def test_gpiod_finds_the_chip_by_its_label_past_those_it_may_not_open() -> None:
    board = Board("pinctrl-rp1")
    modules = GpiodModules({"/dev/gpiochip0": errno.EACCES, "/dev/gpiochip4": board})
    port = GpiodLines(load=modules.load, devices=modules.devices)
    port.claim(MAIN)
    assert (port.describe()["chip"], board.holders) == ("/dev/gpiochip4", {17: "firmware-node"})


def test_gpiod_says_what_it_found_instead_and_who_may_open_it() -> None:
    modules = GpiodModules({"/dev/gpiochip0": errno.EACCES, "/dev/gpiochip1": Board("gpio-sim")})
    port = GpiodLines(load=modules.load, devices=modules.devices)
    with pytest.raises(UnusableError) as refused:
        port.claim(MAIN)
    text = str(refused.value)
    assert "no chip pinctrl-bcm2835 or pinctrl-bcm2711 or pinctrl-rp1 (found gpio-sim" in text
    assert "/dev/gpiochip0: Permission denied (is the user in group gpio?)" in text


def test_gpiod_takes_another_boards_chip_when_it_is_named() -> None:
    board = Board("gpio-sim")
    modules = GpiodModules({"/dev/gpiochip0": Board(), "/dev/gpiochip1": board})
    port = GpiodLines("gpio-sim", load=modules.load, devices=modules.devices)
    port.claim(MAIN)
    assert board.levels == {17: 0}


@pytest.mark.parametrize(("flavour", "reason"), [("pc", "only be run"), ("pi5", "SOC peripheral")])
def test_rpi_gpio_says_where_it_cannot_be_used(flavour: str, reason: str) -> None:
    board = Board()
    with pytest.raises(UnusableError, match=reason):
        RpiLines(load=RpiGpio(board, flavour).load).claim(BOTH)
    assert board.history == []


def test_memory_keeps_a_bounded_list_of_edges_with_their_times() -> None:
    times = iter(range(0, 10**9, 5))
    port = MemoryLines(clock=lambda: next(times))
    port.claim({"main": LineSpec(17, active_low=True)})
    port.set("main", True)
    assert [tuple(edge) for edge in port.edges] == [(0, 17, 1), (5, 17, 0)]
    for count in range(2 * EDGES_KEPT):
        port.set("main", count % 2 == 1)
    assert len(port.edges) == EDGES_KEPT
    assert port.edges[-1].at_ns > port.edges[0].at_ns


def test_a_device_without_lines_claims_none_and_is_asked_for_none() -> None:
    port = NoLines()
    port.claim({})
    assert port.describe()["lines"] == {}
    with pytest.raises(ConfigError, match="main"):
        port.claim(MAIN)
    with pytest.raises(KeyError):
        port.set("main", True)


# --- auto -----------------------------------------------------------------------------------------


@pytest.fixture
def pi_model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.write_bytes(b"Raspberry Pi 3 Model B\0")
    return path


def makers(gpiod: Board | None, rpi: Board, flavour: str) -> tuple[Maker, Maker]:
    modules = GpiodModules({} if gpiod is None else {"/dev/gpiochip0": gpiod})
    return (
        ("gpiod", lambda: GpiodLines(load=modules.load, devices=modules.devices)),
        ("rpi-gpio", lambda: RpiLines(load=RpiGpio(rpi, flavour).load)),
    )


def test_auto_takes_gpiod_and_says_so(pi_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    board, other = Board(), Board()
    port = open_lines("auto", MAIN, makers=makers(board, other, "original"), model=pi_model)
    assert port.describe()["backend"] == "gpiod"
    assert (board.levels, other.levels) == ({17: 0}, {})
    assert caplog.messages == ["GPIO back end gpiod"]


def test_auto_takes_rpi_gpio_where_gpiod_cannot_be_used_and_says_why(
    pi_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board()
    port = open_lines("auto", MAIN, makers=makers(None, board, "original"), model=pi_model)
    assert port.describe()["backend"] == "rpi-gpio"
    assert board.levels == {17: 0}
    assert "GPIO back end rpi-gpio (not gpiod: no chip" in caplog.messages[0]


def test_auto_does_not_fight_for_a_held_line(pi_model: Path) -> None:
    board, other = Board(holders={17: "w1"}), Board()
    with pytest.raises(EnvironmentFailure, match='held by "w1"'):
        open_lines("auto", MAIN, makers=makers(board, other, "original"), model=pi_model)
    assert other.history == []


def test_auto_never_becomes_memory_on_a_pi_unless_that_is_allowed(
    pi_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unusable = makers(None, Board(), "pi5")
    with pytest.raises(EnvironmentFailure) as refused:
        open_lines("auto", MAIN, makers=unusable, model=pi_model)
    for word in ("gpiod: no chip", "rpi-gpio: ", "SOC peripheral", "--allow-memory-gpio"):
        assert word in str(refused.value)
    port = open_lines("auto", MAIN, makers=unusable, model=pi_model, allow_memory=True)
    assert port.describe()["backend"] == "memory"
    assert "no pin is driven" in caplog.messages[0]


def test_auto_becomes_memory_on_a_pc_and_tells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    on_a_pc = makers(None, Board(), "pc")
    port = open_lines("auto", MAIN, makers=on_a_pc, model=tmp_path / "absent")
    assert port.describe()["backend"] == "memory"
    assert "no pin is driven (gpiod: no chip" in caplog.messages[0]
    with pytest.raises(EnvironmentFailure, match="no GPIO back end"):  # a chip was asked for
        open_lines("auto", MAIN, chip="gpio-sim", makers=on_a_pc, model=tmp_path / "absent")


def test_without_lines_auto_looks_at_no_library(caplog: pytest.LogCaptureFixture) -> None:
    port = open_lines("auto", {}, makers=(("gpiod", lambda: pytest.fail("looked")),))
    assert port.describe()["backend"] == "none"
    assert caplog.messages == []


def test_no_gpio_library_is_imported_before_a_back_end_is_made() -> None:
    code = (
        "import sys, firmware_node.adapters.gpio\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('gpiod', 'RPi', 'lgpio')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_fake_gpiod_has_the_shape_of_the_real_one() -> None:
    gpiod = pytest.importorskip("gpiod", reason="gpiod is not installed (extra gpio)")
    line = pytest.importorskip("gpiod.line")
    for method in ("get_info", "get_line_info", "request_lines", "close"):
        real = inspect.signature(getattr(gpiod.Chip, method)).parameters
        fake = inspect.signature(getattr(Chip, method)).parameters
        assert set(fake) <= set(real), method
    assert set(inspect.signature(LineSettings).parameters) <= set(
        inspect.signature(gpiod.LineSettings).parameters
    )
    assert {"ACTIVE", "INACTIVE"} <= set(line.Value.__members__)
    assert {"INPUT", "OUTPUT"} <= set(line.Direction.__members__)
    assert {"PULL_UP", "PULL_DOWN"} <= set(line.Bias.__members__)
    for method in ("set_value", "get_value", "release"):
        assert hasattr(gpiod.LineRequest, method)
    with pytest.raises(UnusableError, match="no chip"):  # the real one, on what is no chip
        GpiodLines(devices=lambda: ["/dev/null"]).claim(MAIN)
