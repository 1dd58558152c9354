"""A device that does as a test says, on the virtual radio: it shares no code with ours.

It opens its tunnel, gives each message that comes down to ``on_message`` and sends what that gives
back up, fetches whatever image is offered and lets ``on_image`` say what becomes of it. It lives in
a thread with a loop of its own, so that a test can run commands meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from firmware_node.adapters.virtual_radio import AirClient
from firmware_node.boundary import Frame, FrameReceived, Input, SendFrame
from firmware_node.terms import COORDINATOR, EntityId, ImageKey
from firmware_node.wire import ota, tunneling, zcl
from firmware_node.wire.zcl import Status

LIMIT_S = 20


class ScriptedDevice:
    """See the module; use it in a ``with``."""

    def __init__(self, air: Path, entity_id: EntityId, image: ImageKey) -> None:
        self.entity_id = entity_id
        self.image = image
        self.on_message: Callable[[bytes], Sequence[bytes]] = lambda _: ()
        self.on_image: Callable[[bytes], tuple[Status, Sequence[bytes]]] = lambda _: (
            Status.SUCCESS,
            (),
        )
        self.on_activation: Callable[[], Sequence[bytes]] = lambda: ()
        self.received: list[bytes] = []
        self.upgrade_times: list[int] = []
        self._client = AirClient(air, entity_id, self._deliver)
        self._file = b""
        self._size = 0
        self._tunnel: int | None = None
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> ScriptedDevice:
        self._thread.start()
        assert self._ready.wait(LIMIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None and self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def say(self, message: bytes) -> None:
        """Send a message up now, asked or not."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._up, message)

    def _live(self) -> None:
        async def live() -> None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.current_task()
            try:
                await self._client.run()
            except asyncio.CancelledError:
                self._client.close()

        asyncio.run(live())

    def _deliver(self, item: Input) -> None:
        if not isinstance(item, FrameReceived):
            return
        header, body = zcl.decode_header(item.frame.payload)
        if not header.cluster_specific:
            return
        if item.frame.cluster == tunneling.CLUSTER:
            self._on_tunnel(header, body)
        elif item.frame.cluster == ota.CLUSTER:
            self._on_ota(header, body)

    def _on_tunnel(self, header: zcl.ZclHeader, body: bytes) -> None:
        if header.command == tunneling.TO_SERVER_REQUEST_TUNNEL:
            self._tunnel = 1
            answer = tunneling.RequestTunnelResponse(1, 0, tunneling.TRANSFER_SIZE_MAX)
            self._send(
                tunneling.CLUSTER,
                True,
                header.sequence,
                tunneling.TO_CLIENT_REQUEST_TUNNEL_RESPONSE,
                tunneling.encode_request_tunnel_response(answer),
            )
            self._ready.set()
        elif header.command == tunneling.TO_SERVER_TRANSFER_DATA:
            message = tunneling.decode_transfer_data(body).data
            self.received.append(message)
            for reply in self.on_message(message):
                self._up(reply)

    def _on_ota(self, header: zcl.ZclHeader, body: bytes) -> None:
        match header.command:
            case ota.IMAGE_NOTIFY:
                running = self.image._replace(file_version=1)
                query = ota.QueryNextImageRequest(running, 0x1111)
                self._ask(ota.QUERY_NEXT_IMAGE_REQUEST, ota.encode_query_next_image_request(query))
            case ota.QUERY_NEXT_IMAGE_RESPONSE:
                offered = ota.decode_query_next_image_response(body)
                if offered.image is not None and offered.size is not None:
                    self.image, self._size, self._file = offered.image, offered.size, b""
                    self._ask_block()
            case ota.IMAGE_BLOCK_RESPONSE:
                block = ota.decode_image_block_response(body)
                assert isinstance(block, ota.BlockData)
                self._file += block.data
                if len(self._file) < self._size:
                    self._ask_block()
                    return
                status, alerts = self.on_image(self._file)
                for alert in alerts:
                    self._up(alert)
                end = ota.UpgradeEndRequest(status, self.image)
                self._ask(ota.UPGRADE_END_REQUEST, ota.encode_upgrade_end_request(end))
            case ota.UPGRADE_END_RESPONSE:
                response = ota.decode_upgrade_end_response(body)
                self.upgrade_times.append(response.upgrade_time)
                if response.upgrade_time != ota.HOLD:
                    for alert in self.on_activation():
                        self._up(alert)

    def _ask_block(self) -> None:
        request = ota.ImageBlockRequest(self.image, len(self._file), 255)
        self._ask(ota.IMAGE_BLOCK_REQUEST, ota.encode_image_block_request(request))

    def _ask(self, command: int, body: bytes) -> None:
        self._send(ota.CLUSTER, False, 1, command, body)

    def _up(self, message: bytes) -> None:
        assert self._tunnel is not None
        body = tunneling.encode_transfer_data(tunneling.TransferData(self._tunnel, message))
        self._send(tunneling.CLUSTER, True, 1, tunneling.TO_CLIENT_TRANSFER_DATA, body)

    def _send(
        self, cluster: int, to_client: bool, sequence: int, command: int, body: bytes
    ) -> None:
        header = zcl.ZclHeader(True, to_client, True, None, sequence, command)
        payload = zcl.encode(header, body)
        frame = Frame(COORDINATOR, 1, 1, zcl.SMART_ENERGY_PROFILE, cluster, payload)
        self._client.send(SendFrame(frame))
        self._client.flush()
