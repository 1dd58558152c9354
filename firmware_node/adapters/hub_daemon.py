"""The hub daemon: the Comms Hub, its air, and the DCC with its head end behind one socket.

The DCC lives in the hub's process, because the rule for request signatures is the hub's
configuration; service requests come as they are and are parsed here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firmware_node.adapters.control import ControlServer, Document, Refusal, Request, stream
from firmware_node.adapters.driver import (
    Driver,
    Events,
    SystemEntropy,
    feed_watchdog,
    notify_systemd,
    now_ms,
    on_signals,
    reloading,
)
from firmware_node.adapters.service import hub_words, tell_status
from firmware_node.adapters.virtual_radio import AirServer
from firmware_node.boundary import (
    CarryMessage,
    Delivered,
    Effect,
    Input,
    MessageArrived,
    MessageChecked,
    MessageUp,
    Notify,
    OfferImage,
    ReadVersion,
    SendFrame,
    SetClock,
    Started,
)
from firmware_node.config import HubConfig, read_key_folder
from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError, DecodeError
from firmware_node.rig.comms_hub import CommsHub, HubSettings, Misbehaviour
from firmware_node.rig.head_end import HeadEnd
from firmware_node.terms import EntityId, Role
from firmware_node.tools import duis
from firmware_node.wire.gbcs import decode_message
from firmware_node.wire.ota_file import decode_ota_header

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
WAIT_MAX_S = 7 * 24 * 3600
MESSAGES_KEPT = 1000  # in memory, for ``GET /v1/messages``
_FAILED = ("discarded", "hardware_mismatch", "transfer_failed", "unknown_device", "no_route")
_log = logging.getLogger(__name__)


def run_hub(config: HubConfig, reload: Callable[[], None]) -> int:
    """Run until stopped; the exit code. ``reload`` is what SIGHUP asks for."""
    keyring = Keyring(read_key_folder(config.keys.directory))
    return asyncio.run(HubDaemon(config, keyring, reload).main())


def utc_now() -> int:
    """Seconds since 2000-01-01T00:00:00Z."""
    return int((datetime.now(UTC) - _EPOCH).total_seconds())


class HubDaemon:
    """One life of the process."""

    def __init__(self, config: HubConfig, keyring: Keyring, reload: Callable[[], None]) -> None:
        self._config = config
        self._reload = reload
        self._keyring = keyring
        self._acb = _acb(config, keyring)
        hub_id = EntityId.parse(config.hub.entity_id)
        keyring.signing_key(hub_id)  # missed now, not at the first alert
        # Organisations count by time, so that a restart needs no store (gbcs.md 1.5).
        counter = int(time.time() * 1000)
        self._hub = CommsHub(_hub_settings(config, hub_id, self._acb, counter), keyring)
        self._head_end = HeadEnd(self._acb, keyring, first_counter=counter)
        self._events = Events()
        self._driver = Driver(
            self._hub, lambda: None, self._perform, lambda: self._radio.flush(), self._fail
        )
        self._radio = AirServer(Path(config.radio.air), hub_id, self._driver.deliver)
        self._control = ControlServer(Path(config.dcc.socket), self._handle)
        self._followers: set[asyncio.Queue[Document]] = set()
        self._messages: deque[Document] = deque(maxlen=MESSAGES_KEPT)
        self._stopping: asyncio.Future[int] | None = None
        self._error: BaseException | None = None
        self._entropy = SystemEntropy()

    async def main(self) -> int:
        """Open air and socket, say that we are ready, run until something ends us."""
        self._stopping = asyncio.get_running_loop().create_future()
        on_signals(self._stop, self._on_reload)
        await self._radio.open()
        self._driver.deliver(Started())
        await self._control.open()
        notify_systemd(f"READY=1\nSTATUS={self._words()}")
        _log.warning("ready")
        tasks = [
            asyncio.create_task(feed_watchdog()),
            asyncio.create_task(tell_status(self._words, notify_systemd)),
        ]
        code = await self._stopping
        notify_systemd("STOPPING=1\nSTATUS=stopping")
        for task in tasks:
            task.cancel()
        self._driver.stop()
        self._control.close()
        self._radio.close()
        if self._error is not None:
            raise self._error
        return code

    def _on_reload(self) -> None:
        notify_systemd(reloading())
        self._reload()
        notify_systemd(f"READY=1\nSTATUS={self._words()}")

    def _words(self) -> str:
        return hub_words(self._hub.status(now_ms()))

    def _stop(self, code: int) -> None:
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(code)

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._stop(3)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case SendFrame():
                self._radio.send(effect)
            case Notify():
                self._events.add(effect)
            case MessageUp(message=message):
                self._head_end_step(MessageArrived(message))
            case Delivered():
                self._publish(
                    {
                        "delivery": {
                            "entity_id": str(effect.entity_id),
                            "status": effect.status,
                        },
                        "request_id": effect.request_id,
                    }
                )
            case _:
                raise TypeError(f"a hub daemon cannot perform {type(effect).__name__}")

    def _head_end_step(self, item: Input) -> None:
        for effect in self._head_end.step(item, now_ms()):
            match effect:
                case CarryMessage():
                    self._driver.deliver(effect)
                case MessageChecked():
                    document = _message_document(effect)
                    self._messages.append(document)
                    self._publish({"message": document})
                case Notify():
                    self._events.add(effect)
                case _:
                    raise TypeError(f"a head end does not {type(effect).__name__}")

    def _publish(self, document: Document) -> None:
        for queue in self._followers:
            queue.put_nowait(document)

    # --- requests ---------------------------------------------------------------------------------

    async def _handle(self, request: Request) -> Document | AsyncIterator[Document]:
        match request.method, request.path:
            case "GET", "/v1/status":
                return self._hub.status(now_ms())
            case "GET", "/v1/messages":
                return {"messages": list(self._messages)}
            case "GET", "/v1/events":
                if request.query.get("follow"):
                    return self._events.follow()
                return stream(self._events.all())
            case "PUT", "/v1/clock":
                return self._set_clock(request.body)
            case "POST", "/v1/requests":
                return self._take_request(request.body, _patience_s(request))
        raise Refusal(404, f"{request.method} {request.path} is not known")

    def _set_clock(self, body: bytes) -> Document:
        try:
            moment = datetime.fromisoformat(body.decode("ascii").strip())
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            utc = int((moment - _EPOCH).total_seconds())
            if not 0 <= utc < 2**32 - 1:
                raise ValueError
        except ValueError as error:
            raise Refusal(400, f"time: found {body[:40]!r}, expected RFC 3339") from error
        self._driver.deliver(SetClock(utc))
        return {"utc": self._hub.status(now_ms())["utc"]}

    def _take_request(self, body: bytes, wait_s: int | None) -> AsyncIterator[Document]:
        """First what was understood, then deliveries and messages as they come.

        ``wait_s`` bounds the wait; 0: as the configuration says, None: do not wait.
        """
        if duis.is_request(body):
            return self._service_request(body, wait_s)
        return self._gbcs_message(body, wait_s)

    def _service_request(self, body: bytes, wait_s: int | None) -> AsyncIterator[Document]:
        request = duis.parse_request(body)
        state = duis.signature_state(body, self._keyring)
        warnings: list[str] = []
        if state != "valid":
            if self._config.dcc.request_signature == "require":
                reason = f"request signature: {state}, and this DCC requires a valid one"
                refused: Document = {
                    "request_id": request.request_id,
                    "response_code": None,
                    "request_signature": state,
                    "warnings": [],
                    "error": reason,
                }
                return stream([refused])
            warnings.append(f"request signature: {state}")
        head: Document = {
            "request_id": request.request_id,
            "response_code": "I99" if wait_s is None else "I0",
            "request_signature": state,
            "warnings": warnings,
        }
        match request.service_reference:
            case "11.4":
                assert request.image is not None
                version = decode_ota_header(request.image).image.version_hex
                if request.firmware_version and request.firmware_version.lower() != version:
                    warnings.append(
                        f"FirmwareVersion {request.firmware_version} differs from the OTA "
                        f"header's {version}, which counts"
                    )
                item: Input = OfferImage(request.request_id, request.image, request.devices)
                wanted = {str(device): "CS09" for device in request.devices}
            case "11.2":
                item = ReadVersion(
                    request.request_id,
                    request.originator,
                    request.counter,
                    request.devices[0],
                )
                wanted = {str(request.devices[0]): "CS08"}
            case other:
                raise Refusal(400, f"service request {other} is not carried out yet")
        return self._carry_out(head, item, wanted, wait_s)

    def _gbcs_message(self, body: bytes, wait_s: int | None) -> AsyncIterator[Document]:
        try:
            text = body.strip()
            data = bytes.fromhex(text.decode("ascii")) if text[:1] in b"Dd" else body
            message = decode_message(data)
        except (ValueError, DecodeError) as error:
            raise ConfigError(f"neither a DUIS request nor a GBCS message: {error}") from error
        recipient = message.header.recipient
        head: Document = {
            "request_id": "",
            "response_code": "I99" if wait_s is None else "I0",
            "request_signature": "placeholder",
            "warnings": ["a GBCS message carried as it is"],
        }
        return self._carry_out(head, CarryMessage(recipient, data), {str(recipient): ""}, wait_s)

    async def _carry_out(
        self, head: Document, item: Input, wanted: dict[str, str], wait_s: int | None
    ) -> AsyncIterator[Document]:
        """Until every device answered or failed, or the DCC's patience ends."""
        queue: asyncio.Queue[Document] = asyncio.Queue()
        self._followers.add(queue)
        try:
            yield head
            if isinstance(item, ReadVersion):
                self._head_end_step(item)
            else:
                self._driver.deliver(item)
            dcc = self._config.dcc
            patience_s = dcc.poll_s if isinstance(item, OfferImage) else dcc.message_poll_s
            deadline = time.monotonic() + (wait_s or patience_s)
            while wanted:
                if wait_s is None and queue.empty():
                    return
                try:
                    async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                        document = await queue.get()
                except TimeoutError:
                    return
                if "delivery" in document:
                    if document["request_id"] not in ("", head["request_id"]):
                        continue
                    delivery = document["delivery"]
                    if delivery["entity_id"] not in wanted:
                        continue
                    # A device that is not there may still join: the offer stands.
                    if delivery["status"] in _FAILED and not (
                        delivery["status"] == "unknown_device" and isinstance(item, OfferImage)
                    ):
                        wanted.pop(delivery["entity_id"])
                    yield document
                else:
                    message = document["message"]
                    if not _concerns(message, wanted):
                        continue
                    yield document
                    expected = wanted.get(message["originator"])
                    if expected == "" or expected == message["use_case"]:
                        wanted.pop(message["originator"])
        finally:
            self._followers.discard(queue)


def _patience_s(request: Request) -> int | None:
    limit = request.query.get("limit_s", "0")
    if not limit.isdecimal() or not int(limit) <= WAIT_MAX_S:
        raise Refusal(400, f"limit_s: found {limit!r}, expected 0 to {WAIT_MAX_S}")
    return int(limit) if request.query.get("wait") else None


def _concerns(message: Document, wanted: dict[str, str]) -> bool:
    about = message["fields"].get("entity_id")
    return message["originator"] in wanted or about in wanted


def _message_document(effect: MessageChecked) -> Document:
    document: dict[str, Any] = {
        "use_case": effect.use_case,
        "message_code": f"{effect.message_code:04X}",
        "kind": effect.kind,
        "originator": str(effect.originator),
    }
    if effect.alert_code is not None:
        document["alert_code"] = f"{effect.alert_code:04X}"
    document |= {
        "signature": effect.signature,
        "mac": effect.mac,
        "fields": dict(effect.fields),
        "hex": effect.message.hex(),
    }
    return document


def _acb(config: HubConfig, keyring: Keyring) -> EntityId:
    if config.dcc.acb is not None:
        return EntityId.parse(config.dcc.acb)
    known = keyring.find(Role.ACCESS_CONTROL_BROKER)
    if not known:
        raise ConfigError(f"keys.directory {config.keys.directory}: no access control broker in it")
    return known[0]


def _hub_settings(config: HubConfig, hub_id: EntityId, acb: EntityId, counter: int) -> HubSettings:
    section = config.hub
    after = {"now": 0, "hold": None}.get(section.activation, -1)
    return HubSettings(
        entity_id=hub_id,
        acb=acb,
        block_size_max=section.block_size_max,
        wait_s=section.wait_s,
        activate_after_s=int(section.activation) if after == -1 else after,
        pages=section.pages,
        transfer_timeout_s=section.transfer_timeout_s,
        default_responses=section.default_responses,
        utc=utc_now() - now_ms() // 1000,
        first_counter=counter,
        script=tuple(_misbehaviour(text) for text in section.script),
    )


def _misbehaviour(text: str) -> Misbehaviour:
    what, _, rest = text.partition(":")
    times, _, offset = rest.partition(":")
    try:
        return Misbehaviour(what, int(times or 1), int(offset or 0))
    except ValueError as error:
        raise ConfigError(
            f"hub.script: found {text!r}, expected what:times:offset ({error})"
        ) from error
