"""The end of an upgrade: from the verified image to the moment of its activation.

Tells the server with an Upgrade End Request and follows its answer. Who may activate is settled by
the device type (UpgradeActivationPolicy): the OTA server activates a PPMID; anything else is
activated by a GBCS command, and a server that names a time is refused.
Source: ZCL 11.14; gbcs-supplement 10.1 to 10.3; gbcs.md 6.2, 6.3.

Ordering rules:

1. What is held and how far its upgrade came is recorded in the step that changes it: after a
   restart the server is asked again, and a count-down goes on.
2. The record goes in the step that asks for the activation, so both or neither become durable.
"""

from __future__ import annotations

from firmware_node.boundary import Notify, Records
from firmware_node.errors import RecordLostError, RefusedError
from firmware_node.node.deadline import KeptDeadline
from firmware_node.node.records import decode, encode
from firmware_node.node.server_link import ServerLink
from firmware_node.node.upgrade_state import (
    ActivationRequested,
    Output,
    UpgradeState,
)
from firmware_node.terms import DeviceSettings, DeviceType, ImageKey, UpgradeStatus
from firmware_node.wire import ota
from firmware_node.wire.zcl import Status

_RECORD = "ota/upgrade"
_WILDCARDS = (ota.MANUFACTURER_WILDCARD, ota.IMAGE_TYPE_WILDCARD, ota.VERSION_WILDCARD)
_ASKING = (UpgradeStatus.DOWNLOAD_COMPLETE, UpgradeStatus.WAITING_TO_UPGRADE)
_HELD = (
    *_ASKING,
    UpgradeStatus.COUNT_DOWN,
    UpgradeStatus.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT,
)


class UpgradeEnd:
    """One verified image at a time."""

    def __init__(
        self, settings: DeviceSettings, link: ServerLink, records: Records, state: UpgradeState
    ) -> None:
        self._settings = settings.ota
        self.out_of_band = settings.type is not DeviceType.PPMID  # UpgradeActivationPolicy 1
        self.timeout_activates = settings.ota.timeout_activates and not self.out_of_band
        self._link = link
        self._records = records
        self._state = state
        self._deadline = KeptDeadline(records, "ota/count_down")
        self._ask_at: int | None = None
        self._asks = 0  # unanswered
        self.image: ImageKey | None = None
        self.size = 0

    @property
    def wake_at(self) -> int | None:
        """The earlier of the next request and the activation."""
        ask_at, activate_at = self._ask_at, self._deadline.at_ms
        if ask_at is None or activate_at is None:
            return activate_at if ask_at is None else ask_at
        return min(ask_at, activate_at)

    def restore(self, image: ImageKey, size: int, now_ms: int) -> bool:
        """After a restart that found this image verified: take up its upgrade, if it had one.

        An image without a record was brought by the operator, and the server knows nothing of it.
        """
        status = UpgradeStatus.DOWNLOAD_COMPLETE
        try:
            value = self._records.get(_RECORD)
        except RecordLostError:
            pass  # ask the server again
        else:
            fields = {} if value is None else decode(value)
            if fields.get("image") != list(image):
                self.forget()
                return False
            status = UpgradeStatus(fields["status"])
        if status is UpgradeStatus.COUNT_DOWN and not self._deadline.restore(now_ms):
            status = UpgradeStatus.DOWNLOAD_COMPLETE  # the time is lost: ask for it again
        self.image, self.size = image, size
        self._state.enter(UpgradeStatus.DOWNLOAD_COMPLETE)
        self._state.enter(status)
        return True

    def verified(self, image: ImageKey, size: int, now_ms: int) -> list[Output]:
        """The image is good and recorded: tell the server."""
        self.image, self.size, self._asks = image, size, 0
        self._enter(UpgradeStatus.DOWNLOAD_COMPLETE)
        return self._ask(now_ms)

    def forget(self) -> None:
        """Nothing is held that an activation could be asked for."""
        self.image, self.size, self._asks = None, 0, 0
        self._ask_at = None
        self._deadline.clear()
        self._records.delete(_RECORD)

    def go(self, now_ms: int) -> list[Output]:
        """The server can be reached."""
        if self._state.status in _ASKING and self._ask_at is None:
            self._asks = 0
            return self._ask(now_ms)
        return []

    def learn_utc(self, utc: int, now_ms: int) -> None:
        """The hub's time is known."""
        self._deadline.learn_utc(utc, now_ms)

    # --- the server's word ------------------------------------------------------------------------

    def on_response(self, response: ota.UpgradeEndResponse, now_ms: int) -> list[Output]:
        """Upgrade End Response, asked for or not; wild cards match.

        Raises:
            RefusedError: INVALID_VALUE, it names another image; NOT_AUTHORIZED, only a GBCS
                command activates this device.
        """
        if self._state.status not in _HELD or self.image is None:
            return []  # late, or the answer to a failure that was told
        for found, own, wildcard in zip(response.image, self.image, _WILDCARDS, strict=True):
            if found not in (own, wildcard):
                raise RefusedError(Status.INVALID_VALUE, "other_image", f"end of {response.image}")
        self._asks = 0
        if self.out_of_band:
            return self._wait_for_event(response, now_ms)
        if response.upgrade_time == ota.HOLD:
            return self._hold(self._settings.wait_max_s, "server", now_ms)
        if response.upgrade_time < response.current_time:
            return self._hold(self._settings.bad_time_end_s, "bad_time", now_ms)
        return self._count_down(response.upgrade_time - response.current_time, now_ms)

    def _wait_for_event(self, response: ota.UpgradeEndResponse, now_ms: int) -> list[Output]:
        """The server knows that the image is here; it is not asked for a time (supplement 10.1)."""
        del now_ms
        self._ask_at = None
        first = self._state.status is not UpgradeStatus.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT
        if first:
            self._enter(UpgradeStatus.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT)
        if response.upgrade_time != ota.HOLD:
            raise RefusedError(
                Status.NOT_AUTHORIZED, "activation_out_of_band", "only a GBCS command activates"
            )
        return [Notify("activation_held", {"cause": "out_of_band"})] if first else []

    def _hold(self, wait_s: int, cause: str, now_ms: int) -> list[Output]:
        """Wait for a further command, and ask for it after a while."""
        self._deadline.clear()
        self._ask_at = now_ms + wait_s * 1000
        self._enter(UpgradeStatus.WAITING_TO_UPGRADE)
        return [Notify("activation_held", {"cause": cause})]

    def _count_down(self, wait_s: int, now_ms: int) -> list[Output]:
        """Activate then; a far time is asked for again on the way, and stands if nobody answers."""
        settings = self._settings
        wait_ms = max(wait_s * 1000, settings.activate_delay_ms)
        self._deadline.set(wait_ms, now_ms)
        far = wait_s > settings.wait_max_s
        self._ask_at = now_ms + settings.wait_max_s * 1000 if far else None
        self._enter(UpgradeStatus.COUNT_DOWN)
        return [Notify("activation_scheduled", {"seconds": wait_ms / 1000})]

    # --- timers -----------------------------------------------------------------------------------

    def on_timer(self, now_ms: int) -> list[Output]:
        """The count-down is over, or the server has to be asked again."""
        if self._deadline.at_ms is not None and self._deadline.at_ms <= now_ms:
            return self._activate()
        if self._ask_at is not None and self._ask_at <= now_ms:
            return self._ask(now_ms)
        return []

    def _activate(self) -> list[Output]:
        image = self.image
        assert image is not None
        self.forget()
        return [ActivationRequested(image)]

    def _ask(self, now_ms: int) -> list[Output]:
        """Upgrade End Request, SUCCESS; repeated while it stays unanswered."""
        settings, status = self._settings, self._state.status
        self._ask_at = None
        if not self._link.ready:
            return []  # ``go`` asks
        if status is UpgradeStatus.COUNT_DOWN:
            self._ask_at = now_ms + settings.wait_max_s * 1000
            return self._send()
        if self._asks > settings.upgrade_end_retries:
            return self._unanswered(now_ms)
        self._asks += 1
        self._ask_at = now_ms + settings.upgrade_end_retry_s * 1000
        return self._send()

    def _send(self) -> list[Output]:
        assert self.image is not None
        end = ota.UpgradeEndRequest(Status.SUCCESS, self.image)
        return [
            self._link.request(ota.UPGRADE_END_REQUEST, ota.encode_upgrade_end_request(end)),
            Notify("upgrade_end_sent", {"status": f"{end.status:02X}"}),
        ]

    def _unanswered(self, now_ms: int) -> list[Output]:
        """UpgradeTimeoutPolicy: 0 activates now; 1 looks for a server and asks that one."""
        self._asks = 0
        note = Notify("upgrade_end_unanswered", {"activates": self.timeout_activates})
        if self.timeout_activates:
            return [note, *self._count_down(0, now_ms)]
        return [note, *self._link.lose("upgrade_end_unanswered")]

    def _enter(self, status: UpgradeStatus) -> None:
        """Change the status and record it."""
        assert self.image is not None
        self._state.enter(status)
        fields = {"status": int(status), "image": list(self.image), "size": self.size}
        self._records.put(_RECORD, encode(fields))
