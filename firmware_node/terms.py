"""Domain types that every layer shares: identities, image keys, life cycles, settings.

Values only. How they look on the wire is decided in ``wire``, what they cause in ``node``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple, NewType

from firmware_node.errors import ConfigError

ShortAddress = NewType("ShortAddress", int)  # 16-bit network address
COORDINATOR = ShortAddress(0x0000)
BROADCAST_RX_ON = ShortAddress(0xFFFD)  # every node whose receiver is on when idle

_ENTITY_ID = re.compile(r"[0-9A-Fa-f]{2}(-?[0-9A-Fa-f]{2}){7}")


@dataclass(frozen=True, slots=True, order=True)
class EntityId:
    """EUI-64 of a device or party, in certificate byte order (most significant octet first)."""

    octets: bytes

    def __post_init__(self) -> None:
        if len(self.octets) != 8:
            raise ConfigError(f"entity id: expected 8 octets, found {len(self.octets)}")

    @classmethod
    def parse(cls, text: str) -> EntityId:
        """Read ``00-DB-12-34-56-78-90-A4``; dashes may be absent, case does not matter.

        Raises:
            ConfigError: the text is not sixteen hexadecimal digits.
        """
        if _ENTITY_ID.fullmatch(text.strip()) is None:
            raise ConfigError(f"entity id: expected 16 hexadecimal digits, found {text!r}")
        return cls(bytes.fromhex(text.strip().replace("-", "")))

    @property
    def hex(self) -> str:
        """Sixteen lower-case digits, as in key file names."""
        return self.octets.hex()

    def __str__(self) -> str:
        return self.octets.hex("-").upper()


class ImageKey(NamedTuple):
    """What names one image: manufacturer code u16, image type u16, file version u32."""

    manufacturer_code: int
    image_type: int
    file_version: int

    @property
    def version_hex(self) -> str:
        """The file version as eight lower-case digits."""
        return f"{self.file_version:08x}"


class Span(NamedTuple):
    """A part of some octets: where it begins and how many they are."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The offset right behind it."""
        return self.offset + self.size


class DeviceType(Enum):
    """Device types of the GB HAN; the value is the configuration word."""

    GSME = "gsme"
    ESME = "esme"
    HCALCS = "hcalcs"
    PPMID = "ppmid"

    @property
    def has_supplier(self) -> bool:
        """Whether a supplier signs its images and activates them by CS06 (gbcs.md 1.3, 1.4).

        A PPMID's images are activated by the Comms Hub and carry no supplier's signature.
        """
        return self is not DeviceType.PPMID


class BankId(Enum):
    """One of the two places an image can live."""

    A = "A"
    B = "B"

    @property
    def other(self) -> BankId:
        """The bank that is not this one."""
        return BankId.B if self is BankId.A else BankId.A


class BankState(Enum):
    """Life of an image in a bank (contract: ``status --json``)."""

    EMPTY = "empty"
    RECEIVING = "receiving"
    HELD = "held"
    VERIFIED = "verified"
    PENDING = "pending"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"


class UpgradeStatus(IntEnum):
    """ZCL OTA attribute ImageUpgradeStatus (0x0006). Source: gbcs-supplement 10.1."""

    NORMAL = 0
    DOWNLOAD_IN_PROGRESS = 1
    DOWNLOAD_COMPLETE = 2
    WAITING_TO_UPGRADE = 3
    COUNT_DOWN = 4
    WAIT_FOR_MORE = 5
    WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT = 6


class DeviceState(Enum):
    """What the device is doing, in one word (contract: ``status --json``)."""

    IDLE = "idle"
    DOWNLOADING = "downloading"
    WAITING = "waiting"
    RESTARTING = "restarting"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"
    FAILED = "failed"


class ImageFormat(Enum):
    """Shape of an OTA file's body (gbcs.md 2.1; contract: ``image inspect``)."""

    GB_SUPPLIER_SIGNED = "gb-supplier-signed"
    GB_PLAIN = "gb-plain"
    ZIGBEE = "zigbee"


class Role(IntEnum):
    """remotePartyRole of a trust-anchor cell (gbcs.md 4.8)."""

    ROOT = 0
    RECOVERY = 1
    SUPPLIER = 2
    NETWORK_OPERATOR = 3
    ACCESS_CONTROL_BROKER = 4
    TRANSITIONAL_COS = 5
    WAN_PROVIDER = 6
    ISSUING_AUTHORITY = 7
    LOAD_CONTROLLER = 8
    OTHER = 127


@dataclass(frozen=True, slots=True)
class OtaSettings:
    """The OTA client's numbers. Defaults: gbcs-supplement 10.2 unless a comment says otherwise."""

    block_size: int = 50  # bytes asked for; 50 fits a frame without APS security (zigbee-znp.md 7)
    query_interval_s: int = 300
    query_jitter_percent: int = 10  # of the interval, so that a street does not query at once
    discovery_interval_s: int = 120
    query_errors_max: int = 10  # then the server is searched again
    reply_timeout_ms: int = 3_000
    retry_first_ms: int = 2_000  # doubling (zigbee-znp.md 9)
    retry_last_ms: int = 30_000
    errors_max: int = 10  # sequential, before a download is given up
    upgrade_end_retry_s: int = 600
    upgrade_end_retries: int = 10
    wait_max_s: int = 3_600  # longest wait obeyed in one go, then asked again
    bad_time_block_s: int = 300  # target before current in a WAIT_FOR_DATA
    bad_time_end_s: int = 3_600
    activate_delay_ms: int = 3_000  # at least, so that the replies get out
    block_period_unit_ms: int = 1  # MinimumBlockPeriod: 1 for ZCL (ms), 1000 for ZSE 1.2b (seconds)
    page_size: int = 0  # octets of one Image Page Request; 0: blocks only
    page_spacing_ms: int = 50  # between the blocks of one page
    timeout_activates: bool = False  # UpgradeTimeoutPolicy 0x000C: False is value 1, never
    allow_downgrade: bool = False
    stack_version: int = 0x0002


@dataclass(frozen=True, slots=True)
class ActivationSettings:
    """Trial, confirmation and clock numbers (dual-bank.md 5; gbcs-supplement 9)."""

    trial_starts_max: int = 5  # a power cut and a crash look alike from inside, so it is generous
    trial_limit_s: int = 600  # uptime after which an unconfirmed trial is reverted
    confirm_after_s: int = 3  # uptime after a good self-test
    download_attempts_max: int = 3  # read-backs that differ, before the bank counts as worn
    free_bytes_min: int = 256 * 1024  # below it no activation (dual-bank.md 9)
    checkpoint_bytes: int = 64 * 1024
    checkpoint_interval_s: int = 60
    time_poll_s: int = 24 * 3_600
    time_poll_pending_s: int = 60  # while a future-dated activation waits, so that it is not late
    time_stale_s: int = 48 * 3_600


@dataclass(frozen=True, slots=True)
class LoadSwitchSettings:
    """The switch of an HCALCS. No public text has these numbers: all are (default), supplement 3.1.

    Closed means that the load has its supply.
    """

    relays: tuple[str, ...] = ()  # driven alike; the daemon puts in every relay there is
    idle_closed: bool = False  # while no event is in force
    power_up_closed: bool = False  # until the ESME has answered
    restore: bool = True  # without its answer: the last commanded state, after that time
    restore_after_s: int = 300
    start_randomisation_min: int = 30  # minutes; where an event asks for it
    duration_randomisation_min: int = 30
    device_class: int = 0x0FFF  # an event for any of these classes is ours
    enrollment_group: int = 0  # 0: whatever group an event names
    discovery_interval_s: int = 120
    ask_retry_first_ms: int = 5_000  # doubling, until the ESME has answered
    ask_retry_last_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """Who the device is and which rules it follows."""

    type: DeviceType
    entity_id: EntityId
    manufacturer_code: int
    image_type: int
    hardware_version: int
    manufacturer_signature_required: bool
    acb: EntityId | None = None  # a PPMID's alerts go there; None: the keyring's first ACB
    supplier: EntityId | None = None  # the only one obeyed; None: every one in the keyring
    image_format: ImageFormat | None = None  # None: told from the file
    check_validity: bool = False  # of certificates by their dates, once the time is known
    ota: OtaSettings = field(default_factory=OtaSettings)
    activation: ActivationSettings = field(default_factory=ActivationSettings)
    switch: LoadSwitchSettings = field(default_factory=LoadSwitchSettings)  # of an HCALCS
