"""zigpy as the peer: its OTA server on a coordinator whose radio is a function call.

What is replaced is the radio library alone. Packets, ZCL headers, command schemas, the matching of
requests to listeners, the OTA manager and the queue of requests are zigpy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import zigpy.config
from zigpy import types as t
from zigpy.application import ControllerApplication
from zigpy.endpoint import Status
from zigpy.ota import OtaImageWithMetadata
from zigpy.ota.image import HueSBLOTAImage, OTAImageHeader
from zigpy.ota.manager import update_firmware
from zigpy.ota.providers import BaseOtaImageMetadata
from zigpy.profiles import zha
from zigpy.zcl import foundation
from zigpy.zcl.clusters.general import Ota
from zigpy.zdo.types import LogicalType, NodeDescriptor

from firmware_node.boundary import Frame
from firmware_node.terms import COORDINATOR, ImageKey

Answer = Callable[[Frame], Iterable[Frame]]
_DEVICE = t.NWK(0x0001)


def _unused(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("no radio is behind this coordinator")


class _Radio(ControllerApplication):
    """Sends each packet to ``answer`` and takes what it gives as the device's packets."""

    def __init__(self, answer: Answer) -> None:
        super().__init__({zigpy.config.CONF_DEVICE: {zigpy.config.CONF_DEVICE_PATH: "none"}})
        self.state.node_info.nwk = t.NWK(COORDINATOR)
        self.state.node_info.ieee = t.EUI64.convert("00:db:12:34:56:78:90:a2")
        self._answer = answer

    async def send_packet(self, packet: t.ZigbeePacket) -> None:
        frame = Frame(
            COORDINATOR,
            packet.src_ep or 0,
            packet.dst_ep or 0,
            packet.profile_id,
            packet.cluster_id,
            packet.data.serialize(),
        )
        for answer in self._answer(frame):
            self.packet_received(
                t.ZigbeePacket(
                    src=t.AddrModeAddress(t.AddrMode.NWK, _DEVICE),
                    src_ep=t.uint8_t(answer.endpoint),
                    dst=t.AddrModeAddress(t.AddrMode.NWK, t.NWK(COORDINATOR)),
                    dst_ep=t.uint8_t(answer.peer_endpoint),
                    tsn=t.uint8_t(answer.payload[1]),
                    profile_id=t.uint16_t(answer.profile),
                    cluster_id=t.uint16_t(answer.cluster),
                    data=t.SerializableBytes(answer.payload),
                )
            )


# What a coordinator can do besides is asked of this one by nobody.
_Coordinator: Any = type(
    "_Coordinator", (_Radio,), dict.fromkeys(_Radio.__abstractmethods__, _unused)
)


async def serve(ota_file: bytes, answer: Answer) -> None:
    """zigpy updates a device that asks and answers by ``answer``; until the device has the file."""
    coordinator = _Coordinator(answer)
    device = coordinator.add_device(t.EUI64.convert("00:db:12:34:56:78:90:a4"), _DEVICE)
    device.node_desc = NodeDescriptor(
        logical_type=LogicalType.EndDevice,
        complex_descriptor_available=0,
        user_descriptor_available=0,
        reserved=0,
        aps_flags=0,
        frequency_band=NodeDescriptor.FrequencyBand.Freq2400MHz,
        mac_capability_flags=NodeDescriptor.MACCapabilityFlags.RxOnWhenIdle,
        manufacturer_code=0x121D,
        maximum_buffer_size=82,
        maximum_incoming_transfer_size=128,
        server_mask=0,
        maximum_outgoing_transfer_size=128,
        descriptor_capability_field=0,
    )
    endpoint = device.add_endpoint(1)
    endpoint.status = Status.ZDO_INIT
    endpoint.profile_id = zha.PROFILE_ID
    endpoint.add_output_cluster(Ota.cluster_id)
    header, body = OTAImageHeader.deserialize(ota_file)
    image = OtaImageWithMetadata(
        metadata=BaseOtaImageMetadata(
            file_version=header.file_version,
            manufacturer_id=header.manufacturer_id,
            image_type=header.image_type,
        ),
        # The one image of zigpy's that is a header and octets it does not look into.
        firmware=HueSBLOTAImage(header=header, data=body),
    )
    device.ota_in_progress = True  # as its update_firmware does, or the cluster would abort it
    status = await update_firmware(device, image)
    if status is not foundation.Status.SUCCESS:
        raise RuntimeError(f"zigpy's update ended with {status!r}")


_REQUEST = Ota.ServerCommandDefs.image_block.schema
_RESPONSE = Ota.ClientCommandDefs.image_block_response.schema


def code_block(key: ImageKey, file_offset: int, data: bytes) -> None:
    """One Image Block Request and Response, encoded and decoded once each."""
    names = {
        "manufacturer_code": key.manufacturer_code,
        "image_type": key.image_type,
        "file_version": key.file_version,
        "file_offset": file_offset,
    }
    asked = _REQUEST(field_control=0, maximum_data_size=50, **names).serialize()
    _REQUEST.deserialize(asked)
    block = _RESPONSE(status=foundation.Status.SUCCESS, image_data=data, **names).serialize()
    _RESPONSE.deserialize(block)
