"""What is outside the emulated Raspberry Pi: virtual sticks, our hub, the service user.

All are the commands that a person would type, as processes of this machine.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from proof import ProofFailed, expect, wait

from firmware_node.adapters import control_client
from firmware_node.errors import FirmwareNodeError

NODE = str(Path(sys.executable).with_name("firmware-node"))
HUB = "00-DB-12-34-56-78-90-A2"
PPMID = "00-DB-12-34-56-78-90-A4"
HCALCS = "00-DB-12-34-56-78-90-A5"
IMAGE_SIZE = 10_000  # bytes of the manufacturer image; some 200 blocks
UPDATE_LIMIT_S = 240
_HUB = """\
[hub]
entity_id = "{hub}"
[dcc]
socket = "{work}/hub.sock"
[keys]
directory = "{work}/keys"
[radio]
type = "znp"
path = "socket://127.0.0.1:{port}"
"""


def free_port() -> int:
    """A TCP port of this machine that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def call(*arguments: str, code: int | None = 0, limit_s: float = 60) -> str:
    """What one of our commands prints; ``code`` as the exit code that it must have."""
    done = subprocess.run(
        [NODE, *arguments], capture_output=True, text=True, timeout=limit_s, check=False
    )
    said = f"{' '.join(arguments)}: exit {done.returncode}: {done.stdout}{done.stderr}"
    expect(code is None or done.returncode == code, said)
    return done.stdout


class Update(threading.Thread):
    """A distribution that goes on while the machine is killed.

    Attributes:
        share: percent of the file that the hub has served.
        ended: nothing more comes.
    """

    def __init__(self, hub: Path, request: bytes) -> None:
        super().__init__(daemon=True)
        self._hub = hub
        self._document = request
        self._last: dict[str, Any] = {}
        self._error = ""
        self.share = 0
        self.ended = False

    def run(self) -> None:
        """See ``threading.Thread``."""
        try:
            for told in control_client.call(
                self._hub, "POST", "/v1/requests?wait=1", self._document, timeout_s=None
            ):
                self._last = told
                if "progress" in told:
                    at = told["progress"]
                    self.share = 100 * at["file_offset"] // at["total_size"]
        except FirmwareNodeError as error:
            self._error = str(error)
        self.ended = True

    def wait_for(self, share: int) -> None:
        """Until so much is served, or it is over."""
        wait(lambda: self.share >= share or self.ended, f"{share} % served", UPDATE_LIMIT_S)

    def wait_for_end(self) -> None:
        """It must have ended well."""
        wait(lambda: self.ended, "the image is verified", UPDATE_LIMIT_S)
        result = self._last.get("result", self._error)
        expect(result == "ok", f"the distribution: {result}")


class Home:
    """Keys and images in ``work``, and on the air the hub; ``close`` ends what runs."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._processes: list[tuple[subprocess.Popen[bytes], BinaryIO]] = []
        self.device_port = free_port()
        self._socket = ("--hub", f"{work}/hub.sock")
        self.keys = work / "keys"
        call("keys", "create", str(self.keys), "--seed", "emulated pi")
        call(
            *("image", "library", f"{work}/images", "--keys", str(self.keys)),
            *("--size", str(IMAGE_SIZE)),
        )

    def start_hub(self) -> None:
        """The hub with its stick, which carries the air."""
        port = free_port()
        self._stick("hub", port)
        configuration = self._work / "hub.toml"
        configuration.write_text(_HUB.format(hub=HUB, work=self._work, port=port))
        self._start("hub", "hub", str(configuration))
        wait(self.hub, "the hub is there")

    def plug_in(self) -> None:
        """The device's stick, behind the Raspberry Pi's UART."""
        self._stick("device", self.device_port)

    def hub(self) -> dict[str, Any] | None:
        """The hub's own account."""
        told = call("status", "--socket", f"{self._work}/hub.sock", "--json", code=None)
        return json.loads(told) if told else None

    def load(self, *arguments: str) -> None:
        """As the ESME, a load control event for the switch."""
        call("hub", "load", HCALCS, *arguments, *self._socket)

    def image(self, name: str, device: str = "hcalcs") -> Path:
        """A file of the image library."""
        return self._work / "images" / device / f"{name}.ota"

    def distribute(self, name: str, *, limit_s: int = UPDATE_LIMIT_S) -> dict[str, Any]:
        """SR 11.1: to the HCALCS; what came back when it has told that the image is verified."""
        return self._send("11.1", "--image", str(self.image(name)), limit_s=limit_s)

    def begin(self, name: str) -> Update:
        """SR 11.1, watched while it goes on."""
        request = self._request("11.1", "--image", str(self.image(name)))
        update = Update(self._work / "hub.sock", request.read_bytes())
        update.start()
        return update

    def sha256(self, name: str) -> str:
        """Of an image's manufacturer image, as banks are told."""
        told = json.loads(call("image", "inspect", str(self.image(name)), "--json", code=None))
        return str(told["manufacturer_image"]["sha256"])

    def activate(self, name: str, *, wait_for_it: bool = True) -> None:
        """SR 11.3; unless not waited for, until it has told how that ended."""
        if wait_for_it:
            self._send("11.3", "--from", str(self.image(name)), limit_s=UPDATE_LIMIT_S)
        else:
            request = self._request("11.3", "--from", str(self.image(name)))
            call("dcc", "send", str(request), *self._socket)

    def read_version(self) -> str:
        """SR 11.2: what the device says that it runs."""
        (told,) = self._send("11.2", limit_s=60)["messages"]
        return str(told["fields"]["firmware_version"])

    def _send(self, reference: str, *arguments: str, limit_s: int) -> dict[str, Any]:
        request = self._request(reference, *arguments)
        told = call(
            *("dcc", "send", str(request), "--wait", "--timeout", str(limit_s), "--json"),
            *self._socket,
            limit_s=limit_s + 20,
        )
        answer: dict[str, Any] = json.loads(told)
        expect(answer["result"] == "ok", told)
        bad = [m for m in answer["messages"] if "invalid" in (m["signature"], m["mac"])]
        expect(not bad, f"messages that do not hold: {bad}")
        return answer

    def _request(self, reference: str, *arguments: str) -> Path:
        request = self._work / "request.xml"
        call(
            *("dcc", "request", reference, "--devices", HCALCS, "--keys", str(self.keys)),
            *(*arguments, "-o", str(request)),
        )
        return request

    # --- processes --------------------------------------------------------------------------------

    def _stick(self, name: str, port: int) -> None:
        place = ("--tcp", f"127.0.0.1:{port}", "--air", f"{self._work}/air")
        process = self._start(f"{name}.stick", "radio", "virtual", *place, "--nv", self._nv(name))
        assert process.stdout is not None
        expect(process.stdout.readline() == b"ready\n", f"the stick of the {name} does not start")

    def _nv(self, name: str) -> str:
        return f"{self._work}/{name}.nv"

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self._work / f"{name}.log").open("wb")
        process = subprocess.Popen(
            [NODE, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
        self._processes.append((process, log))
        return process

    def close(self) -> None:
        """The last one first."""
        while self._processes:
            process, log = self._processes.pop()
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
            log.close()


def version_of(status: dict[str, Any]) -> str:
    """The version of the running bank."""
    bank = status["banks"][status["running_bank"]]
    return str(bank["version"])


def parsed(text: str) -> dict[str, Any]:
    """A document that came over the console."""
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError:
        raise ProofFailed(f"no JSON document: {text[-400:]}") from None
    return document
