"""Unmodified zigpy with zigpy-znp on virtual sticks: a coordinator, and a small device to join it.

The device is driven through zigpy-znp's low-level class, in the order that any host of a joining
stick must keep (zigbee-znp.md 4.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import zigpy.types
import zigpy_znp.commands as c
import zigpy_znp.types as t
from zigpy.zcl import foundation
from zigpy_znp.api import ZNP
from zigpy_znp.config import CONFIG_SCHEMA
from zigpy_znp.types.nvids import OsalNvIds
from zigpy_znp.zigbee.application import ControllerApplication

from firmware_node.adapters.virtual_stick import StickServer, VirtualOptions

WAIT_S = 30  # for anything here; what is waited for takes a second on a quiet machine
MODEL, MANUFACTURER = "virtual meter", "firmware_node"
BASIC, OTA = 0x0000, 0x0019


def app_config(path: str) -> dict[str, Any]:
    """A configuration that reaches out to nothing but the stick."""
    return {
        "database_path": None,
        "device": {"path": path, "baudrate": 115200, "flow_control": None},
        "znp_config": {"skip_bootloader": False},
        "ota": {"providers": [], "broadcast_enabled": False},
        "topology_scan_enabled": False,
    }


@contextlib.asynccontextmanager
async def stick(options: VirtualOptions) -> AsyncIterator[StickServer]:
    """A virtual stick on this event loop; what it raises there fails the test."""
    raised: list[BaseException] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        frames = traceback.extract_tb(error.__traceback__) if error else ()
        if error and any("firmware_node/virtual" in frame.filename for frame in frames):
            raised.append(error)
        else:
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(note)
    server = StickServer(options)
    server.open()
    try:
        yield server
    finally:
        server.close()
        if raised:
            raise raised[0]


@contextlib.asynccontextmanager
async def coordinator(
    path: str, application: Any = ControllerApplication, **settings: Any
) -> AsyncIterator[Any]:
    """A started zigpy application; forms a network when the stick has none.

    ``settings``: parts of its configuration, in the place of those of ``app_config``.
    """
    async with asyncio.timeout(WAIT_S):
        app = await application.new(app_config(path) | settings, auto_form=True)
    try:
        yield app
    finally:
        async with asyncio.timeout(WAIT_S):
            await app.shutdown()


async def until(holds: Callable[[], bool], limit_s: float = WAIT_S) -> None:
    """Wait until something holds, and no longer than the limit."""
    async with asyncio.timeout(limit_s):
        while not holds():
            await asyncio.sleep(0.01)


class Device:
    """A device of endpoint 1 that answers Basic, behind a stick of its own."""

    def __init__(self, path: Path, logical_type: int = 2) -> None:
        config = CONFIG_SCHEMA(
            {
                "device": {"path": str(path), "baudrate": 115200, "flow_control": None},
                "znp_config": {"skip_bootloader": False},
            }
        )
        self.znp = ZNP(config)
        self._logical_type = logical_type
        self._transaction = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.received: list[Any] = []
        self.announced: list[Any] = []

    async def join(self, profile: int = 0x0104, link_key: bytes | None = None) -> Any:
        """Wipe, configure, register, steer; what the stick says of itself then."""
        znp = self.znp
        await znp.connect()
        await znp.reset_network_info()
        nv = znp.nvram
        await nv.osal_write(OsalNvIds.LOGICAL_TYPE, t.uint8_t(self._logical_type))
        await nv.osal_write(OsalNvIds.ZDO_DIRECT_CB, t.uint8_t(1))
        await znp.reset()
        return await self.start(c.app_config.BDBCommissioningMode.NwkSteering, profile, link_key)

    async def resume(self, profile: int = 0x0104) -> Any:
        """Go on in the stored network."""
        await self.znp.connect()
        await self.znp.reset()
        return await self.start(c.app_config.BDBCommissioningMode.NONE, profile)

    async def start(self, mode: Any, profile: int, link_key: bytes | None = None) -> Any:
        """Register and commission; waits for the notification that ends it."""
        znp = self.znp
        znp.callback_for_response(c.AF.IncomingMsg.Callback(partial=True), self._on_message)
        await znp.request(
            c.AF.Register.Req(
                Endpoint=1,
                ProfileId=profile,
                DeviceId=0x0053,
                DeviceVersion=0,
                LatencyReq=c.af.LatencyReq.NoLatencyReqs,
                InputClusters=[BASIC],
                OutputClusters=[OTA],
            ),
            RspStatus=t.Status.SUCCESS,
        )
        if link_key is not None:
            await znp.request(
                c.AppConfig.BDBSetActiveDefaultCentralizedKey.Req(
                    CentralizedLinkKeyModes=c.app_config.CentralizedLinkKeyMode.UseProvidedAPSLinkKey,
                    InstallCode=t.Bytes(link_key),
                ),
                RspStatus=t.Status.SUCCESS,
            )
        note = await znp.request_callback_rsp(
            request=c.AppConfig.BDBStartCommissioning.Req(Mode=mode),
            RspStatus=t.Status.SUCCESS,
            callback=c.AppConfig.BDBCommissioningNotification.Callback(partial=True),
            timeout=WAIT_S,
        )
        self.status = note.Status
        return await znp.request(c.UTIL.GetDeviceInfo.Req())

    async def send(self, endpoint: int, cluster: int, data: bytes, *, secured: bool = False) -> Any:
        """To the coordinator, acknowledged; the status of the confirm."""
        self._transaction = self._transaction + 1 & 0xFF
        options = c.af.TransmitOptions.ACK_REQUEST
        if secured:
            options |= c.af.TransmitOptions.ENABLE_SECURITY
        confirm = await self.znp.request_callback_rsp(
            request=c.AF.DataRequestExt.Req(
                DstAddrModeAddress=t.AddrModeAddress(mode=t.AddrMode.NWK, address=0x0000),
                DstEndpoint=endpoint,
                DstPanId=0,
                SrcEndpoint=1,
                ClusterId=cluster,
                TSN=self._transaction,
                Options=options,
                Radius=30,
                Data=t.LongBytes(data),
            ),
            RspStatus=t.Status.SUCCESS,
            callback=c.AF.DataConfirm.Callback(partial=True, TSN=self._transaction),
        )
        return confirm.Status

    def _on_message(self, message: Any) -> None:
        self.received.append(message)
        header, rest = foundation.ZCLHeader.deserialize(bytes(message.Data))
        if message.ClusterId == BASIC and header.command_id == 0x00:
            task = asyncio.ensure_future(self._answer_basic(message, header, rest))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_basic(self, message: Any, header: Any, attributes: bytes) -> None:
        values = {0x0004: MANUFACTURER, 0x0005: MODEL}
        body = b""
        for at in range(0, len(attributes), 2):
            name = attributes[at : at + 2]
            text = values.get(int.from_bytes(name, "little"))
            if text is None:
                body += name + b"\x86"
            else:
                body += name + b"\x00\x42" + bytes((len(text),)) + text.encode()
        await self.send(message.SrcEndpoint, BASIC, bytes((0x18, header.tsn, 0x01)) + body)

    async def close(self) -> None:
        """Let go of the port."""
        await self.znp.disconnect()


def eui64(info: Any) -> Any:
    """The device's address as zigpy has it."""
    return zigpy.types.EUI64(info.IEEE)
