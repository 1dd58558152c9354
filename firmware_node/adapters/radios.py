"""Which radio a configuration asks for; what every radio is to a daemon.

The stick's adapter, and zigpy-znp with it, is loaded only where a stick is configured: it costs
as much memory as all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from firmware_node.adapters.virtual_radio import HUB_ENDPOINT, AirClient, AirServer
from firmware_node.boundary import Input, SendFrame
from firmware_node.config import RadioSection
from firmware_node.errors import EnvironmentFailure
from firmware_node.terms import EntityId
from firmware_node.wire import ota, zcl, zdo

HOME_AUTOMATION_PROFILE = 0x0104
_SMART_PLUG = 0x0051  # a device of that profile that stock coordinators know
_TWIN = 2  # the twin's endpoint number


class Radio(Protocol):
    """A machine's way to the air."""

    async def open(self) -> None:
        """Be ready for the machine's start; raises EnvironmentFailure."""

    async def run(self) -> None:
        """Look after the network until cancelled."""

    def send(self, effect: SendFrame) -> None:
        """A frame to the air; leaves with ``flush``; a tag is always confirmed."""

    def flush(self) -> None:
        """Write what was sent."""

    def close(self) -> None:
        """Let go of it at once."""

    def report(self) -> dict[str, object]:
        """For ``status``: type, path, and what keeps us from the air (null: nothing)."""

    async def forget(self) -> None:
        """Leave the network for good; raises EnvironmentFailure."""


def device_radio(
    settings: RadioSection,
    entity_id: EntityId,
    endpoint: zdo.Endpoint,
    deliver: Callable[[Input], None],
    failed: Callable[[BaseException], None],
) -> Radio:
    """A device's.

    Raises:
        EnvironmentFailure: zigpy-znp is not installed.
    """
    if settings.type == "virtual":
        return AirClient(Path(settings.air), entity_id, deliver, endpoint)
    endpoint = _as_configured(endpoint, settings)
    endpoints = [endpoint]
    if settings.profile == "lenient":
        endpoints = lenient_endpoints(endpoint)
    return _stick(settings, settings.role, entity_id, endpoints, deliver, failed)


def hub_radio(
    settings: RadioSection,
    entity_id: EntityId,
    deliver: Callable[[Input], None],
    failed: Callable[[BaseException], None],
) -> Radio:
    """A hub's; errors as ``device_radio``."""
    if settings.type == "virtual":
        return AirServer(Path(settings.air), entity_id, deliver)
    endpoint = _as_configured(HUB_ENDPOINT, settings)
    return _stick(settings, "coordinator", entity_id, [endpoint], deliver, failed)


def lenient_endpoints(endpoint: zdo.Endpoint) -> list[zdo.Endpoint]:
    """The Smart Energy endpoint and its twin for coordinators that speak 0x0104 alone.

    Stock coordinators update the first endpoint that lists the OTA cluster, whatever its profile
    (zigbee-znp.md 0, 5.3), and zigpy gives an interview up when one that lists Basic is silent.
    So here only the twin lists these two. Frames of either come to the device.
    """
    in_clusters = tuple(each for each in endpoint.in_clusters if each != zcl.BASIC_CLUSTER)
    out_clusters = tuple(each for each in endpoint.out_clusters if each != ota.CLUSTER)
    twin = zdo.Endpoint(
        _TWIN,
        HOME_AUTOMATION_PROFILE,
        _SMART_PLUG,
        endpoint.in_clusters,
        endpoint.out_clusters,
    )
    return [endpoint._replace(in_clusters=in_clusters, out_clusters=out_clusters), twin]


def _as_configured(endpoint: zdo.Endpoint, settings: RadioSection) -> zdo.Endpoint:
    if settings.device_id is None:
        return endpoint
    return endpoint._replace(device=settings.device_id)


def _stick(
    settings: RadioSection,
    role: str,
    entity_id: EntityId,
    endpoints: Sequence[zdo.Endpoint],
    deliver: Callable[[Input], None],
    failed: Callable[[BaseException], None],
) -> Radio:
    try:
        from firmware_node.adapters.znp.radio import ZnpRadio
    except ImportError as error:
        raise EnvironmentFailure(
            f"radio.type znp needs {error.name}: pip install 'firmware-node[radio]'"
        ) from error
    return ZnpRadio(settings, role, entity_id, endpoints, deliver, failed)
