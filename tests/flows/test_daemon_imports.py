"""What a daemon holds in memory: the libraries of the tools are not among it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from firmware_node.tools.keys import build_keys

# Each costs a daemon that never uses it from a hundred kilobytes to several megabytes.
ONLY_FOR_TOOLS = {
    "argparse": ("shutil", "bz2", "lzma"),  # it imports them to measure the terminal
    "config": ("difflib",),
    "control_client": ("http",),
    "duis": ("lxml", "signxml", "xml"),
    "tests": ("hypothesis", "zigpy"),
    "znp": ("serial", "zigpy_znp"),
    "sinks and lines": (
        "firmware_node.adapters.sinks",
        "firmware_node.adapters.spool",
        "firmware_node.adapters.gpio.gpiod_lines",
        "firmware_node.adapters.gpio.rpi_lines",
    ),
    "ours": ("firmware_node.rig", "firmware_node.tools", "firmware_node.demo"),
}


def test_an_idle_device_daemon_has_imported_nothing_that_only_tools_use() -> None:
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        root = Path(name)
        (root / "keys").mkdir()
        for file, data in build_keys(b"imports").items():
            (root / "keys" / file).write_bytes(data)
        (root / "c.toml").write_text(
            '[device]\ntype = "ppmid"\nentity_id = "00-DB-12-34-56-78-90-A4"\n'
            "manufacturer_code = 0x121D\nimage_type = 0x0084\nhardware_version = 0x1111\n"
            f'[storage]\ndirectory = "{root}/state"\n[keys]\ndirectory = "{root}/keys"\n'
            f'[radio]\nair = "{root}/air"\n[control]\nsocket = "{root}/s"\n'
        )
        lines = modules_until_ready(root / "c.toml")
    imported = {line.rpartition("|")[2].strip() for line in lines if "import time:" in line}
    assert {"asyncio", "sqlite3", "firmware_node.node.device"} <= imported
    unwanted = [module for modules in ONLY_FOR_TOOLS.values() for module in modules]
    assert not [
        module
        for module in imported
        if any(module == name or module.startswith(f"{name}.") for name in unwanted)
    ]


def modules_until_ready(config: Path) -> list[str]:
    """The lines of Python's own account of imports, from the start to the daemon's ``ready``."""
    lines = []
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "firmware_node", "run", str(config)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if line.endswith(": ready\n"):
                break
        process.send_signal(signal.SIGTERM)
        lines += process.stderr
    assert process.returncode == 0, "".join(lines[-5:])
    return lines
