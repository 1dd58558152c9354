"""The stick as a process: ports, pacing, files, exit codes, an air that outlives its carrier."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from room import FORMATION, IN_SMART_ENERGY, STEERING
from zigpy_peer import stick, until

from firmware_node.adapters.virtual_stick import VirtualOptions
from firmware_node.adapters.virtual_stick.ports import (
    READ_SIZE,
    Cutter,
    Pacing,
    TcpPort,
    now_us,
)
from firmware_node.cli import main
from firmware_node.virtual.air import AirSettings
from firmware_node.virtual.nv import Item
from firmware_node.virtual.stick import Fault, StickSettings
from firmware_node.wire import mt
from firmware_node.wire.mt import Cmd, DeviceState

PING = mt.frame(Cmd.SYS_PING)
PONG = mt.frame(Cmd.SYS_PING | mt.RESPONSE, b"\x59\x06")
WAIT_S = 20


@contextlib.contextmanager
def process(*arguments: str | Path, ready: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """``radio virtual`` with these arguments."""
    command = [sys.executable, "-m", "firmware_node", "radio", "virtual"]
    run = subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        if ready:
            assert run.stdout is not None
            assert run.stdout.readline() == b"ready\n"
        yield run
    finally:
        run.kill()
        run.communicate()


class Client:
    """A host on a port: plain octets and MT, no library."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = mt.Parser()
        self._found: list[tuple[int, bytes]] = []
        self.told: list[tuple[int, bytes]] = []

    async def next(self) -> tuple[int, bytes]:
        async with asyncio.timeout(WAIT_S):
            while not self._found:
                octets = await self._reader.read(65536)
                if not octets:
                    raise EOFError
                self._found += self._parser.feed(octets)
        return self._found.pop(0)

    async def until(self, command: int) -> bytes:
        """The next one of this command; what comes before it is kept in ``told``."""
        while True:
            found, data = await self.next()
            if found == command:
                return data
            self.told.append((found, data))

    async def ask(self, command: int, *values: Any) -> tuple[Any, ...]:
        self._writer.write(mt.frame(command, mt.encode(command, *values)))
        return mt.decode(command | mt.RESPONSE, await self.until(command | mt.RESPONSE))

    def write(self, octets: bytes) -> None:
        self._writer.write(octets)

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def on_tcp(port: int) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield client
    finally:
        client.close()


def tcp(**options: Any) -> VirtualOptions:
    return VirtualOptions(tcp=("127.0.0.1", 0), **options)


def port_of(server: Any) -> int:
    assert isinstance(server.port, TcpPort)
    return server.port.port


# --- the command ----------------------------------------------------------------------------------


def test_ready_is_told_the_pty_answers_and_goes_away_with_the_process(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    with process("--pty", link, "--nv", tmp_path / "nv") as run:
        for _ in range(2):  # a host may close the port and open it again
            fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
            os.write(fd, PING)
            heard = b""
            while PONG not in heard:
                heard += os.read(fd, 100)
            os.close(fd)
        run.send_signal(signal.SIGTERM)
        assert run.wait(WAIT_S) == 0
        assert not link.is_symlink()
    assert (tmp_path / "nv").exists()


def test_ctrl_c_ends_with_130(tmp_path: Path) -> None:
    with process("--pty", tmp_path / "tty") as run:
        run.send_signal(signal.SIGINT)
        assert run.wait(WAIT_S) == 130


def test_a_taken_port_is_the_environment_s_fault_and_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with process("--tcp", f"127.0.0.1:{port}", ready=False) as run:
            out, complaint = run.communicate(timeout=WAIT_S)
    assert (run.returncode, out) == (3, b"")
    assert complaint.count(b"\n") == 1 and f"127.0.0.1:{port}".encode() in complaint
    with process("--pty", tmp_path / "no" / "folder", ready=False) as run:
        assert b"no/folder" in run.communicate(timeout=WAIT_S)[1]
    assert run.returncode == 3


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--tcp", "127.0.0.1:1", "--pty", "x"],
        ["--tcp", "nonsense"],
        ["--pty", "x", "--fault", "explode:3"],
        ["--pty", "x", "--fault", "no-srsp:1:2"],
        ["--pty", "x", "--fault", "vanish-at:x"],
        ["--pty", "x", "--loss", "1.5"],
        ["--pty", "x", "--baud", "0"],
        ["--pty", "x", "--ieee", "12"],
        ["--pty", "x", "--product", "3"],
        ["--pty", "x", "--nv-dump", "/no/such/file"],
    ],
)
def test_wrong_arguments_are_the_user_s_fault_and_told_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["radio", "virtual", *arguments])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    assert code == 2
    out, complaint = capsys.readouterr()
    assert out == ""
    assert complaint.count("\n") == 1


def test_an_nv_file_that_is_none_is_the_user_s_fault(tmp_path: Path) -> None:
    (tmp_path / "nv").write_text("nonsense")
    with process("--pty", tmp_path / "tty", "--nv", tmp_path / "nv", ready=False) as run:
        assert b"no NV file" in run.communicate(timeout=WAIT_S)[1]
    assert run.returncode == 2


def test_what_a_host_was_told_is_written_survives_a_kill(tmp_path: Path) -> None:
    nv = tmp_path / "nv"
    arguments = ("--tcp", "127.0.0.1:0", "--nv", nv)

    def write(port: int, value: bytes) -> None:
        async def story() -> None:
            async with on_tcp(port) as client:
                assert await client.ask(Cmd.SYS_OSAL_NV_WRITE_EXT, Item.PANID, 0, value) == (0,)

        asyncio.run(story())

    for number in range(3):
        value = number.to_bytes(2, "little")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with process("--tcp", f"127.0.0.1:{port}", *arguments[2:]) as run:
            write(port, value)
            run.kill()
        assert json.dumps([0, Item.PANID, value.hex()]) in nv.read_text()


def test_a_stick_with_a_file_is_after_a_restart_who_and_where_it_was(tmp_path: Path) -> None:
    air, other = tmp_path / "air", bytes.fromhex("a490785634120db0")
    kept = tcp(air=air, nv=tmp_path / "nv")

    async def story() -> None:
        async with stick(tcp(air=air)) as first:
            async with stick(kept) as second:
                async with on_tcp(port_of(second)) as device:
                    await device.ask(Cmd.SYS_OSAL_NV_WRITE_EXT, Item.EXTADDR, 0, other)
                    device.write(mt.frame(Cmd.SYS_RESET_REQ, b"\x01"))
                    await device.until(Cmd.SYS_RESET_IND)
                short = await join(first, second)
            async with (
                on_tcp(port_of(first)) as host,
                stick(kept) as second,
                on_tcp(port_of(second)) as device,
            ):
                await host.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, 2, 0, 0, 1)
                assert await device.ask(Cmd.SYS_GET_EXT_ADDR) == (other,)
                await device.ask(Cmd.ZDO_STARTUP_FROM_APP, 0)
                assert await device.until(Cmd.APP_CNF_BDB_NOTIFICATION) == b"\x0d\x00\x00"
                info = await device.ask(Cmd.UTIL_GET_DEVICE_INFO)
                assert info[1:3] == (other, short)
                await device.ask(Cmd.SYS_OSAL_NV_DELETE, Item.EXTADDR, 8)
            async with stick(kept) as second, on_tcp(port_of(second)) as device:
                (ieee,) = await device.ask(Cmd.SYS_GET_EXT_ADDR)
                assert ieee != other and ieee[5:] == b"\x4b\x12\x00"

    asyncio.run(story())


def test_unknown_commands_are_in_the_counters_file_at_once(tmp_path: Path) -> None:
    counters = tmp_path / "counters"
    with process("--pty", tmp_path / "tty", "--counters", counters):
        fd = os.open(tmp_path / "tty", os.O_RDWR | os.O_NOCTTY)
        os.write(fd, mt.frame(0x21FE))
        heard = b""
        while mt.frame(mt.RPC_ERROR, b"\x02\x21\xfe") not in heard:
            heard += os.read(fd, 100)
        os.write(fd, PING)
        while PONG not in heard:
            heard += os.read(fd, 100)
        os.close(fd)
        assert json.loads(counters.read_text())["unknown_commands"] == 1


# --- ports ----------------------------------------------------------------------------------------


def test_a_new_host_on_tcp_takes_over_from_the_old_one() -> None:
    async def story() -> None:
        async with stick(tcp()) as server, on_tcp(port_of(server)) as first:
            await first.ask(Cmd.SYS_PING)
            async with on_tcp(port_of(server)) as second:
                await second.ask(Cmd.SYS_PING)
                with pytest.raises(EOFError):
                    await first.next()
                await second.ask(Cmd.SYS_PING)

    asyncio.run(story())


def test_a_stick_without_a_host_stays_on_the_air_and_answers_by_itself(tmp_path: Path) -> None:
    async def story() -> None:
        one, two = tcp(air=tmp_path / "air"), tcp(air=tmp_path / "air")
        async with stick(one) as first, stick(two) as second:
            short = await join(first, second)
            # The device's host is gone; the coordinator's asks its stick.
            async with on_tcp(port_of(first)) as client:
                await client.ask(Cmd.ZDO_ACTIVE_EP_REQ, short, short)
                data = await client.until(mt.zdo_callback(0x8005))
                assert data[2:] == b"\x00" + short.to_bytes(2, "little") + b"\x01\x01"

    asyncio.run(story())


async def join(first: Any, second: Any) -> int:
    """A coordinator and an end device on it, both with one endpoint; the device's address."""
    async with on_tcp(port_of(first)) as host:
        await host.ask(Cmd.APP_CNF_BDB_START_COMMISSIONING, FORMATION)
        await host.ask(Cmd.AF_REGISTER, *IN_SMART_ENERGY)
        await host.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, 2, 0, 60, 1)
    async with on_tcp(port_of(second)) as device:
        await device.ask(Cmd.SYS_OSAL_NV_WRITE_EXT, Item.LOGICAL_TYPE, 0, b"\x02")
        await device.ask(Cmd.AF_REGISTER, *IN_SMART_ENERGY)
        await device.ask(Cmd.APP_CNF_BDB_START_COMMISSIONING, STEERING)
        assert await device.until(Cmd.APP_CNF_BDB_NOTIFICATION) == b"\x00\x02\x00"
        return int((await device.ask(Cmd.UTIL_GET_DEVICE_INFO))[2])


def test_a_paced_line_is_no_faster_than_its_bauds_and_loses_nothing() -> None:
    async def story() -> float:
        async with stick(tcp(baud=115200)) as server, on_tcp(port_of(server)) as client:
            begun = time.monotonic()
            client.write(200 * PING)
            for _ in range(200):
                await client.until(Cmd.SYS_PING | mt.RESPONSE)
            return time.monotonic() - begun

    # 5 octets there and 7 back, ten bits each; the directions overlap but for one frame.
    assert asyncio.run(story()) >= 200 * 7 * 10 / 115200


def test_paced_octets_are_cut_where_frames_end() -> None:
    data = mt.frame(Cmd.AF_DATA_CONFIRM, b"abc")
    assert Cutter().cut(PING + data + PING[:3]) == [PING, data, PING[:3]]
    assert Cutter().cut(b"\xef\xef" + PING + b"\xfe") == [b"\xef\xef", PING, b"\xfe"]
    stream = PING + data + b"\xef" + data + PING
    ends = {5, 5 + len(data), 6 + len(data), 6 + 2 * len(data), len(stream)}
    for size in range(1, len(stream)):
        cutter, at, found = Cutter(), 0, set()
        for start in range(0, len(stream), size):
            for piece in cutter.cut(stream[start : start + size]):
                assert piece == stream[at : at + len(piece)]
                at += len(piece)
                found.add(at)
        assert at == len(stream)
        # Nowhere but at the ends of frames and of what came at once.
        assert ends <= found <= ends | set(range(0, len(stream), size))


@pytest.mark.parametrize("size", [1, 3, 4000])
def test_a_paced_line_takes_no_longer_than_its_octets_however_they_come(size: int) -> None:
    """In the times that it plans, not in those of this machine."""
    arrived: list[bytes] = []

    async def story() -> float:
        pacing, cutter = Pacing(asyncio.get_running_loop(), 115200, arrived.append), Cutter()
        stream = 800 * PING
        began_us = now_us()
        for at in range(0, len(stream), size):
            for piece in cutter.cut(stream[at : at + size]):
                pacing.put(piece)
        assert pacing.queued == len(stream)
        assert max(map(len, (piece for _, piece in pacing._queue))) == min(size, len(PING))
        planned_us = pacing._queue[-1][0] - began_us
        pacing.clear()
        return planned_us / (len(stream) * 10_000_000 / 115200)

    assert 1 <= asyncio.run(story()) < 1.03
    assert arrived == []


def test_a_host_that_writes_faster_than_the_line_has_to_wait_and_loses_nothing() -> None:
    async def story() -> None:
        async with stick(tcp(baud=1_000_000)) as server, on_tcp(port_of(server)) as client:
            client.write(20_000 * PING)
            for _ in range(20_000):
                await client.until(Cmd.SYS_PING | mt.RESPONSE)
                assert server._to_stick.queued <= 4096 + READ_SIZE
            assert server._to_stick.lost == server._to_host.lost == 0

    asyncio.run(story())


def test_a_stick_that_is_pulled_out_is_gone_from_port_and_air_and_comes_back(
    tmp_path: Path,
) -> None:
    link = tmp_path / "tty"
    fault = StickSettings(faults=(Fault("vanish-at", 2, 200),))

    async def story() -> None:
        one = tcp(air=tmp_path / "air")
        two = tcp(air=tmp_path / "air", stick=fault)
        async with stick(one) as first, stick(two) as second:
            await join(first, second)
            async with on_tcp(port_of(second)) as client:
                request = (0x0000, 1, 1, 0x0019, 7, 0, 30, b"x")
                assert await client.ask(Cmd.AF_DATA_REQUEST, *request) == (0,)
                client.write(mt.frame(0x2401, mt.encode(0x2401, *request)))
                with pytest.raises(EOFError):
                    await client.until(0x6401)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port_of(second))
            await until(lambda: second.port._listener is not None)  # type: ignore[attr-defined]
            async with on_tcp(port_of(second)) as client:
                assert (await client.ask(Cmd.UTIL_GET_DEVICE_INFO))[4] == DeviceState.INITIALIZED
                await client.ask(Cmd.APP_CNF_BDB_START_COMMISSIONING, 0)
                assert await client.until(Cmd.APP_CNF_BDB_NOTIFICATION) == b"\x0d\x00\x00"

    asyncio.run(story())

    async def on_a_pty() -> None:
        options = VirtualOptions(pty=link, stick=StickSettings(faults=(Fault("vanish-at", 1, 50),)))
        async with stick(options) as server:
            fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
            os.write(fd, mt.frame(0x2401, mt.encode(0x2401, 0, 1, 1, 0x19, 7, 0, 30, b"x")))
            await until(lambda: not link.is_symlink())
            os.close(fd)
            await until(link.is_symlink)
            assert server.stick.board.counters["fault_vanish-at"] == 1

    asyncio.run(on_a_pty())


# --- the air between processes --------------------------------------------------------------------


def test_the_air_goes_on_when_the_process_that_carried_it_ends(tmp_path: Path) -> None:
    air = tmp_path / "air"

    async def story() -> None:
        with process("--pty", tmp_path / "tty", "--air", air) as carrier:
            async with stick(tcp(air=air)) as first, stick(tcp(air=air)) as second:
                short = await join(first, second)
                carrier.kill()
                carrier.wait()
                async with on_tcp(port_of(first)) as host:
                    # Until one of the two carries the air, nothing gets through.
                    async with asyncio.timeout(WAIT_S):
                        status = 1
                        while status:
                            await host.ask(Cmd.AF_DATA_REQUEST, short, 1, 1, 0x19, 7, 0, 30, b"x")
                            status = (await host.until(Cmd.AF_DATA_CONFIRM))[0]
                async with stick(tcp(air=air)) as third, on_tcp(port_of(third)) as late:
                    await late.ask(Cmd.SYS_OSAL_NV_WRITE_EXT, Item.LOGICAL_TYPE, 0, b"\x02")
                    await late.ask(Cmd.APP_CNF_BDB_START_COMMISSIONING, STEERING)
                    assert (await late.until(Cmd.APP_CNF_BDB_NOTIFICATION))[0] == 0

    asyncio.run(story())


def test_a_station_that_talks_nonsense_is_dropped_and_the_air_goes_on(tmp_path: Path) -> None:
    air = tmp_path / "air"

    async def story() -> None:
        async with stick(tcp(air=air)) as first, stick(tcp(air=air)) as second:
            reader, writer = await asyncio.open_unix_connection(str(air))
            writer.write(b"\xff\xff\xff nonsense")
            async with asyncio.timeout(WAIT_S):
                assert await reader.read() == b""
            writer.close()
            assert 0 < await join(first, second) < 0xFFF8

    asyncio.run(story())


def test_an_air_that_loses_frames_does_so_between_processes_too(tmp_path: Path) -> None:
    air = tmp_path / "air"

    async def story() -> list[int]:
        lossy = AirSettings(seed=1, loss=0.1)
        async with stick(tcp(air=air, medium=lossy)) as first, stick(tcp(air=air)) as second:
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(AssertionError):
                        short = await join(first, second)
                        break
            statuses = []
            async with on_tcp(port_of(first)) as host:
                for _ in range(100):
                    await host.ask(Cmd.AF_DATA_REQUEST, short, 1, 1, 0x19, 7, 0, 30, b"x")
                    statuses.append((await host.until(Cmd.AF_DATA_CONFIRM))[0])
            return statuses

    statuses = asyncio.run(story())
    assert 2 < statuses.count(mt.Status.MAC_NO_ACK) < 25
    assert set(statuses) == {0, mt.Status.MAC_NO_ACK}
