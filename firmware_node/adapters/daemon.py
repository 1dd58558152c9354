"""The device daemon: state directory, radio, control socket around one ``Device``.

The emulated device's restart re-executes the same command in place: same process id, the lock
let go and taken again. Like a reset it closes nothing, so it writes nothing. A failing store ends
the process on the spot with code 3: what a step did not commit never happened, no buffer is
flushed, and no file closed that would be written by that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from firmware_node.adapters.control import (
    ControlServer,
    Document,
    Refusal,
    Request,
    is_closed,
    stream,
)
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
from firmware_node.adapters.gpio import open_lines
from firmware_node.adapters.gpio.buttons import LOOK_S, Button
from firmware_node.adapters.gpio.memory_lines import NoLines
from firmware_node.adapters.pace import Watch
from firmware_node.adapters.radios import device_radio
from firmware_node.adapters.service import device_words, tell_status
from firmware_node.adapters.storage import ROOM, FileStorage
from firmware_node.adapters.virtual_radio import DEVICE_ENDPOINT, HCALCS_ENDPOINT
from firmware_node.boundary import (
    Answer,
    Effect,
    EraseAndReboot,
    FactoryResetRequested,
    Input,
    LineSpec,
    LoadImage,
    Notify,
    QueryRequested,
    Reboot,
    RebootRequested,
    RelayPort,
    SendFrame,
    SetIndicator,
    SetRelay,
    Started,
    SwitchRequested,
)
from firmware_node.config import DeviceConfig, read_image
from firmware_node.crypto import Keyring
from firmware_node.errors import (
    ConfigError,
    EnvironmentFailure,
    KeyMissingError,
    RefusedError,
    StorageError,
)
from firmware_node.node.device import Device
from firmware_node.node.logs import Log
from firmware_node.node.verification import verify_image
from firmware_node.terms import DeviceType, ImageKey
from firmware_node.wire.manufacturer_image import Manifest, build
from firmware_node.wire.ota_file import OtaHeader, build_gb_plain

if TYPE_CHECKING:
    from firmware_node.adapters.sinks import Notices  # only a daemon with sinks carries them

CRASH_PAUSE_S = 0.2  # a crash loop of the emulated image must not eat the machine
FORGET_S = 10  # that a factory reset waits for the radio to leave its network
_RESTARTED = "FIRMWARE_NODE_RESTARTED"  # in the environment of every life but the first
FACTORY_VERSION = 0x00000001
FACTORY_BODY_SIZE = 1024  # bytes; it only has to be there
_log = logging.getLogger(__name__)


def run_device(
    config: DeviceConfig, factory_image: bytes, keyring: Keyring, reload: Callable[[], None]
) -> int:
    """Run until stopped; the exit code. Does not return when the device restarts.

    ``reload`` is what SIGHUP asks for.
    """
    _check_keys(config, keyring)
    _check_factory_image(config, factory_image, keyring)
    storage = FileStorage(Path(config.storage.directory), config.storage.bank_size)
    daemon = DeviceDaemon(config, storage, keyring, factory_image, reload)
    try:
        code = asyncio.run(daemon.main())
        if daemon.restart is not None:
            _re_execute(daemon.restart)
    finally:
        storage.close()
    return code


def _check_keys(config: DeviceConfig, keyring: Keyring) -> None:
    """What the device cannot do without is missed at start, not at the first alert."""
    keyring.signing_key(config.settings().entity_id)


def _check_factory_image(config: DeviceConfig, image: bytes, keyring: Keyring) -> None:
    """A device that could not run it is missed before anything is stored, not at a reset."""
    where = f"device.factory_image {config.device.factory_image or '(built in)'}"
    try:
        verify_image(image, config.settings(), keyring)
    except RefusedError as refused:
        raise ConfigError(f"{where}: {refused}") from refused
    if len(image) > config.storage.bank_size + ROOM:
        raise ConfigError(
            f"{where}: found {len(image)} bytes, expected at most storage.bank_size "
            f"{config.storage.bank_size} and header"
        )


def _re_execute(reason: str) -> NoReturn:
    """The same command in place: same process id."""
    if reason == "crash":
        time.sleep(CRASH_PAUSE_S)
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ[_RESTARTED] = reason
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class DeviceDaemon:
    """One life of the process."""

    def __init__(
        self,
        config: DeviceConfig,
        storage: FileStorage,
        keyring: Keyring,
        factory_image: bytes,
        reload: Callable[[], None],
    ) -> None:
        self._config = config
        self._reload = reload
        self._storage = storage
        self._settings = config.settings()
        self._device = Device(
            self._settings, storage, keyring, SystemEntropy(), factory_image=factory_image
        )
        self._events = Events()
        self._driver = Driver(
            self._device,
            storage.commit,
            self._perform,
            lambda: self._radio.flush(),
            self._fail,
            self._before_commit,
        )
        self._radio = device_radio(
            config.radio,
            self._settings.entity_id,
            HCALCS_ENDPOINT if self._settings.type is DeviceType.HCALCS else DEVICE_ENDPOINT,
            self._driver.deliver,
            self._fail,
        )
        self._control = ControlServer(Path(config.control.socket), self._handle)
        self._gpio: RelayPort = NoLines()
        self._notices: Notices | None = None
        self._answer: Answer | None = None
        self._stopping: asyncio.Future[int] | None = None
        self._error: BaseException | None = None
        self._watch = Watch(config.ota.block_size)
        self.restart: str | None = None

    async def main(self) -> int:
        """Run with the GPIO lines claimed, and leave them in their safe state; the exit code.

        A restart in place lets go of them too: what begins again drives them anew.
        """
        gpio = self._config.gpio
        specs = {name: LineSpec(x.line, x.active_low, x.safe) for name, x in gpio.lines.items()}
        specs |= {
            name: LineSpec(x.line, x.active_low, is_input=True) for name, x in gpio.buttons.items()
        }
        self._gpio = open_lines(gpio.backend, specs, chip=gpio.chip, allow_memory=gpio.allow_memory)
        try:
            self._notices = self._open_notices()
            return await self._run()
        finally:
            if self._notices is not None:
                self._notices.close()
            self._gpio.release({name: section.safe for name, section in gpio.lines.items()})

    def _open_notices(self) -> Notices | None:
        if not self._config.notify:
            return None
        from firmware_node.adapters.sinks import Notices

        directory = Path(self._config.storage.directory)
        return Notices(directory, self._settings.entity_id, self._config.notify)

    def _before_commit(self, effects: Sequence[Effect]) -> None:
        if self._notices is not None:
            self._notices.before_commit(effects)

    async def _run(self) -> int:
        """Start, say that we are ready, run until something ends us."""
        self._stopping = asyncio.get_running_loop().create_future()
        on_signals(self._on_signal, self._on_reload)
        self._control.bind()  # a start counts in a trial, so it must not fail on this afterwards
        try:
            await self._open_radio()
        except EnvironmentFailure:
            self._control.close()
            raise
        self._driver.deliver(Started())
        if not self._stopping.done():
            await self._control.open()
            notify_systemd(f"READY=1\nSTATUS={self._words()}")
            _log.warning("ready")
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._radio.run()),
                group.create_task(feed_watchdog()),
                group.create_task(tell_status(self._words, notify_systemd)),
            ]
            if self._config.gpio.buttons:
                tasks.append(group.create_task(self._watch_buttons()))
            if self._notices is not None:
                tasks += [
                    group.create_task(self._notices.run(name)) for name in self._config.notify
                ]
            code = await self._stopping
            # A restart in place is no stop: told STOPPING, systemd would kill what comes after it.
            notify_systemd(
                "STOPPING=1\nSTATUS=stopping"
                if self.restart is None
                else f"{reloading()}\nSTATUS=restarting: {self.restart}"
            )
            for task in tasks:
                task.cancel()
        self._driver.stop()
        if self.restart == "factory_reset":
            await self._forget_network()
        self._control.close()
        self._radio.close()
        if self._error is not None:
            raise self._error
        return code

    async def _open_radio(self) -> None:
        """One that is missing ends the first start, not the restarts that follow."""
        try:
            await self._radio.open()
        except EnvironmentFailure as error:
            if _RESTARTED not in os.environ:
                raise
            _log.warning("radio: %s", error)

    async def _forget_network(self) -> None:
        try:
            async with asyncio.timeout(FORGET_S):
                await self._radio.forget()
        except (EnvironmentFailure, TimeoutError) as error:
            _log.warning("the radio still knows its network: %s", error or "no answer")

    def _on_signal(self, code: int) -> None:
        """Who stops the process means it, also while the device is about to restart."""
        self.restart = None
        self._driver.stop()
        self._stop(code)

    def _on_reload(self) -> None:
        notify_systemd(reloading())
        self._reload()
        notify_systemd(f"READY=1\nSTATUS={self._words()}")

    def _words(self) -> str:
        return device_words(self._device.status(now_ms()) | {"radio": self._radio.report()})

    def _stop(self, code: int) -> None:
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(code)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, StorageError):
            print(f"firmware-node: {error}", file=sys.stderr, flush=True)
            os._exit(3)
        self._error = error
        self._stop(3)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case SendFrame():
                self._radio.send(effect)
            case Notify():
                self._events.add(self._watch.heard(effect))
            case Answer():
                self._answer = effect
            case SetRelay(name=name, on=on) | SetIndicator(name=name, on=on):
                if name in self._config.gpio.lines:
                    self._gpio.set(name, on)
            case Reboot(reason=reason):
                self._restart(reason)
            case EraseAndReboot():
                self._storage.erase()
                self._restart("factory_reset")
            case _:
                raise TypeError(f"a device daemon cannot perform {type(effect).__name__}")

    async def _watch_buttons(self) -> None:
        buttons = {name: Button() for name in self._config.gpio.buttons}
        while True:
            for name, button in buttons.items():
                if button.look(self._gpio.get(name)):
                    self._pressed(name)
            await asyncio.sleep(LOOK_S)

    def _pressed(self, name: str) -> None:
        action = self._config.gpio.buttons[name].action
        _log.info("button %s: %s", name, action)
        if self.restart is None:
            self._driver.deliver(RebootRequested() if action == "reboot" else QueryRequested())

    def _restart(self, reason: str) -> None:
        """What this step sent before has left; now the process begins again."""
        self.restart = reason
        self._driver.stop()
        # One turn of the loop lets written frames and the control answer reach their sockets.
        asyncio.get_running_loop().call_later(0.05, self._stop, 0)

    # --- control ----------------------------------------------------------------------------------

    async def _handle(self, request: Request) -> Document | AsyncIterator[Document]:
        match request.method, request.path:
            case "GET", "/v1/status":
                return self._status()
            case "GET", "/v1/openapi.json":
                from firmware_node.adapters.control_api import DEVICE_ROUTES, openapi

                return openapi("firmware_node device", DEVICE_ROUTES)
            case "GET", "/v1/banks":
                return {"running_bank": self._status()["running_bank"], **self._banks()}
            case "GET", "/v1/events":
                if "log" in request.query:
                    return stream(self._device.log(_log_named(request.query["log"])))
                if request.query.get("follow"):
                    return self._events.follow()
                return stream(self._events.all())
            case "POST", "/v1/image":
                activate = bool(request.query.get("activate"))
                return self._ask(LoadImage(request.body, activate))
            case "POST", "/v1/query":
                return self._ask(QueryRequested(_file_version(request)))
            case "POST", "/v1/relay":
                return self._ask(SwitchRequested(is_closed(request)))
            case "POST", "/v1/reboot":
                return self._ask(RebootRequested())
            case "POST", "/v1/factory-reset":
                return self._ask(FactoryResetRequested())
        raise Refusal(404, f"{request.method} {request.path} is not known")

    def _ask(self, item: Input) -> Document:
        if self.restart is not None:
            raise Refusal(503, "the device is restarting")
        self._answer = None
        self._driver.deliver(item)
        return self._answered()

    def _answered(self) -> Document:
        if self._answer is None:
            raise Refusal(503, "the device is stopping")
        return {"done": self._answer.done, "text": self._answer.text}

    def _status(self) -> Document:
        status = self._device.status(now_ms())
        self._watch.add_to(status)
        status["radio"] = self._radio.report()
        status["gpio"] = self._gpio.describe()
        status["notify"] = {} if self._notices is None else self._notices.report()
        status["pid"] = os.getpid()
        return status

    def _banks(self) -> Document:
        return dict(self._device.banks_report())


def _file_version(request: Request) -> int | None:
    text = request.query.get("file_version")
    if text is None:
        return None
    if re.fullmatch(r"[0-9A-Fa-f]{1,8}", text) is None:
        raise Refusal(400, f"file_version: found {text!r}, expected up to 8 hex digits")
    return int(text, 16)


def _log_named(text: str) -> Log:
    try:
        return Log(text)
    except ValueError:
        raise Refusal(400, f"log: found {text!r}, expected security or event") from None


def load_factory_image(config: DeviceConfig, keyring: Keyring) -> bytes:
    """The configured factory image, or a built-in one, version 00000001, signed if we can."""
    if config.device.factory_image is not None:
        return read_image(config.device.factory_image)
    device = config.device
    image = ImageKey(device.manufacturer_code, device.image_type, FACTORY_VERSION)
    manifest = Manifest(image, 0x0000, 0xFFFF, version_string="factory")
    try:
        sign = keyring.manufacturer_signing_key(device.manufacturer_code).sign
    except KeyMissingError:
        sign = None
    header = OtaHeader(
        image, header_string="factory", hardware_version_min=0, hardware_version_max=0xFFFF
    )
    return build_gb_plain(header, build(manifest, bytes(FACTORY_BODY_SIZE), sign))
