"""The document that reports are made from: its shape, its sums, and what it says of failures."""

from __future__ import annotations

import json

import pytest
from synthetic import synthetic


@pytest.mark.parametrize("state", ["done", "running"])
def test_a_made_up_document_adds_up_and_is_json(state: str) -> None:
    document = synthetic(homes=200, state=state)
    assert json.loads(json.dumps(document)) == document
    totals = dict(document["totals"])
    assert totals.pop("devices") == len(document["devices"]) == 400
    totals.pop("off"), totals.pop("offers")
    assert sum(totals.values()) == 400
    assert sum(wave["size"] for wave in document["waves"]) == 400
    assert synthetic(homes=200, state=state) == document
