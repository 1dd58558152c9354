"""An OTA client on a bench: the test plays server, bank, clock and chance."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from firmware_node.boundary import (
    Frame,
    FrameReceived,
    NetworkDown,
    NetworkUp,
    Notify,
    SendFrame,
    Started,
)
from firmware_node.errors import FirmwareNodeError, RecordLostError, RefusedError
from firmware_node.node.ota_client import OtaClient, Output
from firmware_node.terms import (
    COORDINATOR,
    DeviceSettings,
    DeviceType,
    EntityId,
    ImageKey,
    OtaSettings,
    ShortAddress,
    UpgradeStatus,
)
from firmware_node.wire import ota, zcl, zdo

OWN_ID = EntityId.parse("00-DB-12-34-56-78-90-A4")
SERVER_ID = EntityId.parse("00-DB-12-34-56-78-90-A2")
STRANGER = ShortAddress(0x4321)
OLD = ImageKey(0x121D, 0x0084, 1)
NEW = ImageKey(0x121D, 0x0084, 2)
NEWER = ImageKey(0x121D, 0x0084, 3)
FILE = bytes(range(256)) * 4
UTC = 800_000_000
_T = TypeVar("_T")

_DECODERS: dict[int, Callable[[bytes], object]] = {
    ota.QUERY_NEXT_IMAGE_REQUEST: ota.decode_query_next_image_request,
    ota.IMAGE_BLOCK_REQUEST: ota.decode_image_block_request,
    ota.IMAGE_PAGE_REQUEST: ota.decode_image_page_request,
    ota.UPGRADE_END_REQUEST: ota.decode_upgrade_end_request,
    ota.SPECIFIC_FILE_REQUEST: ota.decode_specific_file_request,
}


class DictRecords:
    """``boundary.Records``; a key in ``lost`` has a wrong checksum."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.lost: set[str] = set()

    def get(self, key: str) -> bytes | None:
        if key in self.lost:
            raise RecordLostError(key)
        return self.rows.get(key)

    def put(self, key: str, value: bytes) -> None:
        self.lost.discard(key)
        self.rows[key] = value

    def delete(self, key: str) -> None:
        self.lost.discard(key)
        self.rows.pop(key, None)

    def keys(self, prefix: str) -> Sequence[str]:
        return sorted(key for key in self.rows if key.startswith(prefix))


class MemoryBank:
    """The ``Download`` port; ``power_cycle`` keeps ``durable`` octets of the session."""

    def __init__(self) -> None:
        self.offset = 0
        self.octets = bytearray()
        self.session: tuple[ImageKey, int] | None = None
        self.abandoned = 0
        self.begin_fails: FirmwareNodeError | None = None
        self.append_fails: dict[int, FirmwareNodeError] = {}

    def begin(self, image: ImageKey, size: int, now_ms: int) -> int:
        if self.begin_fails is not None:
            raise self.begin_fails
        if self.session != (image, size):
            self.session, self.offset = (image, size), 0
            self.octets.clear()
        return self.offset

    def resume(self) -> tuple[ImageKey, int, int] | None:
        return None if self.session is None else (*self.session, self.offset)

    def append(self, data: bytes, now_ms: int) -> None:
        error = self.append_fails.pop(self.offset, None)
        if isinstance(error, RefusedError):
            raise error
        self.octets += data
        self.offset += len(data)
        if error is not None:
            raise error  # a full disk: the octets are taken and wait in memory

    def abandon(self) -> None:
        self.abandoned += 1
        self.session, self.offset = None, 0
        self.octets.clear()

    def power_cycle(self, durable: int) -> None:
        self.offset = min(durable, self.offset)
        del self.octets[self.offset :]


class Chance:
    """``boundary.Entropy``: the draws that the test wrote down, then 0."""

    def __init__(self) -> None:
        self.draws: list[int] = []

    def below(self, bound: int) -> int:
        drawn = self.draws.pop(0) if self.draws else 0
        assert drawn < bound
        return drawn

    def octets(self, size: int) -> bytes:
        return bytes(size)


class Bench:
    """One client and everything around it."""

    def __init__(self, kind: DeviceType = DeviceType.PPMID, **numbers: object) -> None:
        numbers = {"query_jitter_percent": 0, **numbers}
        self.ota = replace(OtaSettings(), **numbers)  # type: ignore[arg-type]  # the test's names
        self.settings = DeviceSettings(kind, OWN_ID, 0x121D, 0x0084, 0x1111, False, ota=self.ota)
        self.records = DictRecords()
        self.bank = MemoryBank()
        self.chance = Chance()
        self.now = 1_000
        self.sent: list[Frame] = []
        self.notes: list[Notify] = []
        self.values: list[object] = []
        self.client = self._new_client()

    def _new_client(self) -> OtaClient:
        self.started = False
        client = OtaClient(self.settings, self.bank, self.chance, self.records)
        client.set_running(OLD)
        return client

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> Bench:
        if not self.started:
            self.started = True
            self.take(self.client.step(Started(), self.now))
        return self

    def join(self) -> Bench:
        self.take(self.client.step(NetworkUp(ShortAddress(0x1001), 15), self.now))
        return self

    def leave(self) -> Bench:
        self.take(self.client.step(NetworkDown(), self.now))
        return self

    def found(self) -> Bench:
        """Started, joined, the server found and identified, its first query on its way."""
        self.start().join()
        self.hear_zdo(zdo.MATCH_DESC_REQ, match())
        self.hear_zdo(zdo.IEEE_ADDR_REQ, identity())
        return self

    def idle(self) -> Bench:
        """As ``found``, and there was no image."""
        self.found().answer_query(zcl.Status.NO_IMAGE_AVAILABLE)
        return self.clear()

    def downloading(self, image: ImageKey = NEW, size: int = len(FILE)) -> Bench:
        """As ``found``, and an image was offered; its first request is the last frame sent."""
        self.found().answer_query(image=image, size=size)
        return self

    def held(self, image: ImageKey = NEW) -> Bench:
        """A whole image came and is verified; the Upgrade End Request is the last frame sent."""
        self.downloading(image).serve()
        self.take(self.client.image_verified(self.now))
        return self

    def restart(self, *, durable: int = 1 << 30, kept: bool = False) -> Bench:
        """Power off and on; monotonic time begins again."""
        image = self.client.image
        self.bank.power_cycle(durable)
        self.now = 500
        self.client = self._new_client()
        if kept:
            assert image is not None
            self.client.image_kept(image, len(FILE))
        self.clear()
        return self

    # --- what comes in ------------------------------------------------------------------------

    def take(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if isinstance(output, SendFrame):
                self.sent.append(output.frame)
            elif isinstance(output, Notify):
                self.notes.append(output)
            else:
                self.values.append(output)

    def hear_frame(self, frame: Frame) -> None:
        self.take(self.client.step(FrameReceived(frame), self.now))

    def hear(
        self,
        command: int,
        body: bytes,
        *,
        peer: ShortAddress = COORDINATOR,
        broadcast: bool = False,
        quiet: bool = True,
        sequence: int = 77,
        profile: int = zcl.SMART_ENERGY_PROFILE,
        endpoint: int = 1,
        to_client: bool = True,
    ) -> None:
        header = zcl.ZclHeader(True, to_client, quiet, None, sequence, command)
        payload = zcl.encode(header, body)
        self.hear_frame(Frame(peer, 1, endpoint, profile, ota.CLUSTER, payload, broadcast))

    def hear_zdo(self, request: int, payload: bytes, peer: ShortAddress = COORDINATOR) -> None:
        self.hear_frame(Frame(peer, 0, 0, zdo.PROFILE, request | zdo.RESPONSE, payload))

    def hear_default(self, command: int, status: int) -> None:
        header = zcl.ZclHeader(False, True, True, None, 77, zcl.DEFAULT_RESPONSE)
        payload = zcl.encode(header, zcl.encode_default_response(command, status))
        self.hear_frame(Frame(COORDINATOR, 1, 1, zcl.SMART_ENERGY_PROFILE, ota.CLUSTER, payload))

    def answer_query(
        self, status: int = 0, image: ImageKey | None = None, size: int | None = None
    ) -> None:
        response = ota.QueryNextImageResponse(status, image, size)
        self.hear(ota.QUERY_NEXT_IMAGE_RESPONSE, ota.encode_query_next_image_response(response))

    def answer_block(
        self,
        data: bytes | None = None,
        offset: int | None = None,
        image: ImageKey = NEW,
        *,
        quiet: bool = True,
    ) -> None:
        """A block; by default the one that was asked for last."""
        if offset is None or data is None:
            request = self.last(ota.ImageBlockRequest)
            offset = request.file_offset if offset is None else offset
            data = FILE[offset : offset + request.size_max] if data is None else data
        block = ota.encode_image_block_response(ota.BlockData(image, offset, data))
        self.hear(ota.IMAGE_BLOCK_RESPONSE, block, quiet=quiet)

    def answer_wait(self, current: int, request: int, period: int | None = None) -> None:
        wait = ota.encode_image_block_response(ota.WaitForData(current, request, period))
        self.hear(ota.IMAGE_BLOCK_RESPONSE, wait)

    def answer_status(self, status: int) -> None:
        body = ota.encode_image_block_response(ota.BlockStatus(status))
        self.hear(ota.IMAGE_BLOCK_RESPONSE, body)

    def answer_end(
        self, current: int, upgrade: int, image: ImageKey = NEW, *, quiet: bool = True
    ) -> None:
        response = ota.UpgradeEndResponse(image, current, upgrade)
        body = ota.encode_upgrade_end_response(response)
        self.hear(ota.UPGRADE_END_RESPONSE, body, quiet=quiet)

    def notify(
        self,
        kind: int = 0,
        *fields: int,
        jitter: int = 100,
        broadcast: bool = False,
        peer: ShortAddress = COORDINATOR,
        profile: int = zcl.SMART_ENERGY_PROFILE,
        endpoint: int = 1,
    ) -> None:
        body = ota.encode_image_notify(ota.ImageNotify(kind, jitter, *fields))
        self.hear(
            ota.IMAGE_NOTIFY,
            body,
            broadcast=broadcast,
            peer=peer,
            profile=profile,
            endpoint=endpoint,
        )

    def serve(self, until: int = len(FILE)) -> Bench:
        """Answer block requests until that many octets are in the bank."""
        while self.bank.offset < until:
            self.answer_block()
        return self

    # --- time ---------------------------------------------------------------------------------

    def wait(self, milliseconds: int) -> Bench:
        """Let time pass; every timer that becomes due is served on time."""
        end = self.now + milliseconds
        while self.client.wake_at is not None and self.client.wake_at <= end:
            self.now = max(self.now, self.client.wake_at)
            self.take(self.client.step(None, self.now))
        self.now = end
        return self

    def wait_served(self, milliseconds: int) -> Bench:
        """As ``wait``; the server answers every query that it has no image."""
        end = self.now + milliseconds
        while self.client.wake_at is not None and self.client.wake_at <= end:
            self.now = max(self.now, self.client.wake_at)
            asked = len(self.requests())
            self.take(self.client.step(None, self.now))
            for request in self.requests()[asked:]:
                if isinstance(request, ota.QueryNextImageRequest):
                    self.answer_query(zcl.Status.NO_IMAGE_AVAILABLE)
        self.now = end
        return self

    def tick(self) -> int:
        """Let time pass until the next timer and serve it; the milliseconds that took."""
        assert self.client.wake_at is not None
        passed, self.now = self.client.wake_at - self.now, self.client.wake_at
        self.take(self.client.step(None, self.now))
        return passed

    def utc(self, utc: int) -> Bench:
        self.client.set_utc(utc, self.now)
        return self

    # --- what came out ------------------------------------------------------------------------

    @property
    def status(self) -> UpgradeStatus:
        return self.client.status

    def clear(self) -> Bench:
        self.sent.clear()
        self.notes.clear()
        self.values.clear()
        return self

    def requests(self) -> list[object]:
        """What was asked of the server, decoded."""
        decoded = (_request(f.payload) for f in self.sent if f.profile != zdo.PROFILE)
        return [request for request in decoded if request is not None]

    def last(self, kind: type[_T]) -> _T:
        """The last request sent, which is of this kind."""
        found = self.requests()[-1]
        assert isinstance(found, kind), found
        return found

    def sequences(self) -> list[int]:
        """The ZCL sequence numbers of the requests."""
        return [zcl.decode_header(f.payload)[0].sequence for f in self.sent if f.profile != 0]

    def defaults(self) -> list[tuple[int, int]]:
        """The Default Responses sent: command and status."""
        found = []
        for frame in self.sent:
            if frame.profile == zdo.PROFILE:
                continue
            header, body = zcl.decode_header(frame.payload)
            if not header.cluster_specific:
                assert header.sequence == 77 and header.disable_default_response
                response = zcl.decode_default_response(body)
                found.append((response.command, response.status))
        return found

    def names(self) -> list[str]:
        return [note.name for note in self.notes]

    def note(self, name: str) -> Notify:
        """The last notification of this name."""
        return [note for note in self.notes if note.name == name][-1]


@functools.cache
def _request(payload: bytes) -> object | None:
    """A command to the server; None for anything else. A test looks at the same frames often."""
    header, body = zcl.decode_header(payload)
    if not header.cluster_specific:
        return None
    assert not header.to_client and not header.disable_default_response
    return _DECODERS[header.command](body)


def match(address: int = COORDINATOR, *endpoints: int) -> bytes:
    """A Match_Desc_rsp."""
    found = zdo.MatchResponse(1, zdo.SUCCESS, ShortAddress(address), endpoints or (1,))
    return zdo.encode_match_response(found)


def identity(address: int = COORDINATOR, entity_id: EntityId = SERVER_ID) -> bytes:
    """An IEEE_addr_rsp."""
    found = zdo.AddressResponse(1, zdo.SUCCESS, entity_id, ShortAddress(address))
    return zdo.encode_address_response(found)
