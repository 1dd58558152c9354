"""One device on a medium: the test plays hub, radio, clock, operator and supply, step by step.

After every step the indicators are held to the state that ``status`` tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bank_bench import AREA, FACTORY
from home import KEYS, PPMID, SETTINGS
from ota_bench import identity, match

from firmware_node.boundary import (
    Answer,
    CarryMessage,
    Effect,
    EraseAndReboot,
    Frame,
    FrameReceived,
    Input,
    NetworkUp,
    Notify,
    ReadVersion,
    Reboot,
    SendConfirmed,
    SendFrame,
    SetIndicator,
    SetRelay,
    Started,
)
from firmware_node.crypto import Keyring
from firmware_node.node.device import Device
from firmware_node.node.records import decode
from firmware_node.rig.head_end import HeadEnd
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.rig.world import SeededEntropy
from firmware_node.terms import COORDINATOR, BankId, DeviceSettings, EntityId, ShortAddress
from firmware_node.wire import ota, tunneling, zcl, zdo
from firmware_node.wire.gbcs import Message, decode_message
from firmware_node.wire.ota_file import decode_ota_header

ACB = EntityId.parse("90-B3-D5-1F-30-00-00-02")
USER = EntityId.parse("90-B3-D5-1F-30-01-00-00")
UTC = 800_000_000
TUNNEL = tunneling.RequestTunnel(6, 0xFFFF, False, 1500)
_T = TypeVar("_T")


class DeviceBench:
    """See the module. Every step is checked to commit nothing by itself; the bench commits."""

    def __init__(
        self,
        *,
        settings: DeviceSettings = SETTINGS,
        keyring: Keyring = KEYS,
        factory: bytes = FACTORY,
    ) -> None:
        self.settings, self.keyring, self.factory = settings, keyring, factory
        self.medium = Medium(AREA)
        self.head_end = HeadEnd(ACB, KEYS, first_counter=1000)
        self.now = 0
        self.auto_commit = True
        self.edges: list[SetRelay] = []  # in every life
        self.restart()

    # --- life ---------------------------------------------------------------------------------

    def restart(self, *lost: str) -> DeviceBench:
        """A new life on what was committed; these rows have wrong checksums."""
        self.medium.power_cycle()
        self.now += 1_000
        self.storage = MemoryStorage(self.medium)
        self.storage.records.lost.update(lost)
        self.device = Device(
            self.settings,
            self.storage,
            self.keyring,
            SeededEntropy(self.now),
            factory_image=self.factory,
        )
        self.tunnel_id = 0
        self.lit: dict[str, bool] = {}
        self.clear()
        self.step(Started())
        return self

    def clear(self) -> DeviceBench:
        self.sent: list[SendFrame] = []
        self.notes: list[Notify] = []
        self.answers: list[Answer] = []
        self.ends: list[Effect] = []  # restarts of either kind
        return self

    def step(self, item: Input | None) -> list[Effect]:
        before = dict(self.medium.records)
        stepped = self.device.step(item, self.now)
        assert self.medium.records == before, "a step committed"
        if self.auto_commit:
            self.storage.commit()
        effects: list[Effect] = []
        for effect in stepped:
            if isinstance(effect, SetIndicator):
                assert self.lit.get(effect.name) is not effect.on, "told again"
                self.lit[effect.name] = effect.on
                continue
            effects.append(effect)
            match effect:
                case SendFrame():
                    self.sent.append(effect)
                case SetRelay():
                    self.edges.append(effect)
                case Notify():
                    self.notes.append(effect)
                case Answer():
                    self.answers.append(effect)
                case Reboot() | EraseAndReboot():
                    self.ends.append(effect)
                case _:
                    raise AssertionError(effect)
        self.last = effects
        self._look_at_indicators()
        return effects

    def _look_at_indicators(self) -> None:
        status = self.status()
        if status["state"] == "restarting":
            return  # the lines are let go of
        lit = {name for name, on in self.lit.items() if on and name != "load"}
        network = status["network"]
        assert isinstance(network, dict)
        expected = {"joined"} if network["joined"] else set()
        shown = {"trial": "waiting", "reverted": "failed"}.get(
            str(status["state"]), str(status["state"])
        )
        assert lit == expected | ({shown} & {"downloading", "waiting", "failed"})

    def tick(self) -> int:
        """The next timer; the milliseconds that took."""
        wake_at = self.device.wake_at
        assert wake_at is not None
        passed, self.now = wake_at - self.now, max(wake_at, self.now)
        self.step(None)
        return passed

    def next_query(self) -> DeviceBench:
        """Let time pass until the server is asked for an image again."""
        self.clear()
        while not self.ota_requests():
            self.tick()
        assert isinstance(self.ota_requests()[0], ota.QueryNextImageRequest)
        return self

    def wait(self, milliseconds: int) -> DeviceBench:
        """Let time pass and serve every timer; a restart ends it."""
        end = self.now + milliseconds
        while (wake_at := self.device.wake_at) is not None and wake_at <= end:
            self.tick()
        self.now = end
        return self

    # --- what comes in ------------------------------------------------------------------------

    def hear(
        self,
        cluster: int,
        payload: bytes,
        *,
        profile: int = zcl.SMART_ENERGY_PROFILE,
        peer: ShortAddress = COORDINATOR,
    ) -> list[Effect]:
        endpoint = 0 if profile == zdo.PROFILE else 1
        return self.step(FrameReceived(Frame(peer, endpoint, endpoint, profile, cluster, payload)))

    def command(self, cluster: int, command: int, body: bytes, *, to_client: bool) -> list[Effect]:
        """A cluster command of the hub that wants no default response."""
        header = zcl.ZclHeader(True, to_client, True, None, 77, command)
        return self.hear(cluster, zcl.encode(header, body))

    def read(self, cluster: int, *attributes: int) -> dict[int, zcl.AttributeValue]:
        """Read attributes of the device, and what it answers at once."""
        header = zcl.ZclHeader(False, False, True, None, 78, zcl.READ_ATTRIBUTES)
        (answer,) = self.hear(cluster, zcl.encode(header, zcl.encode_read_attributes(attributes)))
        assert isinstance(answer, SendFrame)
        told, body = zcl.decode_header(answer.frame.payload)
        assert (told.sequence, told.command) == (78, zcl.READ_ATTRIBUTES_RESPONSE)
        return {value.attribute: value for value in zcl.decode_read_attributes_response(body)}

    def join(self) -> DeviceBench:
        self.step(NetworkUp(ShortAddress(0x1001), 15))
        return self

    def found(self) -> DeviceBench:
        """Joined, the server found; its query is on its way."""
        self.join()
        self.hear(zdo.MATCH_DESC_REQ | zdo.RESPONSE, match(), profile=zdo.PROFILE)
        self.hear(zdo.IEEE_ADDR_REQ | zdo.RESPONSE, identity(), profile=zdo.PROFILE)
        return self

    def tell_time(self, utc: int = UTC) -> list[Effect]:
        """The hub's answer to the last read of its time."""
        request = [s.frame for s in self.sent if s.frame.cluster == zcl.TIME_CLUSTER][-1]
        asked, _ = zcl.decode_header(request.payload)
        header = zcl.ZclHeader(
            False, True, True, None, asked.sequence, zcl.READ_ATTRIBUTES_RESPONSE
        )
        body = zcl.encode_read_attributes_response(
            (
                zcl.AttributeValue(0, 0, zcl.UTC_TIME, utc),
                zcl.AttributeValue(1, 0, zcl.BITMAP8, 0x01),
            )
        )
        return self.hear(zcl.TIME_CLUSTER, zcl.encode(header, body))

    def offer(self, file: bytes) -> DeviceBench:
        """The server's answer to the query."""
        response = ota.QueryNextImageResponse(0, decode_ota_header(file).image, len(file))
        body = ota.encode_query_next_image_response(response)
        self.command(ota.CLUSTER, ota.QUERY_NEXT_IMAGE_RESPONSE, body, to_client=True)
        return self

    def serve(self, file: bytes, until: int | None = None) -> DeviceBench:
        """Answer block requests until the file is through, or that offset."""
        image = decode_ota_header(file).image
        while True:
            requests = self.ota_requests()
            last = requests[-1] if requests else None
            if not isinstance(last, ota.ImageBlockRequest):
                return self
            if until is not None and last.file_offset >= until:
                return self
            data = file[last.file_offset : last.file_offset + last.size_max]
            body = ota.encode_image_block_response(ota.BlockData(image, last.file_offset, data))
            self.command(ota.CLUSTER, ota.IMAGE_BLOCK_RESPONSE, body, to_client=True)
            assert len(self.ota_requests()) > len(requests) or self.ends

    def held(self, file: bytes) -> DeviceBench:
        """A file came whole; the Upgrade End Request is the last one sent."""
        return self.found().offer(file).serve(file)

    def end(self, file: bytes, upgrade_time: int = 0) -> list[Effect]:
        """The Upgrade End Response, relative to now."""
        response = ota.UpgradeEndResponse(decode_ota_header(file).image, 0, upgrade_time)
        body = ota.encode_upgrade_end_response(response)
        return self.command(ota.CLUSTER, ota.UPGRADE_END_RESPONSE, body, to_client=True)

    def activated(self, file: bytes) -> DeviceBench:
        """Over the air as far as the restart into the image, which has not happened yet."""
        self.held(file).end(file)
        self.wait(3_000)
        assert self.ends == [Reboot("activation")]
        return self

    def open_tunnel(self) -> list[Effect]:
        effects = self.command(
            tunneling.CLUSTER,
            tunneling.TO_SERVER_REQUEST_TUNNEL,
            tunneling.encode_request_tunnel(TUNNEL),
            to_client=False,
        )
        (opened,) = [e for e in effects if isinstance(e, SendFrame) and e.tag == 0]
        _, body = zcl.decode_header(opened.frame.payload)
        self.tunnel_id = tunneling.decode_request_tunnel_response(body).tunnel_id
        return effects

    def carry(self, message: bytes) -> list[Effect]:
        """A GBCS message through the tunnel."""
        body = tunneling.encode_transfer_data(tunneling.TransferData(self.tunnel_id, message))
        return self.command(
            tunneling.CLUSTER, tunneling.TO_SERVER_TRANSFER_DATA, body, to_client=False
        )

    def read_version(self) -> bytes:
        """A CS08 command of the access control broker, with the next counter."""
        (carry,) = self.head_end.step(ReadVersion("r", USER, 7, PPMID), self.now)
        assert isinstance(carry, CarryMessage)
        return carry.message

    def confirm_sent(self, delivered: bool = True) -> list[Effect]:
        """The radio's word on the last frame that asked for one."""
        tag = [sent.tag for sent in self.sent if sent.tag][-1]
        return self.step(SendConfirmed(tag, delivered))

    # --- what came out ------------------------------------------------------------------------

    def names(self) -> list[str]:
        return [note.name for note in self.notes]

    def note(self, name: str) -> Notify:
        """The last notification of this name."""
        return [note for note in self.notes if note.name == name][-1]

    def ota_requests(self) -> list[object]:
        """What was asked of the OTA server since ``clear``."""
        decoders: dict[int, Callable[[bytes], object]] = {
            ota.QUERY_NEXT_IMAGE_REQUEST: ota.decode_query_next_image_request,
            ota.IMAGE_BLOCK_REQUEST: ota.decode_image_block_request,
            ota.UPGRADE_END_REQUEST: ota.decode_upgrade_end_request,
            ota.SPECIFIC_FILE_REQUEST: ota.decode_specific_file_request,
        }
        found = []
        for sent in self.sent:
            if sent.frame.cluster == ota.CLUSTER and sent.frame.profile != zdo.PROFILE:
                header, body = zcl.decode_header(sent.frame.payload)
                if header.cluster_specific:
                    found.append(decoders[header.command](body))
        return found

    def tunnelled(self) -> list[bytes]:
        """The GBCS messages sent since ``clear``."""
        found = []
        for sent in self.sent:
            if sent.tag:
                _, body = zcl.decode_header(sent.frame.payload)
                found.append(tunneling.decode_transfer_data(body).data)
        return found

    def default_status(self) -> int:
        """The status of the Default Response that was sent last."""
        header, body = zcl.decode_header(self.sent[-1].frame.payload)
        assert header.command == zcl.DEFAULT_RESPONSE and not header.cluster_specific
        return zcl.decode_default_response(body).status

    # --- what is kept -------------------------------------------------------------------------

    def waiting(self) -> list[Message]:
        """The messages of the durable outbox, in order."""
        rows = self.medium.records
        keys = sorted(key for key in rows if key.startswith("outbox/") and key[-1] != "~")
        return [decode_message(rows[key]) for key in keys]

    def boot(self) -> tuple[BankId, bool]:
        """Durably active bank, and whether it is on trial."""
        boot = decode(self.medium.records["boot"])
        return BankId(boot["active"]), boot["trial"]

    def states(self) -> tuple[str, str]:
        """The durable states of banks A and B."""
        rows = self.medium.records
        return decode(rows["bank/A"])["state"], decode(rows["bank/B"])["state"]

    def received(self) -> int:
        """The last counter that was accepted from the access control broker."""
        return int(self.medium.records["counter/received/004"])

    def status(self) -> dict[str, object]:
        return self.device.status(self.now)
