"""The peer of two sticks: zigpy with zigpy-znp at both ends, each a process of its own.

``coordinator PORT FILE`` forms a network, lets a device in and updates it by ``update_firmware``.
``device PORT SIZE`` is as little of an OTA client as the library's own classes allow: join, answer
the interview, ask block after block. Both write one JSON document when the last block has come:
seconds of wall and of processor, and how many blocks.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import zigpy_znp.commands as c
import zigpy_znp.types as t
from zigpy.ota import OtaImageWithMetadata
from zigpy.ota.image import parse_ota_image
from zigpy.ota.providers import BaseOtaImageMetadata
from zigpy.zcl import foundation
from zigpy.zcl.clusters.general import Ota
from zigpy_znp.api import ZNP
from zigpy_znp.config import CONFIG_SCHEMA
from zigpy_znp.types.nvids import OsalNvIds
from zigpy_znp.zigbee.application import ControllerApplication

MANUFACTURER, IMAGE_TYPE = 0x121D, 0x0084
BLOCK_SIZE = 50
_BASIC, _OTA = 0x0000, 0x0019
_INTERVIEW_S = 1.0  # from a device's initialisation to the interview's last message
_REQUESTS = {each.id: each.schema for each in Ota.ServerCommandDefs}
_ANSWERS = {each.id: each.schema for each in Ota.ClientCommandDefs}
_NOTIFY, _QUERY, _QUERIED, _BLOCK, _BLOCK_ANSWER, _END, _ENDED = 0, 1, 2, 3, 5, 6, 7


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def coordinate(port: str, file: bytes) -> None:
    """Update the first device that joins; runs until killed."""
    app = ControllerApplication(
        {
            "database_path": None,
            "device": {"path": port, "baudrate": 115200, "flow_control": None},
            "znp_config": {"skip_bootloader": False},
            "ota": {"providers": [], "broadcast_enabled": False},
            "topology_scan_enabled": False,
        }
    )
    await app.connect()
    await app.initialize(auto_form=True)
    await app.permit(60)
    print("ready", flush=True)
    while not any(each.is_initialized and each.nwk for each in app.devices.values()):
        await asyncio.sleep(0.01)
    device = next(each for each in app.devices.values() if each.nwk)
    await asyncio.sleep(_INTERVIEW_S)
    firmware = parse_ota_image(file)[0]
    metadata = BaseOtaImageMetadata(
        file_version=firmware.header.file_version,
        manufacturer_id=MANUFACTURER,
        image_type=IMAGE_TYPE,
    )
    began: list[float] = []

    def on_progress(current: int, total: int, _: float) -> None:
        if not began:
            began.extend((time.perf_counter(), _cpu_s()))
        if current >= total - BLOCK_SIZE and len(began) == 2:
            began.append(_cpu_s())
            print(json.dumps({"cpu": began[2] - began[1]}), flush=True)

    image = OtaImageWithMetadata(metadata=metadata, firmware=firmware)
    await device.update_firmware(image, progress_callback=on_progress, force=True)
    await asyncio.sleep(3600)


class Device:
    """Endpoint 1, Basic and OTA, one request at a time."""

    def __init__(self, port: str, size: int) -> None:
        self._znp = ZNP(
            CONFIG_SCHEMA(
                {
                    "device": {"path": port, "baudrate": 115200, "flow_control": None},
                    "znp_config": {"skip_bootloader": False},
                }
            )
        )
        self._size = size
        self._numbers = 0
        self._answers: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self._notified = asyncio.Event()
        self._endpoint = 1
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Join, be interviewed, download."""
        znp = self._znp
        await znp.connect()
        await znp.reset_network_info()
        await znp.nvram.osal_write(OsalNvIds.LOGICAL_TYPE, t.uint8_t(2))
        await znp.nvram.osal_write(OsalNvIds.ZDO_DIRECT_CB, t.uint8_t(1))
        await znp.reset()
        znp.callback_for_response(c.AF.IncomingMsg.Callback(partial=True), self._on_message)
        await znp.request(
            c.AF.Register.Req(
                Endpoint=1,
                ProfileId=0x0104,
                DeviceId=0x0051,
                DeviceVersion=0,
                LatencyReq=c.af.LatencyReq.NoLatencyReqs,
                InputClusters=[_BASIC],
                OutputClusters=[_OTA],
            )
        )
        await znp.request_callback_rsp(
            request=c.AppConfig.BDBStartCommissioning.Req(
                Mode=c.app_config.BDBCommissioningMode.NwkSteering
            ),
            callback=c.AppConfig.BDBCommissioningNotification.Callback(partial=True),
            timeout=60,
        )
        await self._download()
        await asyncio.sleep(3600)

    async def _download(self) -> None:
        fields = {
            "manufacturer_code": MANUFACTURER,
            "image_type": IMAGE_TYPE,
        }
        query = {"field_control": 0, "current_file_version": 1, **fields}
        while True:  # the interview ends with a notification that has no image behind it
            await self._notified.wait()
            self._notified.clear()
            answer = await self._ask(_QUERY, _QUERIED, **query)
            if answer.status == foundation.Status.SUCCESS:
                break
        fields["file_version"] = answer.file_version
        offset, blocks = 0, 0
        began, cpu = time.perf_counter(), _cpu_s()
        while offset < self._size:
            answer = await self._ask(
                _BLOCK,
                _BLOCK_ANSWER,
                field_control=0,
                file_offset=offset,
                maximum_data_size=BLOCK_SIZE,
                **fields,
            )
            offset += len(answer.image_data)
            blocks += 1
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "cpu": _cpu_s() - cpu, "blocks": blocks}), flush=True)
        await self._ask(_END, _ENDED, status=foundation.Status.SUCCESS, **fields)

    async def _ask(self, command: int, expected: int, **fields: Any) -> Any:
        self._numbers = self._numbers + 1 & 0xFF
        header = foundation.ZCLHeader.cluster(
            tsn=self._numbers,
            command_id=command,
            direction=foundation.Direction.Client_to_Server,
        )
        body = _REQUESTS[command](**fields).serialize()
        await self._send(_OTA, header.serialize() + body)
        while True:
            number, answer = await self._answers.get()
            if number == expected:
                return answer

    async def _send(self, cluster: int, data: bytes) -> None:
        self._numbers = self._numbers + 1 & 0xFF
        await self._znp.request_callback_rsp(
            request=c.AF.DataRequestExt.Req(
                DstAddrModeAddress=t.AddrModeAddress(mode=t.AddrMode.NWK, address=0x0000),
                DstEndpoint=self._endpoint,
                DstPanId=0,
                SrcEndpoint=1,
                ClusterId=cluster,
                TSN=self._numbers,
                Options=c.af.TransmitOptions.NONE,
                Radius=30,
                Data=t.LongBytes(data),
            ),
            RspStatus=t.Status.SUCCESS,
            callback=c.AF.DataConfirm.Callback(partial=True, TSN=self._numbers),
        )

    def _on_message(self, message: Any) -> None:
        header, rest = foundation.ZCLHeader.deserialize(bytes(message.Data))
        if message.ClusterId == _OTA and header.command_id == _NOTIFY:
            self._endpoint = message.SrcEndpoint
            self._notified.set()
        elif message.ClusterId == _OTA:
            schema = _ANSWERS[header.command_id]
            self._answers.put_nowait((header.command_id, schema.deserialize(rest)[0]))
        elif message.ClusterId == _BASIC and header.command_id == 0x00:
            task = asyncio.ensure_future(self._answer_basic(header, rest))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_basic(self, header: Any, attributes: bytes) -> None:
        body = b""
        for at in range(0, len(attributes), 2):
            name = attributes[at : at + 2]
            body += name + (b"\x00\x42\x04peer" if name in (b"\x04\0", b"\x05\0") else b"\x86")
        await self._send(_BASIC, bytes((0x18, header.tsn, 0x01)) + body)


if __name__ == "__main__":
    role, where, what = sys.argv[1:]
    if role == "coordinator":
        asyncio.run(coordinate(where, Path(what).read_bytes()))
    else:
        asyncio.run(Device(where, int(what)).run())
