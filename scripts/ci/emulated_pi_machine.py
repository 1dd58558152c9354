"""The emulated Raspberry Pi: QEMU, its console, and its pins as they are seen from outside.

The first UART (PL011, ``/dev/ttyAMA0``) leads to a TCP port of this machine. On the second one a
shell of the guest takes commands and gives their output between two marker lines. Pins are read and
driven through the registers of the GPIO block by QEMU's test protocol, past everything that runs
inside.
"""

from __future__ import annotations

import queue
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

from proof import ProofFailed, expect

# Registers of the GPIO block; 32 bits each (BCM2835 ARM Peripherals, 6.1).
GPIO = 0x3F200000
FUNCTION, SET, CLEAR, LEVEL = GPIO + 0x00, GPIO + 0x1C, GPIO + 0x28, GPIO + 0x34
OUTPUT = 0b001  # of three bits a pin, ten pins a register
# Drivers of what QEMU does not have, one of which makes the kernel stumble, are left out.
KERNEL = (
    "root=/dev/mmcblk0 rootwait rw console=ttyS1,115200 quiet loglevel=1 iomem=relaxed"
    " modprobe.blacklist=vc4,snd_bcm2835,brcmfmac,dwc2,vchiq,raspberrypi_cpufreq"
    " systemd.show_status=0 systemd.mask=serial-getty@ttyS1.service"
)
# What answers on the console. It is part of the card.
AGENT = """\
stty -echo -onlcr
printf '\\n<<< here\\n'
while IFS= read -r line; do
    number=${line%% *}
    printf '\\n<<< %s\\n' "$number"
    bash -c "${line#* }" </dev/null 2>&1
    printf '\\n>>> %s %s\\n' "$number" "$?"
done
"""
AGENT_UNIT = """\
[Unit]
Description=commands from the console
DefaultDependencies=no
After=sysinit.target
[Service]
ExecStart=/bin/bash /root/proof/agent
StandardInput=tty
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
"""
# What `firmware-node status --json` prints, in a tenth of the time: for waiting.
LOOK = """\
import socket, sys
line = socket.socket(socket.AF_UNIX)
try:
    line.connect(f"/run/firmware-node/{sys.argv[1]}/control.sock")
except OSError:
    sys.exit(1)
line.sendall(b"GET /v1/status HTTP/1.1\\r\\nHost: pi\\r\\nConnection: close\\r\\n\\r\\n")
print(b"".join(iter(lambda: line.recv(65536), b"")).partition(b"\\r\\n\\r\\n")[2].decode())
"""
BOOT_LIMIT_S = 180
COMMAND_LIMIT_S = 120


class Machine:
    """One boot of the card in ``run``; the rest of it is in ``work``.

    ``keep`` says whether what it writes stays on the card.
    """

    def __init__(self, work: Path, run: Path, radio_port: int, *, keep: bool = False) -> None:
        self._log = (run / "console").open("ab")
        self._lines: queue.Queue[str] = queue.Queue()
        self._commands = 0
        qtest = run / "qtest"
        qtest.unlink(missing_ok=True)
        card = f"file={run}/card,format=raw,if=sd,snapshot={'off' if keep else 'on'}"
        radio = f"socket,id=radio,host=127.0.0.1,port={radio_port},server=off,reconnect=1"
        self._process = subprocess.Popen(
            [
                "qemu-system-aarch64",
                *("-M", "raspi3b", "-accel", "tcg,thread=multi"),
                *("-nographic", "-nodefaults", "-no-reboot"),
                *("-kernel", str(work / "kernel"), "-initrd", str(work / "initrd")),
                *("-dtb", str(work / "pi.dtb"), "-append", KERNEL),
                *("-drive", card),
                *("-chardev", radio, "-serial", "chardev:radio"),  # the first one is the PL011
                *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
                *("-qtest", f"unix:{qtest},server=on,wait=off", "-qtest-log", "none"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._pins = _connect(qtest)
        self._pins_file = self._pins.makefile("r", encoding="ascii")

    def wait_for_agent(self) -> None:
        """Until the shell on its console says that it is there."""
        end = time.monotonic() + BOOT_LIMIT_S
        while True:
            try:
                line = self._lines.get(timeout=1)
            except queue.Empty:
                line = ""
            if line == "<<< here":
                return
            expect(self._process.poll() is None, "QEMU has ended")
            expect(time.monotonic() < end, f"no word {BOOT_LIMIT_S} s after power-up")

    def run(self, command: str, *, code: int | None = 0, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Carry out a shell command as root in the guest; what it prints.

        ``code`` is the exit code that it must have; None: whatever it likes.
        """
        assert "\n" not in command and len(command) < 4000, "the console takes one line"
        self._commands += 1
        number = self._commands
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{number} {command}\n".encode())
            self._process.stdin.flush()
        except OSError as error:
            raise ProofFailed("QEMU has ended") from error
        end = time.monotonic() + limit_s
        output: list[str] | None = None
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise ProofFailed(f"{command}: no answer for {limit_s:.0f} s") from None
            if line == f"<<< {number}":
                output = []
            elif output is not None and (told := re.fullmatch(rf">>> {number} (\d+)", line)):
                text = "\n".join(output).strip()
                expect(code is None or int(told[1]) == code, f"{command}: exit {told[1]}: {text}")
                return text
            elif output is not None:
                output.append(line)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for octets in self._process.stdout:
            self._log.write(octets)
            self._log.flush()
            self._lines.put(octets.decode(errors="replace").strip("\r\n"))

    # --- pins -------------------------------------------------------------------------------------

    def level(self, pin: int) -> int:
        """What the pin is at."""
        return self._ask(f"readl {LEVEL:#x}") >> pin & 1

    def is_output(self, pin: int) -> bool:
        """Whether its function is that of an output."""
        return self._ask(f"readl {FUNCTION + 4 * (pin // 10):#x}") >> 3 * (pin % 10) & 7 == OUTPUT

    def drive(self, pin: int, level: int) -> None:
        """Put an input to this level, as something wired to it would."""
        self._ask(f"writel {SET if level else CLEAR:#x} {1 << pin:#x}")

    def _ask(self, command: str) -> int:
        self._pins.sendall(f"{command}\n".encode())
        words = self._pins_file.readline().split()
        expect(words[:1] == ["OK"], f"{command}: {' '.join(words)}")
        return int(words[1], 16) if len(words) > 1 else 0

    # --- the end ----------------------------------------------------------------------------------

    def cut_power(self) -> None:
        """At once."""
        self._process.kill()
        self._process.wait()
        self._pins_file.close()
        self._pins.close()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:
                pass  # a command that nobody will read


def _connect(path: Path) -> socket.socket:
    end = time.monotonic() + 20
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            expect(time.monotonic() < end, "QEMU does not come up")
            time.sleep(0.05)
            continue
        connection.settimeout(20)
        return connection
