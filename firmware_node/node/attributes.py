"""What others may read of us, and the time we read of the hub.

``Attributes`` answers Read Attributes on every server or client attribute we hold; ``TimeClient``
learns UTC from the hub's Time cluster and says how far it is to be trusted.
Source: ZCL 2.5.1, 3.2 (Basic), 3.12 (Time); gbcs-supplement 9 and 10.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from firmware_node.boundary import Effect, Frame, FrameReceived, NetworkUp, SendFrame
from firmware_node.errors import DecodeError
from firmware_node.terms import (
    COORDINATOR,
    ActivationSettings,
    DeviceSettings,
    EntityId,
    ImageKey,
)
from firmware_node.wire import ota, tunneling, zcl
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.zcl import AttributeValue, Status

MANUFACTURER_NAME = b"firmware_node"
POWER_SOURCE_MAINS = 0x01
TIME_ATTRIBUTE = 0x0000
TIME_STATUS_ATTRIBUTE = 0x0001
TIME_MASTER = 0x01
RETRY_S = 60  # until the hub's time is known

_Values = Mapping[int, tuple[int, int | bytes | EntityId]]


class Attributes:
    """Basic, OTA client and Tunneling server attributes."""

    def __init__(self, settings: DeviceSettings) -> None:
        self._settings = settings
        self._image = ImageKey(settings.manufacturer_code, settings.image_type, 0)
        self._manifest: Manifest | None = None

    def set_running(self, image: ImageKey, manifest: Manifest | None) -> None:
        """The image in force: Basic tells its build."""
        self._image, self._manifest = image, manifest

    @staticmethod
    def claims(frame: Frame) -> bool:
        """Whether a frame is a general command other than a response: ours to answer."""
        payload = frame.payload
        return (
            len(payload) >= 3
            and payload[0] & 0x03 == 0
            and payload[2] not in (zcl.READ_ATTRIBUTES_RESPONSE, zcl.DEFAULT_RESPONSE)
        )

    def answer(self, frame: Frame, ota_values: _Values) -> Sequence[Effect]:
        """Read Attributes Response, or a Default Response that says what is wrong."""
        try:
            header, body = zcl.decode_header(frame.payload)
        except DecodeError:
            return ()
        clusters: dict[int, _Values] = {
            zcl.BASIC_CLUSTER: self._basic(),
            ota.CLUSTER: ota_values,
            tunneling.CLUSTER: {0x0000: (zcl.UINT16, tunneling.CLOSE_TUNNEL_TIMEOUT_S)},
        }
        known = clusters.get(frame.cluster)
        if known is None:
            return self._default(frame, header, Status.UNSUPPORTED_CLUSTER)
        if header.cluster_specific:
            return self._default(frame, header, Status.UNSUP_CLUSTER_COMMAND)
        if header.command != zcl.READ_ATTRIBUTES:
            return self._default(frame, header, Status.UNSUP_GENERAL_COMMAND)
        try:
            wanted = zcl.decode_read_attributes(body)
        except DecodeError:
            return self._default(frame, header, Status.MALFORMED_COMMAND)
        values = tuple(
            AttributeValue(attribute, Status.SUCCESS, *known[attribute])
            if attribute in known
            else AttributeValue(attribute, Status.UNSUPPORTED_ATTRIBUTE)
            for attribute in wanted
        )
        reply = header._replace(
            to_client=not header.to_client,
            disable_default_response=True,
            command=zcl.READ_ATTRIBUTES_RESPONSE,
        )
        payload = zcl.encode(reply, zcl.encode_read_attributes_response(values))
        return (SendFrame(frame._replace(payload=payload, broadcast=False)),)

    def _basic(self) -> _Values:
        manifest = self._manifest
        build = manifest.version_string if manifest else self._image.version_hex
        return {
            0x0000: (zcl.UINT8, 8),  # ZCL version
            0x0001: (zcl.UINT8, self._image.file_version & 0xFF),
            0x0003: (zcl.UINT8, self._settings.hardware_version >> 8),
            0x0004: (zcl.CHARACTER_STRING, MANUFACTURER_NAME),
            0x0005: (zcl.CHARACTER_STRING, self._settings.type.name.encode()),
            0x0006: (zcl.CHARACTER_STRING, (manifest.date_code if manifest else "").encode()[:16]),
            0x0007: (zcl.ENUM8, POWER_SOURCE_MAINS),
            0x4000: (zcl.CHARACTER_STRING, build.encode()[:16]),
        }

    @staticmethod
    def _default(frame: Frame, header: zcl.ZclHeader, status: Status) -> Sequence[Effect]:
        if frame.broadcast or header.disable_default_response:
            return ()
        reply = zcl.ZclHeader(
            False, not header.to_client, True, None, header.sequence, zcl.DEFAULT_RESPONSE
        )
        body = zcl.encode_default_response(header.command, status)
        return (SendFrame(frame._replace(payload=zcl.encode(reply, body))),)


@dataclass(frozen=True, slots=True)
class UtcLearned:
    """The hub's time was read."""

    utc: int


class TimeClient:
    """Reads Time and TimeStatus of the hub; believes only a master (supplement 9)."""

    def __init__(self, settings: ActivationSettings) -> None:
        self._settings = settings
        self._base: int | None = None  # UTC at monotonic zero
        self._learned_ms = 0
        self._sequence = 0
        self.wake_at: int | None = None

    @staticmethod
    def claims(frame: Frame) -> bool:
        """Whether a frame is an answer of the Time cluster."""
        return frame.cluster == zcl.TIME_CLUSTER and not Attributes.claims(frame)

    def step(
        self, item: FrameReceived | NetworkUp | None, now_ms: int
    ) -> Sequence[Effect | UtcLearned]:
        """Ask when the network is up and when the timer is due; take the answer."""
        if isinstance(item, FrameReceived):
            return self._on_frame(item.frame, now_ms)
        self.wake_at = now_ms + RETRY_S * 1000
        self._sequence = (self._sequence + 1) & 0xFF
        header = zcl.ZclHeader(False, False, True, None, self._sequence, zcl.READ_ATTRIBUTES)
        body = zcl.encode_read_attributes((TIME_ATTRIBUTE, TIME_STATUS_ATTRIBUTE))
        frame = Frame(
            COORDINATOR, 1, 1, zcl.SMART_ENERGY_PROFILE, zcl.TIME_CLUSTER, zcl.encode(header, body)
        )
        return (SendFrame(frame),)

    def utc(self, now_ms: int) -> int | None:
        """Seconds since 2000-01-01; None while unknown or older than ``time_stale_s``."""
        if self._base is None or now_ms - self._learned_ms > self._settings.time_stale_s * 1000:
            return None
        return self._base + now_ms // 1000

    def best_utc(self, now_ms: int, not_before: int) -> int:
        """The best time known, for stamps: ours, or the last one stored."""
        return max(not_before, 0 if self._base is None else self._base + now_ms // 1000)

    def _on_frame(self, frame: Frame, now_ms: int) -> Sequence[Effect | UtcLearned]:
        try:
            header, body = zcl.decode_header(frame.payload)
            if header.cluster_specific or header.command != zcl.READ_ATTRIBUTES_RESPONSE:
                return ()
            records = zcl.decode_read_attributes_response(body)
        except DecodeError:
            return ()
        values = {record.attribute: record.value for record in records}
        time, status = values.get(TIME_ATTRIBUTE), values.get(TIME_STATUS_ATTRIBUTE)
        if not isinstance(time, int) or not isinstance(status, int) or not status & TIME_MASTER:
            return ()  # a server without the time; asked again by the timer
        self._base = time - now_ms // 1000
        self._learned_ms = now_ms
        self.wake_at = now_ms + self._settings.time_poll_s * 1000
        return (UtcLearned(time),)
