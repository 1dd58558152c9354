"""Every image of the library does in a device what its line says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from home import KEYS, Story
from test_activation_by_command import Supplied, sha256_of

from firmware_node.cli import main
from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError
from firmware_node.terms import DeviceType
from firmware_node.tools.image import inspect
from firmware_node.tools.library import LIBRARY, build_library, table

ROOT = Path(__file__).resolve().parents[2]
SIZE = 6000  # bytes; a short download
FILES = build_library(KEYS, seed=1, size=SIZE)
LINES = [json.loads(line) for line in FILES["library.jsonl"].decode().splitlines()]
BY_NAME = {(line["device"], line["name"]): line for line in LINES}


def run(story: Story, line: dict[str, str]) -> None:
    """Over the air, activated by the hub or by its supplier's command, until nothing happens."""
    file = FILES[line["file"]]
    if isinstance(story, Supplied):
        if line["ends"] == "refused":
            story.offer(file)
            story.world.run_for(60_000)
            return
        story.receive(file)
        story.send(story.command(sha256_of(file)))
    else:
        story.offer(file)
    story.world.run_for(1_000_000)  # longer than any trial


def story_of(device: str, directory: Path) -> Story:
    return Supplied(directory) if device == "hcalcs" else Story(directory)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line["file"])
def test_an_image_does_what_its_line_says(tmp_path: Path, line: dict[str, str]) -> None:
    story = story_of(line["device"], tmp_path)
    run(story, line)
    failure = story.status()["last_failure"]
    assert failure is None or isinstance(failure, dict)
    assert (failure["cause"] if failure else None) == line["cause"]
    versions = ("00000001", line["version"])
    match line["ends"]:
        case "confirmed":
            assert story.versions() == ("B", *versions)
            assert story.bank_states() == ("confirmed", "confirmed")
        case "reverted":
            assert story.versions()[:2] == ("A", "00000001")
            assert story.bank_states() == ("confirmed", "rejected")
            assert "image_reverted" in story.names()
        case "refused":
            assert story.versions()[:2] == ("A", "00000001")
            assert story.bank_states() == ("confirmed", "empty")
            assert "image_activated" not in story.names()
        case _:
            raise AssertionError(line["ends"])


@pytest.mark.parametrize("device", ["ppmid", "hcalcs"])
def test_the_newer_image_mends_the_faulty_one(tmp_path: Path, device: str) -> None:
    story = story_of(device, tmp_path)
    for name in ("faulty-switch", "newer"):
        run(story, BY_NAME[device, name])
    assert story.versions() == ("A", "00000008", "00000003")
    works = [
        inspect(FILES[BY_NAME[device, name]["file"]], KEYS)["manifest"]
        for name in ("faulty-switch", "newer")
    ]
    assert [m["switch_works"] for m in works if isinstance(m, dict)] == [False, True]


def test_all_but_the_wrong_signer_are_in_order() -> None:
    for line in LINES:
        problems = inspect(FILES[line["file"]], KEYS)["problems"]
        assert bool(problems) is (line["ends"] == "refused"), (line["file"], problems)


def test_the_same_seed_gives_the_same_octets_and_another_does_not() -> None:
    assert build_library(KEYS, seed=1, size=SIZE) == FILES
    other = build_library(KEYS, seed=2, size=SIZE)
    assert other.keys() == FILES.keys()
    assert all(other[line["file"]] != FILES[line["file"]] for line in LINES)


def test_the_page_of_the_images_shows_the_library() -> None:
    assert table() in (ROOT / "images" / "README.md").read_text(encoding="utf-8")
    assert table() in FILES["README.md"].decode()
    assert len(LINES) == 2 * len(LIBRARY) == 2 * len({row.version for row in LIBRARY})


def test_no_image_is_committed() -> None:
    assert sorted(path.name for path in (ROOT / "images").iterdir()) == ["README.md"]


def test_the_command_fills_a_folder_with_images_and_their_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "library"
    arguments = ["image", "library", str(target), "--size", str(SIZE)]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"14 images in {target}\n"
    key = next((target / "keys").glob("*.key"))
    assert key.stat().st_mode & 0o777 == 0o600
    good = str(target / "hcalcs/good.ota")
    assert main(["image", "verify", good, "--keys", str(target / "keys")]) == 0
    assert main(arguments) == 2  # it is not empty any more
    again = tmp_path / "again"
    assert main(["image", "library", str(again), "--size", str(SIZE)]) == 0
    assert (again / "hcalcs/good.ota").read_bytes() == Path(good).read_bytes()


def test_a_keyring_without_a_supplier_is_said_to_be_one() -> None:
    with pytest.raises(ConfigError, match="a supplier"):
        build_library(Keyring({}), devices=(DeviceType.PPMID,))


def test_single_images_are_the_same_octets(tmp_path: Path) -> None:
    files = build_library(KEYS, seed=1, size=SIZE, only=["good", "newer"])
    assert {name for name in files if name.endswith(".ota")} == {
        f"{device}/{name}.ota" for device in ("ppmid", "hcalcs") for name in ("good", "newer")
    }
    assert all(FILES[name] == data for name, data in files.items() if name.endswith(".ota"))
    assert b"crash-loop" not in files["README.md"] + files["library.jsonl"]
    with pytest.raises(ConfigError, match="found 'godo', expected one of good, "):
        build_library(KEYS, only=["godo"])
    assert main(["image", "library", str(tmp_path / "made"), "--only", "godo"]) == 2
