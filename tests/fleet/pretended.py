"""A fleet that only looks like one: rows that go forward by lot, behind the views' interface."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from synthetic import synthetic

from firmware_node.errors import RefusedError
from firmware_node.fleet.live import CampaignState, Live, Snapshot, WaveState
from firmware_node.fleet.live_json import row_document
from firmware_node.fleet.terms import Event, ImageSpec, Order, Plan, Row, Shape
from firmware_node.terms import DeviceType

TURN_MS = 5_000
TOTAL = 65_596  # bytes
CAUSES = (
    ("trial", "self_test"),
    ("downloading", "no_answer_in_time"),
    ("verification", "image_discarded"),
)
WAVES = (("pilot", 2), ("second", 20), ("rest", 100))
IMAGE = ImageSpec("release-2", DeviceType.PPMID, 2)
FAILED = 0x89  # ZCL status INVALID_IMAGE


class PretendedFleet:
    """A PPMID and an HCALCS in each home, in three waves; ``turn`` goes on."""

    def __init__(self, homes: int = 50, seed: int = 1) -> None:
        self.shape = Shape(homes, ((DeviceType.PPMID, 1), (DeviceType.HCALCS, 1)), seed=seed)
        self.live = Live(Plan("rollout-2026", self.shape, images=(IMAGE,)))
        self.rows = [
            Row(self.shape.member(index), "starting", version=1) for index in range(self.shape.size)
        ]
        self.state = "running"
        self.now_ms = 0
        self.orders: list[Order] = []
        self.actions: list[str] = []
        self._draw = random.Random(seed)
        self._wave_of = [
            next(n for n, (_, share) in enumerate(WAVES) if self._draw.randrange(100) < share)
            for _ in range(self.shape.size)
        ]
        self._sizes = [self._wave_of.count(number) for number in range(len(WAVES))]
        self._events: list[Event] = []

    def turn(self, turns: int = 1) -> None:
        """Some turns, each of which moves some of the members, and an update."""
        for _ in range(turns):
            self.now_ms += TURN_MS
            moved = self._move() if self.state == "running" else []
            self.live.happened(self._events)
            self._events.clear()
            self.live.turn_took(0.02)
            self.live.update(self.now_ms, moved, self.campaign_state(), self.now_ms / 50_000)

    def campaign_state(self) -> CampaignState:
        """Waves begin one after the other."""
        states = []
        for number, (name, _) in enumerate(WAVES):
            ended = sum(
                row.phase in ("done", "failed")
                for row, wave in zip(self.rows, self._wave_of, strict=True)
                if wave == number
            )
            begun = number <= self._wave
            state = "waiting"
            if begun:
                state = "done" if ended == self._sizes[number] else "running"
            states.append(WaveState(name, "release-2", self._sizes[number], state))
        return CampaignState(self.state, "", tuple(states))

    # --- as the views ask -------------------------------------------------------------------------

    def snapshot(self, since: int | None = None) -> Snapshot:
        return self.live.snapshot(since)

    async def member(self, index: int) -> Mapping[str, Any]:
        row = self.rows[index]
        bank = {"state": "confirmed", "version": "00000001", "sha256": "ab" * 32, "size": 8192}
        spare = {"state": "receiving", "version": "00000002", "sha256": None, "size": 65536}
        failure = {"phase": row.failed_in, "cause": row.cause, "at": "2026-01-01T01:02:03Z"}
        return {
            **row_document(row),
            "status": {
                "on": row.phase != "off",
                "state": "downloading",
                "running_bank": "A",
                "banks": {"A": bank, "B": spare},
                "last_failure": failure if row.cause else None,
            },
            "events": [
                {"at_ms": 1000, "name": "joined", "fields": {"short_address": 4660}},
                {"at_ms": 61_000, "name": "message", "fields": {"use_case": "<b>CCS08</b>"}},
            ],
        }

    async def order(self, order: Order) -> str:
        if order.verb == "add":
            raise RefusedError(FAILED, "not_removed", "the device was not removed")
        self.orders.append(order)
        return f"{order.verb}: from the next turn on"

    async def campaign(self, action: str) -> str:
        self.actions.append(action)
        self.state = {"pause": "paused", "stop": "stopped"}.get(action, "running")
        self.live.update(self.now_ms, (), self.campaign_state(), self.now_ms / 50_000)
        return f"the campaign is {self.state}"

    async def results(self) -> Mapping[str, Any]:
        return synthetic(self.shape.homes, state="running")

    # --- how it goes ------------------------------------------------------------------------------

    @property
    def _wave(self) -> int:
        return min(len(WAVES) - 1, self.now_ms // 60_000)

    def _move(self) -> list[Row]:
        moved = []
        for row, wave in zip(self.rows, self._wave_of, strict=True):
            if row.phase in ("done", "failed") or self._draw.random() < 0.5:
                continue
            before = (row.phase, row.offset)
            self._step(row, wave)
            if before != (row.phase, row.offset):
                moved.append(row)
        return moved

    def _step(self, row: Row, wave: int) -> None:
        match row.phase:
            case "starting" | "off":
                row.phase = "idle" if self._draw.random() < 0.97 else "off"
            case "idle" if wave <= self._wave and self._draw.random() < 0.2:
                row.phase, row.wave, row.image = "offered", WAVES[wave][0], "release-2"
                row.begun_ms, row.total = self.now_ms, TOTAL
            case "offered":
                row.phase = "downloading"
            case "downloading":
                row.offset = min(TOTAL, row.offset + self._draw.randrange(12_000))
                if row.offset == TOTAL:
                    row.phase = "transferred"
                elif self._draw.random() < 0.004:
                    self._fail(row, *CAUSES[1])
            case "transferred":
                row.phase = "activating"
                self._happened(row, "message", use_case="CCS08", kind="alert")
                if self._draw.random() < 0.01:
                    self._fail(row, *CAUSES[2])
            case "activating":
                row.phase = "trial"
            case "trial":
                if self._draw.random() < 0.02:
                    self._fail(row, *CAUSES[0])
                else:
                    row.phase, row.version, row.ended_ms = "done", 2, self.now_ms
                    self._happened(row, "message", use_case="CS09", kind="alert")

    def _fail(self, row: Row, phase: str, cause: str) -> None:
        row.phase, row.failed_in, row.cause, row.ended_ms = "failed", phase, cause, self.now_ms

    def _happened(self, row: Row, name: str, **fields: str) -> None:
        self._events.append(Event(self.now_ms, row.member.index, name, fields))
