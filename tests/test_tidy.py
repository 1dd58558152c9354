"""The shape of the source: who imports whom, what the core may not touch, words and sizes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_node.node import ota_client

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "firmware_node"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CORE = ("wire", "node", "rig")

# What each part may import of the project; a name ending in a dot stands for the whole folder.
FOUNDATION = ("errors", "terms")
MAY_IMPORT = {
    "__init__": (),
    "__main__": ("cli",),
    "errors": (),
    "terms": ("errors",),
    "boundary": FOUNDATION,
    "crypto": FOUNDATION,
    "wire.": FOUNDATION,
    "sealing": (*FOUNDATION, "wire.", "crypto"),
    "node.": (*FOUNDATION, "boundary", "wire.", "crypto", "sealing"),
    "rig.": (*FOUNDATION, "boundary", "wire.", "crypto", "sealing"),
    "config": FOUNDATION,
    "tools.": (*FOUNDATION, "wire.", "crypto", "sealing", "config"),
    "tools.render": (),  # how things look needs none of them
    "adapters.": (*FOUNDATION, "boundary", "wire.", "crypto", "config"),
    "adapters.gpio.": (*FOUNDATION, "boundary"),
    "adapters.daemon": ("node.",),  # the drivers know their machines
    "adapters.hub_daemon": ("rig.", "tools.duis", "sealing"),
    "demo": (*FOUNDATION, "adapters.control_client", "tools.render"),
    "cli": ("",),  # anything
}
# The two that drive devices as well as hubs.
MAY_IMPORT["rig.world"] = MAY_IMPORT["rig.invariants"] = MAY_IMPORT["rig.fleet"] = ("node.",)

CORE_NEVER_IMPORTS = {
    "asyncio",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "threading",
    "time",
}
MAY_USE_SEEDED_RANDOM = ("rig.world", "rig.faults")
ONLY_IMPORTED_IN = {
    "cryptography": ("crypto",),
    "construct": ("wire.ota_file", "wire.manufacturer_image"),
    "lxml": ("tools.duis",),
    "h11": ("adapters.control",),
    "sqlite3": ("adapters.storage",),
}
# The daemons' drivers: whatever a step raises ends the process, told once.
MAY_CATCH_EVERYTHING = ("adapters.daemon", "adapters.hub_daemon", "adapters.driver")

# Words of the glossary's right-hand column that have no honest use in this code.
BANNED_WORDS = re.compile(r"(?i)\b(partition|chunk|nonce|firmware[ _]blob|rolled back)\b")
SIZE_WORTH_A_LOOK = 400  # lines; past it, ask what the file decides twice


def module_of(path: Path) -> str:
    """``node.device`` for ``firmware_node/node/device.py``."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
        return ".".join(parts) + "."
    return ".".join(parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Every module that the file imports anywhere, by full name."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module.startswith("firmware_node"):
                folder = ROOT / node.module.replace(".", "/")
                for alias in node.names:
                    is_module = (folder / f"{alias.name}.py").exists()
                    yield f"{node.module}.{alias.name}" if is_module else node.module
            else:
                yield node.module


def rules_for(module: str) -> tuple[str, ...]:
    folder = module.rpartition(".")[0] + "."
    rules = MAY_IMPORT.get(module, ())
    if folder in MAY_IMPORT:
        rules = (*rules, *MAY_IMPORT[folder], folder)
    return rules


def allows(rule: str, imported: str) -> bool:
    return imported.startswith(rule) if rule == "" or rule.endswith(".") else imported == rule


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_one_way(path: Path) -> None:
    module = module_of(path)
    rules = rules_for(module)
    assert rules or module in MAY_IMPORT, f"{module} has no rule: give it one in MAY_IMPORT"
    for name in imports_of(path):
        if not name.startswith("firmware_node"):
            continue
        imported = name.removeprefix("firmware_node").removeprefix(".") or "__init__"
        if imported != "__init__":
            assert any(allows(rule, imported) for rule in rules), f"{module} imports {imported}"


@pytest.mark.parametrize("name", ["comms_hub", "head_end"])
def test_far_side_shares_no_code_of_the_device(name: str) -> None:
    imported = set(imports_of(PACKAGE / "rig" / f"{name}.py"))
    assert not [other for other in imported if other.startswith("firmware_node.node")]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_libraries_stay_in_their_one_file(path: Path) -> None:
    module = module_of(path)
    for name in imports_of(path):
        top = name.partition(".")[0]
        if top in ONLY_IMPORTED_IN:
            assert module in ONLY_IMPORTED_IN[top], f"{module} imports {top}"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if module_of(path).startswith(CORE)], ids=module_of
)
def test_core_touches_neither_clock_nor_system(path: Path) -> None:
    module = module_of(path)
    for name in imports_of(path):
        top = name.partition(".")[0]
        if top == "random" and module in MAY_USE_SEEDED_RANDOM:
            continue
        assert top not in CORE_NEVER_IMPORTS, f"{module} imports {top}"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("now", "utcnow", "today"), f"{module}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input"), f"{module}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_errors_of_ours_are_caught_nowhere_but_in_the_drivers(path: Path) -> None:
    module = module_of(path)
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = "everything" if node.type is None else ast.unparse(node.type)
        broad = re.search(r"everything|\b(Base)?Exception\b|AssertionError", caught)
        passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        if broad and not passes_on:
            assert module in MAY_CATCH_EVERYTHING, f"{module}:{node.lineno} catches {caught}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_words_are_those_of_the_glossary_and_nothing_is_left_to_do(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", line), f"{path}:{number}: {line}"
        # str.partition and rpartition are Python's own words.
        own = re.sub(r"\.r?partition\(", "(", line)
        assert not BANNED_WORDS.search(own), f"{path}:{number}: {line}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_each_file_says_what_it_decides(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{path} has no docstring"


def test_file_sizes_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {module_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    large = {name: size for name, size in sizes.items() if size > SIZE_WORTH_A_LOOK}
    report = ", ".join(f"{name} {size}" for name, size in sorted(large.items()))
    with capsys.disabled():
        print(f"\n{len(sizes)} files, {sum(sizes.values())} lines; large: {report or 'none'}")


def test_architecture_page_shows_the_moves_of_the_upgrade() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- upgrade-moves.*?```\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    moves = "".join(f"{old.name} -> {new.name}\n" for old, new in ota_client._MOVES)
    assert shown[1] == moves, f"ARCHITECTURE.md should show:\n{moves}"
