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
        "timeline": [{"minute": 5, "done": 6, "failed": 0},    # outcomes in that minute of the
                     {"minute": 6, "done": 3, "failed": 1}],   # run; minutes without are left out
      }],
      "durations": {                        # of the attempts that were done, from offer to outcome
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
        "begun_ms": 0, "ended_ms": 240000, "duration_ms": 240000,
        "offset": 65596, "total": 65596,    # bytes of the download
        "starts": 2, "retries": 3,          # of the process; of blocks
        "messages": ["CCS08 alert 8F8A: transfer success (signature valid)"],  # oldest first
        "attempts": [{                      # one for each wave that it was in, the last one too
          "wave": "pilot", "image": "ppmid-2", "from_version": "00000001",
          "to_version": "00000002", "result": "done",  # done failed skipped in_flight
          "begun_ms": 0, "ended_ms": 240000, "duration_ms": 240000,
          "failed_in": null, "cause": null, "words": null
        }]
      }]
    }

``failed_in`` is where the upgrade was: ``offered downloading verification transferred activating
trial``. ``cause`` is a fixed snake_case word, ``words`` the same for people.
"""
