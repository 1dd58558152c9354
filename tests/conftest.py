"""Makes ``tests/`` importable, so that tests find ``vectors``; keeps long tests for --long.

At the end of a run it prints the table of reference messages by use case.
"""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings
from pass_table import PASS_TABLE

# A busy machine is no fault of a property.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
# A shell that runs the tests in the background ignores SIGINT, and what they start would as well.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    table = config.stash.get(PASS_TABLE, None)
    if table is not None:
        terminalreporter.section("reference messages by use case")
        for line in table:
            terminalreporter.write_line(line)
