"""A fleet's numbers in the text format of Prometheus, made from a snapshot when somebody asks.

Nothing is counted here. Each exporter has its own registry; there is no process-wide one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from firmware_node import __version__
from firmware_node.fleet.live import TURN_BUCKETS_S, Snapshot

Metric = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class FleetMetrics(Collector):
    """The page of one fleet."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def page(self) -> bytes:
        """The text; its type is ``prometheus_client.CONTENT_TYPE_LATEST``."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: else the library would collect once to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """See ``Collector``."""
        seen = self._snapshot()
        info = GaugeMetricFamily(
            "fn_fleet_info", "What runs; always 1.", labels=["version", "plan", "seed", "state"]
        )
        info.add_metric(
            [__version__, seen.plan.name, str(seen.plan.shape.seed), seen.campaign.state], 1
        )
        yield info
        yield GaugeMetricFamily("fn_fleet_homes", "Homes of the fleet.", seen.plan.shape.homes)
        yield _by("fn_fleet_members", "Devices, by phase.", "phase", seen.totals)
        yield _wave_members(seen)
        for name, text, value in (
            ("virtual_seconds", "Virtual time since the start.", seen.now_ms / 1000),
            ("speed_ratio", "Virtual seconds in a second, lately.", seen.rates.speed),
        ):
            yield GaugeMetricFamily(f"fn_fleet_{name}", text, value)
        yield _total("fn_fleet_events", "What happened to devices, by name.", "name", seen.events)
        yield _total(
            "fn_fleet_gbcs_messages",
            "GBCS messages that came up, by use case.",
            "use_case",
            seen.messages,
        )
        yield CounterMetricFamily(
            "fn_fleet_downloaded_bytes", "Bytes of images that devices took.", seen.downloaded
        )
        yield _by(
            "fn_fleet_failed", "Devices whose upgrade failed, by cause.", "cause", seen.failed_by
        )
        counts = zip([*map(str, TURN_BUCKETS_S), "+Inf"], seen.turns.buckets, strict=True)
        yield HistogramMetricFamily(
            "fn_fleet_turn_duration_seconds",
            "Wall time that turns of the fleet took.",
            [(limit, float(count)) for limit, count in counts],
            seen.turns.total_s,
        )


def _by(name: str, text: str, label: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _total(name: str, text: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _wave_members(seen: Snapshot) -> GaugeMetricFamily:
    labels = ["wave", "state"]
    family = GaugeMetricFamily("fn_fleet_wave_members", "Devices of a wave.", labels=labels)
    for wave in seen.waves:
        family.add_metric([wave.state.name, "selected"], wave.state.members)
        family.add_metric([wave.state.name, "under_way"], wave.under_way)
        family.add_metric([wave.state.name, "done"], wave.done)
        family.add_metric([wave.state.name, "failed"], wave.failed)
    return family
