"""An OTA server that hands out whatever it was given, in the place of a hub."""

from __future__ import annotations

from collections.abc import Sequence

from firmware_node.boundary import Effect, FrameReceived, Input
from firmware_node.rig.hub_terms import default_response, reply
from firmware_node.terms import ImageKey
from firmware_node.wire import ota, zcl
from firmware_node.wire.zcl import Status

_KEY_OFFSET = 10  # of manufacturer code, image type and file version in a file (gbcs.md 2.2)


class CarelessServer:
    """An OTA server that looks at no file: a ``Machine`` in the place of a hub.

    It offers what the header says, with the size of the file, or with the header's, and hears what
    the device thinks of it. A file that ends early is answered with ABORT.
    """

    def __init__(self, data: bytes, *, size: int) -> None:
        self._data = data
        key = data[_KEY_OFFSET : _KEY_OFFSET + 8]
        self._image = ImageKey(
            int.from_bytes(key[:2], "little"),
            int.from_bytes(key[2:4], "little"),
            int.from_bytes(key[4:], "little"),
        )
        self._size = size
        self.answers: list[tuple[str, int]] = []
        self.blocks = 0
        self.aborts = 0
        self.wake_at: int | None = None

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        if not isinstance(item, FrameReceived) or item.frame.cluster != ota.CLUSTER:
            return ()
        frame = item.frame
        header, body = zcl.decode_header(frame.payload)
        if not header.cluster_specific:
            answered = zcl.decode_default_response(body)
            self.answers.append(("default response", answered.status))
            return ()
        match header.command:
            case ota.QUERY_NEXT_IMAGE_REQUEST:
                offer = ota.QueryNextImageResponse(Status.SUCCESS, self._image, self._size)
                if self.answers or self.aborts:
                    offer = ota.QueryNextImageResponse(Status.NO_IMAGE_AVAILABLE)
                answer = ota.encode_query_next_image_response(offer)
                return (reply(frame, header, ota.QUERY_NEXT_IMAGE_RESPONSE, answer),)
            case ota.IMAGE_BLOCK_REQUEST:
                answer = ota.encode_image_block_response(self._block(body))
                return (reply(frame, header, ota.IMAGE_BLOCK_RESPONSE, answer),)
            case ota.UPGRADE_END_REQUEST:
                end = ota.decode_upgrade_end_request(body)
                self.answers.append(("upgrade end request", end.status))
        return (default_response(frame, header, Status.SUCCESS),)

    def _block(self, body: bytes) -> ota.BlockData | ota.BlockStatus:
        request = ota.decode_image_block_request(body)
        data = self._data[request.file_offset : request.file_offset + request.size_max]
        if not data:
            self.aborts += 1
            return ota.BlockStatus(Status.ABORT)
        self.blocks += 1
        return ota.BlockData(request.image, request.file_offset, data)
