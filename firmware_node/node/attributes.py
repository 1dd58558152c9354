"""What others may read of us, and the time we read of the hub.

``Attributes`` answers Read Attributes on what we hold and every other general command with what is
wrong; ``TimeClient`` learns UTC from the hub's Time cluster and says how far it is to be trusted.
Source: ZCL 2.5 (general commands), 3.2 (Basic), 3.12 (Time); gbcs-supplement 9 and 10.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from firmware_node.boundary import Effect, Frame, FrameReceived, NetworkDown, NetworkUp, SendFrame
from firmware_node.errors import DecodeError
from firmware_node.node.replies import default_response
from firmware_node.terms import (
    COORDINATOR,
    ActivationSettings,
    DeviceSettings,
    EntityId,
    ImageKey,
)
from firmware_node.wire import drlc, ota, tunneling, zcl, zdo
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.zcl import AttributeValue, Status

MANUFACTURER_NAME = b"firmware_node"
ZCL_VERSION = 8
POWER_SOURCE_MAINS = 0x01
STRING_SIZE_MAX = 16  # DateCode and SWBuildID (ZCL 3.2.2.2)
RESPONSE_SIZE_MAX = 70  # bytes of the body; a frame with APS security takes 73 (zigbee-znp.md 9)
TIME_ATTRIBUTE = 0x0000
TIME_STATUS_ATTRIBUTE = 0x0001
TIME_MASTER = 0x01
TIME_INVALID = 0xFFFFFFFF
TIME_RETRY_FIRST_MS = 3_000  # doubling, until the hub's time is known
TIME_RETRY_LAST_MS = 300_000

_Values = Mapping[int, tuple[int, int | bytes | EntityId]]


class Attributes:
    """Basic, OTA client, Tunneling server and, of an HCALCS, load control client attributes."""

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
            frame.profile != zdo.PROFILE
            and len(payload) >= 3
            and payload[0] & 0x03 == 0
            and payload[4 if payload[0] & 0x04 and len(payload) >= 5 else 2] not in _RESPONSES
        )

    def answer(
        self, frame: Frame, ota_values: _Values, switch_values: _Values | None = None
    ) -> Sequence[Effect]:
        """Read Attributes Response, or a Default Response that says what is wrong.

        Which side asks is not looked at: some tools name the wrong one, and reading is harmless.
        """
        try:
            header, body = zcl.decode_header(frame.payload)
        except DecodeError:
            return ()  # there is no command to answer
        if not header.cluster_specific and header.command in _RESPONSES:
            return ()
        known = self._cluster(frame.cluster, ota_values, switch_values)
        if known is None:
            return default_response(frame, Status.UNSUPPORTED_CLUSTER)
        if header.cluster_specific:
            return default_response(frame, Status.UNSUP_CLUSTER_COMMAND)
        if header.command != zcl.READ_ATTRIBUTES or header.manufacturer_code is not None:
            return default_response(frame, Status.UNSUP_GENERAL_COMMAND)
        try:
            wanted = zcl.decode_read_attributes(body)
        except DecodeError:
            return default_response(frame, Status.MALFORMED_COMMAND)
        reply = header._replace(
            to_client=not header.to_client,
            disable_default_response=True,
            command=zcl.READ_ATTRIBUTES_RESPONSE,
        )
        payload = zcl.encode(reply, _records(wanted, known))
        return (SendFrame(frame._replace(payload=payload, broadcast=False)),)

    def _cluster(
        self, cluster: int, ota_values: _Values, switch_values: _Values | None
    ) -> _Values | None:
        if cluster == zcl.BASIC_CLUSTER:
            return self._basic()
        if cluster == ota.CLUSTER:
            return ota_values
        if cluster == drlc.CLUSTER:
            return switch_values
        if cluster == tunneling.CLUSTER:
            return {0x0000: (zcl.UINT16, tunneling.CLOSE_TUNNEL_TIMEOUT_S)}
        return None

    def _basic(self) -> _Values:
        manifest = self._manifest
        build = manifest.version_string if manifest else self._image.version_hex
        date = manifest.date_code if manifest else ""
        return {
            0x0000: (zcl.UINT8, ZCL_VERSION),
            0x0001: (zcl.UINT8, self._image.file_version & 0xFF),
            0x0003: (zcl.UINT8, self._settings.hardware_version >> 8),  # version || revision
            0x0004: (zcl.CHARACTER_STRING, MANUFACTURER_NAME),
            0x0005: (zcl.CHARACTER_STRING, self._settings.type.name.encode()),
            0x0006: (zcl.CHARACTER_STRING, date.encode()[:STRING_SIZE_MAX]),
            0x0007: (zcl.ENUM8, POWER_SOURCE_MAINS),
            0x4000: (zcl.CHARACTER_STRING, build.encode()[:STRING_SIZE_MAX]),
        }


_RESPONSES = (zcl.READ_ATTRIBUTES_RESPONSE, zcl.DEFAULT_RESPONSE)


def _records(wanted: Sequence[int], known: _Values) -> bytes:
    """As many records as fit one frame, in the order asked; the rest is asked again (ZCL 2.5.2)."""
    body = b""
    for attribute in wanted:
        value = known.get(attribute)
        record = (
            AttributeValue(attribute, Status.UNSUPPORTED_ATTRIBUTE)
            if value is None
            else AttributeValue(attribute, Status.SUCCESS, *value)
        )
        octets = zcl.encode_read_attributes_response((record,))
        if len(body) + len(octets) > RESPONSE_SIZE_MAX:
            break
        body += octets
    return body


@dataclass(frozen=True, slots=True)
class UtcLearned:
    """The hub's time was read."""

    utc: int  # seconds since 2000-01-01T00:00:00Z


class TimeClient:
    """Reads Time and TimeStatus of the hub; believes only a master (supplement 9)."""

    def __init__(self, settings: ActivationSettings) -> None:
        self._settings = settings
        self._zero_ms: int | None = None  # UTC at monotonic zero, in milliseconds
        self._learned_ms = 0
        self._sequence = 0
        self._retry_ms = TIME_RETRY_FIRST_MS
        self._pending = False
        self._interval_s = settings.time_poll_s
        self.wake_at: int | None = None

    def watch(self, closely: bool, now_ms: int) -> None:
        """Read the time more often while something waits for its moment."""
        settings = self._settings
        self._interval_s = settings.time_poll_pending_s if closely else settings.time_poll_s
        if closely and self.wake_at is not None:
            self.wake_at = min(self.wake_at, now_ms + self._interval_s * 1000)

    @staticmethod
    def claims(frame: Frame) -> bool:
        """Whether a frame is an answer of the Time cluster."""
        return frame.cluster == zcl.TIME_CLUSTER and not Attributes.claims(frame)

    def step(
        self, item: FrameReceived | NetworkUp | NetworkDown | None, now_ms: int
    ) -> Sequence[Effect | UtcLearned]:
        """Ask when the network is up and when the timer is due; take the answer."""
        match item:
            case FrameReceived(frame=frame):
                return self._on_frame(frame, now_ms)
            case NetworkDown():
                self.wake_at, self._pending = None, False
                return ()
            case NetworkUp():
                self._retry_ms = TIME_RETRY_FIRST_MS
                return self._ask(now_ms)
            case None:
                return self._ask(now_ms)

    def utc(self, now_ms: int) -> int | None:
        """Seconds since 2000-01-01; None while unknown or older than ``time_stale_s``."""
        if now_ms - self._learned_ms > self._settings.time_stale_s * 1000:
            return None
        return self._reckoned(now_ms)

    def best_utc(self, now_ms: int, not_before: int) -> int:
        """The best time known, for stamps: ours while it is fresh, else never before the stored."""
        fresh = self.utc(now_ms)
        if fresh is not None:
            return fresh
        reckoned = self._reckoned(now_ms)
        return not_before if reckoned is None else max(reckoned, not_before)

    def _reckoned(self, now_ms: int) -> int | None:
        return None if self._zero_ms is None else (self._zero_ms + now_ms) // 1000

    def _ask(self, now_ms: int) -> Sequence[Effect]:
        self.wake_at = now_ms + self._retry_ms
        self._retry_ms = min(2 * self._retry_ms, TIME_RETRY_LAST_MS)
        self._sequence = (self._sequence + 1) & 0xFF
        self._pending = True
        header = zcl.ZclHeader(False, False, True, None, self._sequence, zcl.READ_ATTRIBUTES)
        body = zcl.encode_read_attributes((TIME_ATTRIBUTE, TIME_STATUS_ATTRIBUTE))
        frame = Frame(
            COORDINATOR, 1, 1, zcl.SMART_ENERGY_PROFILE, zcl.TIME_CLUSTER, zcl.encode(header, body)
        )
        return (SendFrame(frame),)

    def _on_frame(self, frame: Frame, now_ms: int) -> Sequence[Effect | UtcLearned]:
        if frame.peer != COORDINATOR or not self._pending:
            return ()
        try:
            header, body = zcl.decode_header(frame.payload)
            if header.cluster_specific or header.command != zcl.READ_ATTRIBUTES_RESPONSE:
                return ()
            if header.sequence != self._sequence:
                return ()  # late: its time is not now
            records = zcl.decode_read_attributes_response(body)
        except DecodeError:
            return ()
        values = {r.attribute: r.value for r in records if r.status == Status.SUCCESS}
        time, status = values.get(TIME_ATTRIBUTE), values.get(TIME_STATUS_ATTRIBUTE)
        if not isinstance(time, int) or not isinstance(status, int):
            return ()
        if not status & TIME_MASTER or time == TIME_INVALID:
            return ()  # a server without the time; asked again by the timer
        self._zero_ms = time * 1000 - now_ms
        self._learned_ms = now_ms
        self._pending = False
        self._retry_ms = TIME_RETRY_FIRST_MS
        self.wake_at = now_ms + self._interval_s * 1000
        return (UtcLearned(time),)
