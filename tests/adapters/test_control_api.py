"""The description of the control API, held to what the daemons take and what they answer."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # has no stubs
import pytest

from firmware_node.adapters.control_api import (
    DEVICE_ROUTES,
    HUB_ROUTES,
    SCHEMAS,
    Route,
    openapi,
)
from firmware_node.adapters.daemon import DeviceDaemon
from firmware_node.adapters.hub_daemon import HubDaemon
from firmware_node.cli import main


def taken_by(daemon: type[DeviceDaemon] | type[HubDaemon]) -> set[tuple[str, str]]:
    """The methods and paths that a daemon's handler has a case for."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(daemon._handle)))
    return {
        (str(ast.literal_eval(method.value)), str(ast.literal_eval(path.value)))
        for case in ast.walk(tree)
        if isinstance(case, ast.match_case) and isinstance(case.pattern, ast.MatchSequence)
        for method, path in [case.pattern.patterns]
        if isinstance(method, ast.MatchValue) and isinstance(path, ast.MatchValue)
    }


@pytest.mark.parametrize(
    ("daemon", "routes"), [(DeviceDaemon, DEVICE_ROUTES), (HubDaemon, HUB_ROUTES)]
)
def test_what_a_daemon_takes_is_described_and_nothing_else(
    daemon: type[DeviceDaemon] | type[HubDaemon], routes: tuple[Route, ...]
) -> None:
    described = [(route.method, route.path) for route in routes]
    assert len(described) == len(set(described))
    assert set(described) == taken_by(daemon)


@pytest.mark.parametrize("routes", [DEVICE_ROUTES, HUB_ROUTES])
def test_the_description_refers_to_what_is_in_it(routes: tuple[Route, ...]) -> None:
    document = openapi("title", routes)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(routes)
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in SCHEMAS
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in references(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in references(inner)]
    return []


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "api", "hub"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["openapi"] == "3.1.0"
    wanted = document["paths"]["/v1/load-events"]["post"]["parameters"]
    assert {p["name"] for p in wanted if p["required"]} == {"device", "state", "minutes"}
