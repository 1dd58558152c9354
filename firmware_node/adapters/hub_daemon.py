"""The hub daemon: the Comms Hub, its air, and the DCC with its head end behind one socket.

The DCC lives in the hub's process, because the rules for requests are the hub's configuration.
What a request means is said by ``dcc``, how far it is by ``dcc_exchange``; here are the waiting and
the way between the socket, the head end and the hub.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from firmware_node.adapters.control import (
    ControlServer,
    Document,
    Refusal,
    Request,
    is_closed,
    stream,
)
from firmware_node.adapters.dcc import Dcc
from firmware_node.adapters.dcc_exchange import Exchange, message_document
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
from firmware_node.adapters.pace import Pace
from firmware_node.adapters.radios import hub_radio
from firmware_node.adapters.service import hub_words, tell_status
from firmware_node.boundary import (
    Answer,
    CancelLoad,
    CarryMessage,
    Delivered,
    Effect,
    Input,
    MessageArrived,
    MessageChecked,
    MessageUp,
    Notify,
    OfferImage,
    ScheduleLoad,
    SendFrame,
    SetClock,
    Started,
)
from firmware_node.config import HubConfig, HubSection, read_key_folder
from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError
from firmware_node.rig.comms_hub import CommsHub, HubSettings, Misbehaviour
from firmware_node.rig.head_end import HeadEnd
from firmware_node.terms import EntityId, Role

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
WAIT_MAX_S = 7 * 24 * 3600
PROGRESS_S = 0.2  # between two looks at the transfers that a request waits for
MESSAGES_KEPT = 1000  # in memory, for ``GET /v1/messages``
_log = logging.getLogger(__name__)


def run_hub(config: HubConfig, reload: Callable[[], None]) -> int:
    """Run until stopped; the exit code. ``reload`` is what SIGHUP asks for.

    With ``check_validity`` the dates of certificates are judged once, at the start.
    """
    keyring = Keyring(read_key_folder(config.keys.directory), config.keys.directory)
    if config.keys.check_validity:
        keyring = keyring.at(utc_now())
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
        self._dcc = Dcc(
            config.dcc,
            keyring,
            self._acb,
            hub_id,
            first_counter=counter,
            utc=lambda: self._hub.utc(now_ms()),
            is_present=self._hub.knows,
        )
        self._events = Events()
        self._driver = Driver(
            self._hub, lambda: None, self._perform, lambda: self._radio.flush(), self._fail
        )
        self._radio = hub_radio(config.radio, hub_id, self._driver.deliver, self._fail)
        self._control = ControlServer(Path(config.dcc.socket), self._handle)
        self._followers: set[asyncio.Queue[Delivered | MessageChecked]] = set()
        self._messages: deque[Document] = deque(maxlen=MESSAGES_KEPT)
        self._stopping: asyncio.Future[int] | None = None
        self._error: BaseException | None = None
        self._entropy = SystemEntropy()
        self._answer: Answer | None = None

    async def main(self) -> int:
        """Open air and socket, say that we are ready, run until something ends us."""
        self._stopping = asyncio.get_running_loop().create_future()
        on_signals(self._stop, self._on_reload)
        try:
            self._control.bind()
            await self._radio.open()
            self._driver.deliver(Started())
            await self._control.open()
            for problem in self._dcc.list_problems:
                _log.warning("central_products_list: %s", problem)
            notify_systemd(f"READY=1\nSTATUS={self._words()}")
            _log.warning("ready")
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._radio.run()),
                    group.create_task(feed_watchdog()),
                    group.create_task(tell_status(self._words, notify_systemd)),
                ]
                code = await self._stopping
                notify_systemd("STOPPING=1\nSTATUS=stopping")
                for task in tasks:
                    task.cancel()
        finally:
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
        return hub_words(self._status())

    def _status(self) -> Document:
        return self._hub.status(now_ms()) | {"radio": self._radio.report()}

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
            case Answer():
                self._answer = effect
            case MessageUp(message=message):
                self._head_end_step(MessageArrived(message))
            case Delivered():
                self._dcc.note(effect)
                self._publish(effect)
            case _:
                raise TypeError(f"a hub daemon cannot perform {type(effect).__name__}")

    def _head_end_step(self, item: Input) -> list[CarryMessage]:
        """The commands that the head end made; what else it says is dealt with."""
        commands = []
        for effect in self._head_end.step(item, now_ms()):
            match effect:
                case CarryMessage():
                    commands.append(effect)
                case MessageChecked():
                    self._messages.append(message_document(effect))
                    self._publish(effect)
                case Notify():
                    self._events.add(effect)
                case _:
                    raise TypeError(f"a head end does not {type(effect).__name__}")
        return commands

    def _publish(self, effect: Delivered | MessageChecked) -> None:
        for queue in self._followers:
            queue.put_nowait(effect)

    # --- requests ---------------------------------------------------------------------------------

    async def _handle(self, request: Request) -> Document | AsyncIterator[Document]:
        match request.method, request.path:
            case "GET", "/v1/status":
                return self._status()
            case "GET", "/v1/openapi.json":
                from firmware_node.adapters.control_api import HUB_ROUTES, openapi

                return openapi("firmware_node hub", HUB_ROUTES)
            case "GET", "/v1/messages":
                return {"messages": list(self._messages)}
            case "GET", "/v1/events":
                if request.query.get("follow"):
                    return self._events.follow()
                return stream(self._events.all())
            case "PUT", "/v1/clock":
                return self._set_clock(request.body)
            case "POST", "/v1/load-events":
                return self._ask(_load_event(request))
            case "DELETE", "/v1/load-events":
                return self._ask(CancelLoad(_device(request), _number(request, "id")))
            case "POST", "/v1/requests":
                return self._take_request(request)
        raise Refusal(404, f"{request.method} {request.path} is not known")

    def _set_clock(self, body: bytes) -> Document:
        self._driver.deliver(SetClock(_utc_of(body.decode(errors="replace"))))
        return {"utc": self._hub.status(now_ms())["utc"]}

    def _ask(self, item: Input) -> Document:
        self._answer = None
        self._driver.deliver(item)
        return self._answered()

    def _answered(self) -> Document:
        if self._answer is None:
            raise Refusal(503, "the hub is stopping")
        return {"done": self._answer.done, "text": self._answer.text}

    def _take_request(self, request: Request) -> AsyncIterator[Document]:
        """First what was understood, then deliveries, messages and answers as they come.

        A Pre-Command that we can sign for its User is signed and sent, unless the caller wants to
        have it and no more.
        """
        exchange = self._dcc.take(request.body, request.query.get("to"))
        exchanges = [exchange]
        if exchange.pre_command is not None and request.query.get("stop") != "pre-command":
            signed = self._dcc.go_on(exchange, request.body)
            if signed is None:
                exchange.stopped_short = True
                exchange.head["warnings"].append(
                    f"no signing key of {exchange.order.user} here: stopped at the Pre-Command"
                )
            else:
                exchanges.append(self._dcc.take(signed))
        last = exchanges[-1]
        item = last.order.item
        # Made before the answer begins: a key that is missing is the request's fault.
        commands = [] if item is None else self._head_end_step(item)
        return self._carry_out(exchanges, commands, _patience_s(request))

    async def _carry_out(
        self, exchanges: Sequence[Exchange], commands: Sequence[CarryMessage], wait_s: int | None
    ) -> AsyncIterator[Document]:
        """Until every device answered or failed, or the patience of user or DCC ends.

        ``wait_s`` bounds the wait; 0: as the DCC says, None: do not wait.
        """
        queue: asyncio.Queue[Delivered | MessageChecked] = asyncio.Queue()
        paces: dict[EntityId, Pace] = {}
        self._followers.add(queue)
        exchange = exchanges[-1]
        try:
            for begun in exchanges:
                for document in begun.begin():
                    yield document
            for command in commands:
                for document in exchange.take_command(command):
                    yield document
                if exchange.order.sends:
                    self._driver.deliver(command)
            if isinstance(exchange.order.item, OfferImage):
                self._driver.deliver(exchange.order.item)
            deadline = time.monotonic() + (wait_s or exchange.patience_s())
            hurrying = False
            while not queue.empty() or (wait_s is not None and not exchange.done):
                if exchange.only_stragglers and not hurrying:
                    hurrying = True
                    limit = time.monotonic() + self._config.dcc.straggler_s
                    deadline = min(deadline, limit)
                left_s = max(deadline - time.monotonic(), 0)
                try:
                    async with asyncio.timeout(min(left_s, PROGRESS_S)):
                        effect = await queue.get()
                except TimeoutError:
                    if left_s <= PROGRESS_S:
                        break
                    for progress in self._progress(exchange.waiting, paces):
                        yield progress
                    continue
                took = (
                    exchange.take_delivery(effect)
                    if isinstance(effect, Delivered)
                    else exchange.take_message(effect)
                )
                for document in took:
                    yield document
            for document in exchange.end(waited=wait_s is not None):
                yield document
        finally:
            self._followers.discard(queue)

    def _progress(
        self, devices: Iterable[EntityId], paces: dict[EntityId, Pace]
    ) -> Iterator[Document]:
        """Where the transfers are, for whoever waits; ``paces`` remembers where each began."""
        for device in devices:
            progress = self._hub.progress(device)
            if progress is None:
                paces.pop(device, None)
                continue
            offset, total, blocks = progress
            pace = paces.setdefault(device, Pace(offset, blocks))
            fields = {"entity_id": str(device), "file_offset": offset, "total_size": total}
            yield {"progress": fields | pace.report(offset, total, blocks)}


def _utc_of(text: str) -> int:
    """Seconds since 2000-01-01T00:00:00Z of an RFC 3339 time."""
    try:
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        utc = int((moment - _EPOCH).total_seconds())
        if not 0 <= utc < 2**32 - 1:
            raise ValueError
    except ValueError as error:
        raise Refusal(400, f"time: found {text[:40]!r}, expected RFC 3339") from error
    return utc


def _device(request: Request) -> EntityId:
    return EntityId.parse(request.query.get("device", ""))


def _number(request: Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) >= 2**32:
        raise Refusal(400, f"{name}: found {text[:40]!r}, expected a number")
    return int(text)


def _load_event(request: Request) -> ScheduleLoad:
    query = request.query
    closed = is_closed(request)
    minutes = _number(request, "minutes") or 0
    start = _utc_of(query["start"]) if "start" in query else 0
    return ScheduleLoad(_device(request), closed, minutes, start, bool(query.get("randomise")))


def _patience_s(request: Request) -> int | None:
    limit = request.query.get("limit_s", "0")
    if not limit.isdecimal() or not int(limit) <= WAIT_MAX_S:
        raise Refusal(400, f"limit_s: found {limit!r}, expected 0 to {WAIT_MAX_S}")
    return int(limit) if request.query.get("wait") else None


def _acb(config: HubConfig, keyring: Keyring) -> EntityId:
    if config.dcc.acb is not None:
        return EntityId.parse(config.dcc.acb)
    known = keyring.find(Role.ACCESS_CONTROL_BROKER)
    if not known:
        raise ConfigError(f"{config.keys.directory}: no access control broker in it")
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
        script=misbehaviours(section),
    )


def misbehaviours(section: HubSection) -> tuple[Misbehaviour, ...]:
    """What the script of a configuration asks for.

    Raises:
        ConfigError: nothing is called so.
    """
    return tuple(_misbehaviour(text) for text in section.script)


def _misbehaviour(text: str) -> Misbehaviour:
    what, _, rest = text.partition(":")
    times, _, offset = rest.partition(":")
    try:
        return Misbehaviour(what, int(times or 1), int(offset or 0))
    except ValueError as error:
        raise ConfigError(
            f"hub.script: found {text!r}, expected what:times:offset ({error})"
        ) from error
