"""What is live in a fleet as JSON, for the page and for programs."""

from __future__ import annotations

from typing import Any

from firmware_node.fleet.live import PHASES, Snapshot
from firmware_node.fleet.rows import cause_words
from firmware_node.fleet.terms import Plan, Row, member_entity_id
from firmware_node.wire.zcl import utc_text


def snapshot_document(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as the page reads it; ``rows`` are lists, to be small: index, then ``Cell``."""
    return {
        "revision": snapshot.revision,
        "now_ms": snapshot.now_ms,
        "campaign": {"state": snapshot.campaign.state, "reason": snapshot.campaign.reason},
        "totals": dict(snapshot.totals),
        "waves": [
            {
                **wave.state._asdict(),
                "done": wave.done,
                "failed": wave.failed,
                "under_way": wave.under_way,
                "share": round(wave.share, 4),
            }
            for wave in snapshot.waves
        ],
        "rates": {name: round(value, 3) for name, value in snapshot.rates._asdict().items()},
        "eta_ms": snapshot.eta_ms,
        "eta_s": None if snapshot.eta_s is None else round(snapshot.eta_s, 1),
        "failures": [failure._asdict() for failure in snapshot.failures],
        "causes": list(snapshot.causes),
        "words": [cause_words(cause.rpartition(": ")[2]) for cause in snapshot.causes],
        "failed_by": dict(snapshot.failed_by),
        "messages": dict(snapshot.messages),
        "events": sum(snapshot.events.values()),
        "downloaded": snapshot.downloaded,
        "rows": [[index, *cell] for index, cell in snapshot.rows],
    }


def fleet_document(plan: Plan) -> dict[str, Any]:
    """What does not change: who is in the fleet, and how to name each member.

    ``places`` are the devices of a home in order; a member's entity id is its place's prefix and
    the home's index in four octets.
    """
    shape = plan.shape
    places: list[dict[str, str]] = []
    for kind, count in shape.devices:
        for number in range(count):
            prefix = str(member_entity_id(kind, 0, number))[:12]
            places.append({"type": kind.value, "prefix": prefix})
    return {
        "plan": plan.name,
        "start": utc_text(plan.start_utc),
        "seed": shape.seed,
        "homes": shape.homes,
        "first_index": shape.first_index,
        "members": shape.size,
        "turn_ms": plan.turn_ms,
        "images": {image.name: f"{image.version:08x}" for image in plan.images},
        "phases": list(PHASES),
        "places": places,
    }


def row_document(row: Row) -> dict[str, Any]:
    """A member's row with its names."""
    member = row.member
    return {
        "index": member.index,
        "home": member.home,
        "type": member.type.value,
        "entity_id": str(member.entity_id),
        "phase": row.phase,
        "wave": row.wave,
        "image": row.image,
        "version": f"{row.version:08x}" if row.version else None,
        "offset": row.offset,
        "total": row.total,
        "begun_ms": row.begun_ms,
        "ended_ms": row.ended_ms,
        "failed_in": row.failed_in,
        "cause": row.cause,
        "words": cause_words(row.cause),
        "starts": row.starts,
        "retries": row.retries,
        "last_event": row.last_event,
        "last_ms": row.last_ms,
        "messages": list(row.messages),
    }
