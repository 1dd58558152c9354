"""A daemon's GPIO lines from its start to its end, in this process."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

from firmware_node.adapters.daemon import DeviceDaemon, load_factory_image
from firmware_node.adapters.gpio.buttons import LOOK_S
from firmware_node.adapters.gpio.memory_lines import MemoryLines
from firmware_node.adapters.storage import FileStorage
from firmware_node.boundary import SetIndicator, SetRelay
from firmware_node.config import read_device_config
from firmware_node.crypto import Keyring
from firmware_node.tools.keys import build_keys

KEYS = Keyring(build_keys(b"lines"))
CONFIG = """
[device]
type = "hcalcs"
entity_id = "00-DB-12-34-56-78-90-A5"
manufacturer_code = 0x121D
image_type = 0x84
hardware_version = 0x1111
[keys]
directory = "unused"
[storage]
directory = "{root}/state"
bank_size = 65536
[control]
socket = "{root}/control.sock"
[radio]
air = "{root}/air.sock"
[gpio]
backend = "memory"
[gpio.relays.main]
line = 17
active_low = true
[gpio.indicators.load]
line = 27
[gpio.buttons.ask]
line = 5
"""


def test_effects_move_the_pins_a_button_asks_and_a_stop_leaves_them_safe() -> None:
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        file = Path(name) / "hcalcs.toml"
        file.write_text(CONFIG.format(root=name))
        config = read_device_config(file)
        storage = FileStorage(Path(config.storage.directory), config.storage.bank_size)
        daemon = DeviceDaemon(config, storage, KEYS, load_factory_image(config, KEYS), lambda: None)

        async def story() -> tuple[int, MemoryLines]:
            running = asyncio.create_task(daemon.main())
            while not (Path(name) / "control.sock").exists():
                await asyncio.sleep(0)
            port = daemon._gpio
            assert isinstance(port, MemoryLines)
            assert port.levels == {17: 1, 27: 0, 5: 1}  # all off
            daemon._perform(SetRelay("main", True))
            daemon._perform(SetIndicator("load", True))
            daemon._perform(SetIndicator("joined", True))  # has no line here
            assert port.levels == {17: 0, 27: 1, 5: 1}
            while not daemon._answer:  # a finger stays until something happens
                port.levels[5] ^= 1
                for _ in range(3):
                    await asyncio.sleep(LOOK_S)
            assert daemon._answer.text == "asking the OTA server"
            os.kill(os.getpid(), signal.SIGTERM)
            return await running, port

        try:
            code, port = asyncio.run(story())
        finally:
            storage.close()
        assert code == 0
        assert [(edge.number, edge.level) for edge in port.edges][-2:] == [(27, 0), (17, 1)]
        assert port.levels == {}
