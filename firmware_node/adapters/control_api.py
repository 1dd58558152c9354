"""The control API of both daemons, described in OpenAPI 3.1; ``GET /v1/openapi.json`` gives it.

The rows here are compared with what the daemons take by a test. Every command of the program that
asks a daemon uses these and nothing else. Imported when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from firmware_node import __version__
from firmware_node.terms import BankState, DeviceState, DeviceType

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. ``answer`` names a schema of ``SCHEMAS``."""

    method: str
    path: str
    summary: str
    answer: str
    query: Mapping[str, str] = field(default_factory=dict)  # name: what it means; ``!``: required
    body: str | None = None  # media type
    is_stream: bool = False  # JSON Lines instead of one document


DESCRIPTION = Route("GET", "/v1/openapi.json", "this description", "Any")
EVENTS = Route(
    "GET",
    "/v1/events",
    "notifications that are kept, oldest first",
    "Event",
    {"follow": "1: and then what comes, for ever"},
    is_stream=True,
)
DEVICE_ROUTES = (
    Route("GET", "/v1/status", "what the device is, does and waits for", "Status"),
    Route("GET", "/v1/banks", "what the banks hold", "Banks"),
    Route(
        "GET",
        "/v1/events",
        "notifications that are kept, oldest first, or a log of the device",
        "Event",
        {
            "follow": "1: and then what comes, for ever",
            "log": "security or event: the device's own log instead",
        },
        is_stream=True,
    ),
    Route(
        "POST",
        "/v1/image",
        "flash an OTA file into the spare bank; the same verification as over the air",
        "Answer",
        {"activate": "1: and run it"},
        "application/octet-stream",
    ),
    Route(
        "POST",
        "/v1/query",
        "ask the OTA server for an image now",
        "Answer",
        {"file_version": "up to 8 hex digits: that version by name"},
    ),
    Route(
        "POST",
        "/v1/relay",
        "try the load switch of an HCALCS",
        "Answer",
        {"state!": "closed or open"},
    ),
    Route("POST", "/v1/reboot", "restart the emulated device", "Answer"),
    Route("POST", "/v1/factory-reset", "back to the factory image and the key folder", "Answer"),
    DESCRIPTION,
)
HUB_ROUTES = (
    Route("GET", "/v1/status", "devices, offers and reports of load control", "HubStatus"),
    Route("GET", "/v1/messages", "GBCS messages that came up, with their verdicts", "Messages"),
    EVENTS,
    Route("PUT", "/v1/clock", "the hub's time, RFC 3339", "Clock", body="text/plain"),
    Route(
        "POST",
        "/v1/requests",
        "carry out a DUIS request, or carry a GBCS message; deliveries and answers as they come",
        "Any",
        {
            "to": "carry the body to this device, whatever it is",
            "wait": "1: until every device has answered",
            "limit_s": "with wait: seconds, no longer",
            "stop": "pre-command: sign and send nothing",
        },
        "application/octet-stream",
        is_stream=True,
    ),
    Route(
        "POST",
        "/v1/load-events",
        "as the ESME: schedule a load control event",
        "Answer",
        {
            "device!": "entity id",
            "state!": "closed or open",
            "minutes!": "1 to 1440",
            "start": "RFC 3339; default: now",
            "randomise": "1: start and end by offsets that the device draws",
        },
    ),
    Route(
        "DELETE",
        "/v1/load-events",
        "as the ESME: take an event back, or all",
        "Answer",
        {"device!": "entity id", "id": "of the event; default: every one"},
    ),
    DESCRIPTION,
)


def _object(required: Mapping[str, Schema], **more: Schema) -> Schema:
    """An object with these properties; others may come."""
    return {"type": "object", "required": list(required), "properties": {**required, **more}}


_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer"}
_FLAG: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_ENTITY: Schema = {"type": "string", "pattern": "^([0-9A-F]{2}-){7}[0-9A-F]{2}$"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_BANK = _object(
    {
        "state": {"enum": [state.value for state in BankState]},
        "version": _or_null({"type": "string", "pattern": "^[0-9a-f]{8}$"}),
        "sha256": _or_null({"type": "string", "pattern": "^[0-9a-f]{64}$"}),
    },
    size=_NUMBER,
)
_RUNNING: Schema = {"enum": ["A", "B"]}
_RADIO = _object({"type": _TEXT, "path": _TEXT, "fault": _or_null(_TEXT)})
SCHEMAS: Mapping[str, Schema] = {
    "Any": {},
    "Error": _object({"error": _TEXT}),
    "Answer": _object({"done": _FLAG, "text": _TEXT}),
    "Banks": _object({"running_bank": _RUNNING, "A": _BANK, "B": _BANK}),
    "Event": _object({}, n=_NUMBER, at=_or_null(_TIME), name=_TEXT),
    "Clock": _object({"utc": _TIME}),
    "Messages": _object({"messages": {"type": "array", "items": {"type": "object"}}}),
    "Status": _object(
        {
            "type": {"enum": [kind.value for kind in DeviceType]},
            "entity_id": _ENTITY,
            "state": {"enum": [state.value for state in DeviceState]},
            "network": _object(
                {
                    "joined": _FLAG,
                    "short_address": _or_null(_NUMBER),
                    "channel": _or_null(_NUMBER),
                }
            ),
            "upgrade": _object(
                {
                    "status": _TEXT,
                    "file_offset": _NUMBER,
                    "total_size": _NUMBER,
                    "eta_seconds": _or_null({"type": "number"}),
                }
            ),
            "waits_for": _object({"what": _TEXT, "text": _TEXT}),
            "banks": _object({"A": _BANK, "B": _BANK}),
            "running_bank": _RUNNING,
            "counters": {"type": "object"},
            "outbox": _NUMBER,
            "last_failure": _or_null(
                _object({"phase": _TEXT, "cause": _TEXT, "at": _or_null(_TIME)})
            ),
            "switch": _or_null(
                _object(
                    {
                        "commanded": {"enum": ["closed", "open", None]},
                        "switch": {"enum": ["closed", "open", None]},
                        "esme": _or_null(_NUMBER),
                        "events": {"type": "array", "items": {"type": "object"}},
                    }
                )
            ),
            "utc": _or_null(_TIME),
            "radio": _RADIO,
            "gpio": _object({"backend": _TEXT, "lines": {"type": "object"}}),
            "notify": {"type": "object"},
            "pid": _NUMBER,
        }
    ),
    "HubStatus": _object(
        {
            "entity_id": _ENTITY,
            "utc": _TIME,
            "devices": {"type": "array", "items": _object({"entity_id": _ENTITY})},
            "offers": {"type": "array", "items": {"type": "object"}},
            "radio": _RADIO,
            "load_events": {
                "type": "array",
                "items": _object({"entity_id": _ENTITY, "id": _NUMBER, "status": _TEXT}),
            },
        }
    ),
}


def openapi(title: str, routes: Sequence[Route]) -> Schema:
    """The document."""
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": __version__,
            "description": "HTTP/1.1 over a Unix socket of mode 0660; one request a connection.",
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
        },
        "servers": [{"url": "http://localhost", "description": "over the socket"}],
        "paths": paths,
        "components": {"schemas": dict(SCHEMAS)},
    }


def _operation(route: Route) -> Schema:
    media = "application/jsonl" if route.is_stream else "application/json"
    operation: Schema = {
        "summary": route.summary,
        "operationId": route.method.lower() + route.path.removeprefix("/v1").replace("/", "_"),
        "responses": {
            "200": {
                "description": "one document a line" if route.is_stream else "the document",
                "content": {media: {"schema": _reference(route.answer)}},
            },
            "default": {
                "description": "400 or 413: what was asked for is wrong; 503: stopping",
                "content": {"application/json": {"schema": _reference("Error")}},
            },
        },
    }
    if route.query:
        operation["parameters"] = [
            {
                "name": name.rstrip("!"),
                "in": "query",
                "required": name.endswith("!"),
                "description": text,
                "schema": {"type": "string"},
            }
            for name, text in route.query.items()
        ]
    if route.body is not None:
        schema: Schema = {} if route.body == "application/octet-stream" else {"type": "string"}
        operation["requestBody"] = {"required": True, "content": {route.body: {"schema": schema}}}
    return operation


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
