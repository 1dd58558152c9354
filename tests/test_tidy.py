"""The shape of the source: who imports whom, what the core may not touch, words and sizes."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_node.boundary import NOTIFICATIONS
from firmware_node.node.upgrade_state import MOVES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "firmware_node"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CORE = ("wire", "node", "rig", "virtual", "fleet")

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
    "virtual.": (*FOUNDATION, "wire.", "crypto"),
    "fleet.": (*FOUNDATION, "boundary", "wire.", "crypto", "sealing", "node.", "rig.", "tools."),
    "config": (*FOUNDATION, "boundary"),
    "tools.": (*FOUNDATION, "wire.", "crypto", "sealing", "config", "tools.duis."),
    "tools.duis.": (*FOUNDATION, "wire.", "crypto"),
    "tools.render": (),  # how things look needs none of them
    "adapters.": (*FOUNDATION, "boundary", "wire.", "crypto", "config"),
    "adapters.gpio.": (*FOUNDATION, "boundary"),
    "adapters.fleet.": (
        *("fleet.live", "fleet.live_json", "fleet.rows", "fleet.terms"),
        *("tools.fleet_html", "tools.fleet_report", "tools.render"),
    ),
    "adapters.fleet.journal": ("fleet.campaign", "fleet.home"),
    "adapters.fleet.run": ("fleet.campaign", "fleet.home", "fleet.results"),
    "adapters.fleet.workers": ("fleet.home", "fleet.shard", "fleet.stock"),
    **dict.fromkeys(
        (
            *("adapters.fleet.agent", "adapters.fleet.agent_settings", "adapters.fleet.link"),
            *("adapters.fleet.site", "adapters.fleet.units"),
        ),
        ("fleet.bus", "fleet.streams", "fleet.plan_values"),
    ),
    "adapters.fleet.hosts": ("fleet.bus", "fleet.streams", "fleet.campaign", "fleet.home"),
    "adapters.fleet.shares": (
        *("fleet.bus", "fleet.streams", "fleet.plan"),
        *("fleet.shard", "fleet.stock", "fleet.home"),
    ),
    "adapters.fleet.shard_store": ("fleet.streams", "fleet.home"),
    "cli_fleet": ("",),
    "adapters.daemon": ("node.",),  # the drivers know their machines
    "adapters.hub_daemon": ("rig.",),
    "adapters.virtual_stick.": ("virtual.", "adapters."),
    "adapters.dcc": ("tools.", "sealing"),
    "adapters.dcc_exchange": ("tools.duis.",),
    "adapters.dcc_rules": ("tools.duis.",),
    "replay": (*FOUNDATION, "rig.", "wire.", "crypto", "tools."),
    "demo": (*FOUNDATION, "adapters.control_client", "tools.render"),
    "cli": ("",),  # anything
    "cli_agent": ("",),
    "cli_dcc": ("",),
    "cli_operator": ("",),
    "cli_radio": ("",),
}
# The two that know devices as well as hubs.
MAY_IMPORT["rig.invariants"] = MAY_IMPORT["rig.fleet"] = ("node.",)

CORE_NEVER_IMPORTS = {
    "asyncio",
    "importlib",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
}
CORE_NEVER_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
MAY_USE_SEEDED_RANDOM = ("rig.world", "rig.faults", "virtual.air", "virtual.stick.board")
ONLY_IMPORTED_IN = {
    "cryptography": ("crypto",),
    "lxml": (
        *(f"tools.duis.{name}" for name in ("document", "request", "response", "signature")),
        "tools.decode_input",
    ),
    "signxml": ("tools.duis.signature",),
    "aiomqtt": ("adapters.fleet.link",),
    "paho": ("adapters.fleet.link",),
    "aiohttp": ("adapters.fleet.web",),
    "prometheus_client": ("adapters.fleet.metrics", "adapters.fleet.web"),
    "rich": ("adapters.fleet.terminal",),
    "h11": ("adapters.control", "adapters.sinks"),
    "sqlite3": (
        *("adapters.storage", "adapters.spool"),
        *("adapters.fleet.journal", "adapters.fleet.shard_store"),
    ),
    "serial": ("adapters.znp.ports",),
}
# The daemons' drivers: whatever a step raises ends the process, told once. To the replay of a
# swarm an invariant that broke is the answer.
MAY_CATCH_EVERYTHING = ("adapters.daemon", "adapters.hub_daemon", "adapters.driver", "replay")

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


def imports_of(source: Path) -> Iterator[str]:
    """Every module that the file imports anywhere, by full name."""
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            assert node.module is not None
            if node.module.startswith("firmware_node"):
                folder = ROOT / node.module.replace(".", "/")
                for alias in node.names:
                    inside = folder / alias.name
                    if inside.is_dir():  # a module that became a folder
                        yield f"{node.module}.{alias.name}."
                    elif inside.with_suffix(".py").exists():
                        yield f"{node.module}.{alias.name}"
                    else:
                        yield node.module + ("." if folder.is_dir() else "")
            else:
                yield node.module


def rules_for(module: str) -> tuple[str, ...]:
    """The module's own rule and those of the folders that it is in, which it may import too."""
    rules = list(MAY_IMPORT.get(module, ()))
    for folder, more in MAY_IMPORT.items():
        if folder.endswith(".") and module.startswith(folder):
            rules += [*more, folder]
    return tuple(rules)


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
    waiting, seen = [f"firmware_node.rig.{name}"], set[str]()
    while waiting:
        module = waiting.pop()
        path = ROOT / f"{module.replace('.', '/')}.py"
        if module not in seen and path.exists():
            waiting += [other for other in imports_of(path) if other.startswith("firmware_node.")]
        seen.add(module)
    assert "firmware_node.rig.hub_terms" in seen or name == "head_end"
    assert not [module for module in seen if module.startswith("firmware_node.node")]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_all_asynchronous_code_is_in_the_adapters(path: Path) -> None:
    if not module_of(path).startswith("adapters"):
        assert "asyncio" not in set(imports_of(path))
        found = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.AsyncFunctionDef)]
        assert not found


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
        known = top in sys.stdlib_module_names or top in ("firmware_node", *ONLY_IMPORTED_IN)
        assert known, f"{module} imports {top}"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("now", "utcnow", "today"), f"{module}:{node.lineno}"
            if ast.unparse(node.value) == "random":  # seeded ones alone
                assert node.attr == "Random", f"{module}:{node.lineno}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in CORE_NEVER_CALLS, f"{module}:{node.lineno} calls {name}"
            assert name != "random.Random" or node.args, f"{module}:{node.lineno} has no seed"


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


def test_every_notification_is_listed_once_and_none_is_listed_in_vain() -> None:
    core = [path for path in SOURCES if module_of(path).startswith(("node", "rig"))]
    nodes = [node for path in core for node in ast.walk(tree_of(path))]
    literals = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert NOTIFICATIONS.keys() <= literals
    for call in nodes:
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("Notify", "notes.add"):
            name = call.args[0]
            if isinstance(name, ast.Constant):  # else a helper's, whose caller has the name
                assert name.value in NOTIFICATIONS, ast.unparse(call)
    text = (PACKAGE / "boundary.py").read_text(encoding="utf-8")
    assert [name for name in NOTIFICATIONS if text.count(f'"{name}":') != 1] == []


def test_architecture_page_shows_the_moves_of_the_upgrade() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- upgrade-moves.*?```\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    moves = "".join(f"{old.name} -> {new.name}\n" for old, new in MOVES)
    assert shown[1] == moves, f"ARCHITECTURE.md should show:\n{moves}"
