"""When a daemon says that it is ready, told to a service manager's socket."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_daemon_lines import CONFIG, KEYS

from firmware_node.adapters.daemon import DeviceDaemon, load_factory_image
from firmware_node.adapters.storage import FileStorage
from firmware_node.boundary import SendFrame
from firmware_node.config import read_device_config
from firmware_node.errors import EnvironmentFailure


class SilentRadio:
    """Its port opens, and nobody answers until ``answers`` is set; then with ``error``, if any."""

    def __init__(self, error: EnvironmentFailure | None = None) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self._error = error

    async def open(self) -> None:
        self.asked.set()
        await self.answers.wait()
        if self._error is not None:
            raise self._error

    async def run(self) -> None:
        await asyncio.Event().wait()

    def send(self, effect: SendFrame) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def report(self) -> dict[str, object]:
        return {"type": "silent", "path": "", "fault": None}

    async def forget(self) -> None:
        pass


class Manager:
    """What a service manager hears."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def heard(self) -> str:
        texts = []
        try:
            while True:
                texts.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return "\n".join(texts)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        yield Path(name)


@pytest.fixture
def manager(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(root / "notify"))
    found = Manager(root / "notify")
    yield found
    found.close()


@pytest.fixture
def daemon(root: Path) -> Iterator[DeviceDaemon]:
    file = root / "hcalcs.toml"
    file.write_text(CONFIG.format(root=root))
    config = read_device_config(file)
    storage = FileStorage(Path(config.storage.directory), config.storage.bank_size)
    yield DeviceDaemon(config, storage, KEYS, load_factory_image(config, KEYS), lambda: None)
    storage.close()


def test_a_daemon_is_ready_only_once_its_radio_has_answered(
    manager: Manager, daemon: DeviceDaemon
) -> None:
    async def story() -> None:
        daemon._radio = radio = SilentRadio()
        running = asyncio.create_task(daemon.main())
        await radio.asked.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert manager.heard() == ""
        radio.answers.set()
        while "READY=1" not in (heard := manager.heard()):
            await asyncio.sleep(0)
        assert "STATUS=degraded" in heard  # it has a stick, and no network yet
        daemon._stop(0)
        assert await running == 0
        assert "STOPPING=1" in manager.heard()

    asyncio.run(story())


def test_a_daemon_without_a_radio_is_never_ready(manager: Manager, daemon: DeviceDaemon) -> None:
    async def story() -> None:
        daemon._radio = radio = SilentRadio(EnvironmentFailure("no stick"))
        radio.answers.set()
        await daemon.main()

    with pytest.raises(EnvironmentFailure, match="no stick"):
        asyncio.run(story())
    assert manager.heard() == ""
