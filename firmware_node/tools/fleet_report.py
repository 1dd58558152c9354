"""What a fleet run came to, for programs and for people: JSON, JUnit XML, one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def results_json(results: Mapping[str, Any]) -> str:
    """x."""
    return json.dumps(results)


def junit(results: Mapping[str, Any]) -> bytes:
    """x."""
    return b""


def html(results: Mapping[str, Any]) -> str:
    """x."""
    return ""


def html_policy() -> str:
    """x."""
    return ""
