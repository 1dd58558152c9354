"""What a fleet run came to: one JSON document that every report and view is made from.

All times are virtual milliseconds since the fleet's start, versions eight lower-case hexadecimal
digits, entity ids and codes as everywhere. Keys may be added, none is ever renamed or left out; a
value that is not known is null. The document::

    {
      "format": 1,
      "plan": "rollout",                    # its name
      "start": "2026-01-01T00:00:00Z",      # UTC at 0 ms
      "seed": 1, "homes": 500, "first_index": 0,
      "types": {"ppmid": 500, "hcalcs": 500},          # members of each type
      "now_ms": 9000000,                    # when the document was made
      "state": "done",                      # ready running paused stopped done
      "reason": null,                       # why it is stopped, in words
      "totals": {                           # members; the last six make up "devices"
        "devices": 1000,
        "done": 957, "failed": 21, "skipped": 2, "in_flight": 0, "waiting": 0, "not_selected": 20,
        "off": 3,                           # without supply, or removed; also counted above
        "offers": 1031                      # attempts: a member may have one in each wave
      },
      "waves": [{
        "name": "pilot", "image": "ppmid-2", "type": "ppmid", "to_version": "00000002",
        "state": "done",                    # waiting running done stopped
        "begun_ms": 0, "ended_ms": 812000,  # of the wave; null: not yet
        "size": 10,                         # members selected; 0 while it waits
        "begun": 10, "in_flight": 0,        # offered so far; of them without an outcome
        "done": 9, "failed": 1, "skipped": 0,
        "concurrency": 50,                  # 0: all at once
        "at_once": 10,                      # the most that were in flight together
        "timeline": [                       # by minute of the run; those without are left out
          {"minute": 5, "done": 6, "failed": 0, "holding": 1},     # outcomes; by how many more have
          {"minute": 6, "done": 3, "failed": 1, "holding": -1}],   # a verified image and no outcome
      }],
      "durations": {                        # of the attempts that were done: their "duration_ms"
        "count": 957, "min_ms": 95000, "p50_ms": 240000, "p90_ms": 410000, "p99_ms": 900000,
        "max_ms": 1300000, "mean_ms": 260000           # null when the count is 0
      },
      "failures": [{                        # most members first
        "phase": "trial", "cause": "self_test", "words": "the new image failed its self-test",
        "count": 12,
        "attempts": [{"index": 17, "entity_id": "00-DB-12-50-00-00-00-08", "home": 8,
                      "type": "ppmid", "wave": "second", "image": "ppmid-bad",
                      "ended_ms": 900000}]             # in order of wave, then member
      }],
      "skips": [],                          # the same shape; "phase" is null
      "messages": [{                        # GBCS messages that came up, by kind; most first
        "use_case": "CS09", "kind": "alert", "alert_code": "8F8B", "signature": "valid",
        "mac": "absent", "words": "activation result of a PPMID", "count": 480
      }],
      "faults": {"power_cut": 12},          # what of the plan's faults happened, by name
      "devices": [{                         # every member, in order
        "index": 0, "entity_id": "00-DB-12-50-00-00-00-00", "home": 0, "type": "ppmid",
        "result": "done",                   # a key of the totals: done failed skipped in_flight
                                            # waiting not_selected
        "phase": "done",                    # of terms.Row
        "wave": "pilot", "image": "ppmid-2",           # of its last attempt
        "from_version": "00000001", "to_version": "00000002",    # of its last attempt
        "version": "00000002",              # that it runs, as far as it said
        "failed_in": null, "cause": null, "words": null,
        "begun_ms": 0, "ended_ms": 240000,
        "verified_ms": null,                # of an HCALCS: when it said that its image is good
        "duration_ms": 240000,              # from offer to outcome, less the time for which the
                                            # image was held until a moment for all
        "offset": 65596, "total": 65596,    # bytes of the download
        "starts": 2, "retries": 3,          # of the process; of blocks
        "messages": ["CCS08 alert 8F8A: transfer success (signature valid)"],  # oldest first
        "attempts": [{                      # one for each wave that it was in, the last one too
          "wave": "pilot", "image": "ppmid-2", "from_version": "00000001",
          "to_version": "00000002", "result": "done",  # done failed skipped in_flight
          "begun_ms": 0, "ended_ms": 240000, "verified_ms": null, "duration_ms": 240000,
          "failed_in": null, "cause": null, "words": null
        }]
      }]
    }

``failed_in`` is where the upgrade was: ``offered downloading verification transferred activating
trial``. ``cause`` is a fixed snake_case word, ``words`` the same for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from firmware_node.fleet.campaign import Attempt, Campaign, WaveProgress
from firmware_node.fleet.rows import cause_words, is_open, kind_words
from firmware_node.fleet.terms import Plan, Row
from firmware_node.wire import zcl

Document = dict[str, object]

RESULTS: Final = ("done", "failed", "skipped", "in_flight", "waiting", "not_selected")


def results(plan: Plan, campaign: Campaign, now_ms: int | None = None) -> Document:
    """The document, as of the campaign's last turn or of a later moment."""
    rows = campaign.rows
    shape = plan.shape
    attempts = [
        (row, attempt) for row in rows for attempt in campaign.attempts.get(row.member.index, ())
    ]
    waiting = {index for wave in campaign.waves for index in wave.queue}
    devices = [_device(row, campaign, waiting) for row in rows]
    return {
        "format": 1,
        "plan": plan.name,
        "start": zcl.utc_text(plan.start_utc),
        "seed": shape.seed,
        "homes": shape.homes,
        "first_index": shape.first_index,
        "types": {kind.value: shape.homes * count for kind, count in shape.devices},
        "now_ms": campaign.now_ms if now_ms is None else now_ms,
        "state": campaign.state,
        "reason": campaign.reason,
        "totals": _totals(rows, devices, campaign),
        "waves": [_wave(wave) for wave in campaign.waves],
        "durations": durations(
            duration_ms
            for _, attempt in attempts
            if attempt.result == "done"
            and (duration_ms := _duration_ms(attempt, campaign)) is not None
        ),
        "failures": _reasons("failed", attempts, campaign),
        "skips": _reasons("skipped", attempts, campaign),
        "messages": [
            {
                "use_case": use_case,
                "kind": kind,
                "alert_code": code,
                "signature": signature,
                "mac": mac,
                "words": kind_words(use_case, kind, code),
                "count": count,
            }
            for (use_case, kind, code, signature, mac), count in sorted(
                rows.messages.items(), key=lambda item: (-item[1], str(item[0]))
            )
        ],
        "faults": dict(sorted(rows.faults.items())),
        "devices": devices,
    }


def durations(values: Iterable[int]) -> Document:
    """Statistics of durations; a percentile is the smallest value that so many do not exceed."""
    ordered = sorted(values)
    count = len(ordered)

    def at(percent: int) -> int | None:
        return ordered[-(-count * percent // 100) - 1] if count else None

    return {
        "count": count,
        "min_ms": ordered[0] if count else None,
        "p50_ms": at(50),
        "p90_ms": at(90),
        "p99_ms": at(99),
        "max_ms": ordered[-1] if count else None,
        "mean_ms": sum(ordered) // count if count else None,
    }


def _totals(rows: Iterable[Row], devices: Sequence[Document], campaign: Campaign) -> Document:
    totals: Document = {"devices": len(devices)}
    for result in RESULTS:
        totals[result] = sum(device["result"] == result for device in devices)
    totals["off"] = sum(row.left or row.phase == "off" for row in rows)
    totals["offers"] = sum(wave.begun for wave in campaign.waves)
    return totals


def _wave(progress: WaveProgress) -> Document:
    return {
        "name": progress.wave.name,
        "image": progress.image.name,
        "type": progress.image.type.value,
        "to_version": _hex(progress.image.version),
        "state": progress.state,
        "begun_ms": progress.begun_ms,
        "ended_ms": progress.ended_ms,
        "size": progress.size,
        "begun": progress.begun,
        "in_flight": progress.in_flight,
        "done": progress.done,
        "failed": progress.failed,
        "skipped": progress.skipped,
        "concurrency": progress.wave.concurrency,
        "at_once": progress.at_once,
        "timeline": [
            {"minute": minute, "done": done, "failed": failed, "holding": holding}
            for minute, (done, failed, holding) in sorted(progress.timeline.items())
        ],
    }


def _reasons(
    result: str, attempts: Sequence[tuple[Row, Attempt]], campaign: Campaign
) -> list[Document]:
    """Attempts with this result, together by where and why; the most frequent reason first."""
    groups: dict[tuple[str | None, str | None], list[tuple[Row, Attempt]]] = {}
    for row, attempt in sorted(attempts, key=lambda pair: pair[1].wave):  # members stay in order
        if attempt.result == result:
            groups.setdefault((attempt.failed_in, attempt.cause), []).append((row, attempt))
    return [
        {
            "phase": phase,
            "cause": cause,
            "words": cause_words(cause),
            "count": len(found),
            "attempts": [
                {
                    "index": row.member.index,
                    "entity_id": str(row.member.entity_id),
                    "home": row.member.home,
                    "type": row.member.type.value,
                    "wave": campaign.waves[attempt.wave].wave.name,
                    "image": attempt.image,
                    "ended_ms": attempt.ended_ms,
                }
                for row, attempt in found
            ],
        }
        for (phase, cause), found in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _device(row: Row, campaign: Campaign, waiting: set[int]) -> Document:
    member = row.member
    attempts = [_attempt(attempt, campaign) for attempt in campaign.attempts.get(member.index, ())]
    last = attempts[-1] if attempts else dict.fromkeys(_ATTEMPT_KEYS)
    result = last["result"] or "not_selected"
    if member.index in waiting and not is_open(row):
        result = "waiting"
    return last | {
        "index": member.index,
        "entity_id": str(member.entity_id),
        "home": member.home,
        "type": member.type.value,
        "result": result,
        "phase": row.phase,
        "version": _hex(row.version) if row.version else None,
        "offset": row.offset,
        "total": row.total,
        "starts": row.starts,
        "retries": row.retries,
        "messages": list(row.messages),
        "attempts": attempts,
    }


_ATTEMPT_KEYS: Final = (
    *("wave", "image", "from_version", "to_version", "result", "begun_ms", "ended_ms"),
    *("verified_ms", "duration_ms", "failed_in", "cause", "words"),
)


def _attempt(attempt: Attempt, campaign: Campaign) -> Document:
    return {
        "wave": campaign.waves[attempt.wave].wave.name,
        "image": attempt.image,
        "from_version": _hex(attempt.from_version),
        "to_version": _hex(attempt.to_version),
        "result": attempt.result,
        "begun_ms": attempt.begun_ms,
        "ended_ms": attempt.ended_ms,
        "verified_ms": attempt.verified_ms,
        "duration_ms": _duration_ms(attempt, campaign),
        "failed_in": attempt.failed_in,
        "cause": attempt.cause,
        "words": cause_words(attempt.cause),
    }


def _duration_ms(attempt: Attempt, campaign: Campaign) -> int | None:
    if attempt.begun_ms is None or attempt.ended_ms is None:
        return None
    activate_at_ms = campaign.waves[attempt.wave].wave.activate_at_ms
    held_ms = 0
    if activate_at_ms is not None and attempt.verified_ms is not None:
        held_ms = max(0, min(attempt.ended_ms, activate_at_ms) - attempt.verified_ms)
    return attempt.ended_ms - attempt.begun_ms - held_ms


def _hex(version: int) -> str:
    return f"{version:08x}"
