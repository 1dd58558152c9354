"""The HTTP interface of a fleet in OpenAPI 3.1; imported when somebody asks for it."""

from __future__ import annotations

from typing import Any

from firmware_node import __version__
from firmware_node.adapters.fleet.backend import ACTIONS, VERBS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer"}
_OBJECT: Schema = {"type": "object"}
_ANSWER: Schema = {"type": "object", "properties": {"done": {"type": "boolean"}, "text": _TEXT}}
_INDEX: Schema = {"name": "index", "in": "path", "required": True, "schema": _NUMBER}
_READ = (
    ("/v1/fleet", "who is in the fleet, and a snapshot without rows", "application/json"),
    ("/v1/events", "snapshots as they come; rows are what changed", "text/event-stream"),
    ("/v1/members/{index}", "a device: its row, status, banks and events", "application/json"),
    ("/v1/openapi.json", "this description", "application/json"),
    ("/metrics", "numbers in the text format of Prometheus", "text/plain"),
    ("/report.html", "what the run came to so far, for people", "text/html"),
    ("/results.json", "the same for programs", "application/json"),
    ("/junit.xml", "the same, a test case a device", "application/xml"),
)


def description() -> Schema:
    """The document."""
    paths: dict[str, Schema] = {}
    for path, summary, media in _READ:
        paths[path] = {"get": _operation(summary, media, _OBJECT if "json" in media else _TEXT)}
    paths["/v1/members/{index}/orders"] = {
        "post": _operation(
            "have a device do something in the next turn",
            "application/json",
            _ANSWER,
            {"verb": {"enum": list(VERBS)}, "amount": {**_NUMBER, "description": "cut: ms"}},
        )
    }
    paths["/v1/campaign"] = {
        "post": _operation(
            "steer the campaign", "application/json", _ANSWER, {"action": {"enum": list(ACTIONS)}}
        )
    }
    for path, operations in paths.items():
        if "{index}" in path:
            for operation in operations.values():
                operation["parameters"] = [_INDEX]
    return {
        "openapi": "3.1.0",
        "info": {"title": "firmware_node fleet", "version": __version__},
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(
    summary: str, media: str, schema: Schema, body: dict[str, Schema] | None = None
) -> Schema:
    failure = {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]}
    operation: Schema = {
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": {media: {"schema": schema}}},
            "default": {
                "description": "400, 401, 403, 404, 415 or 503, and why",
                "content": {"application/json": {"schema": failure}},
            },
        },
    }
    if body is not None:
        first = next(iter(body))
        what: Schema = {"type": "object", "properties": body, "required": [first]}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": what}},
        }
    return operation
