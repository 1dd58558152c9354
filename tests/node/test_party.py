"""The GBCS party alone: refusals, alerts that a forger cannot multiply, logs, the pending date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from home import ACB, KEYS, SETTINGS, SUPPLIER
from test_messages import HEADER, command

from firmware_node.boundary import Frame, Notify, RatchetValues, SendFrame
from firmware_node.crypto import Keyring
from firmware_node.node.banks import Outcome, Wanted
from firmware_node.node.counters import Counters
from firmware_node.node.logs import ENTRIES_MAX, ENTRIES_PER_MINUTE, Log, Logs
from firmware_node.node.outbox import OUTBOX_MAX, Outbox
from firmware_node.node.party import ALERT_INTERVAL_MS, ActivationCommanded, GbcsParty, Times
from firmware_node.node.records import put_twice
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.sealing import Verdict, check_signature, seal_critical
from firmware_node.terms import COORDINATOR, DeviceSettings, DeviceType, EntityId
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire import gbt
from firmware_node.wire.gbcs import GroupingHeader, Message, decode_message

HCALCS = EntityId.parse("00-DB-12-34-56-78-90-A5")
HCALCS_SETTINGS = replace(SETTINGS, type=DeviceType.HCALCS, entity_id=HCALCS)
UTC = 800_000_000
VERSION = 0x01020304


class Bench:
    """A party on a medium in memory; the test is its clock and its radio."""

    def __init__(self, settings: DeviceSettings = HCALCS_SETTINGS, keyring: Keyring = KEYS) -> None:
        self.settings, self.keyring = settings, keyring
        self.medium = Medium(64 * 1024)
        self.utc: int | None = UTC
        self.now = 0
        self.start()
        for key, value in Counters.first_rows().items():
            put_twice(self.storage.records, key, value)
        self.storage.ratchet.raise_now(RatchetValues(0, 1))
        self.storage.commit()
        self.start()

    def start(self) -> Sequence[Notify]:
        """A new life on what was committed."""
        self.storage = MemoryStorage(self.medium)
        self.outbox = Outbox(self.storage.records, lambda message, tag: None)
        self.sent: list[bytes] = []
        times = Times(lambda _: self.utc, lambda _: self.utc or 0)
        self.party = GbcsParty(
            self.settings, self.storage, self.keyring, self.outbox, times, self.send
        )
        return self.party.start()

    def send(self, octets: bytes, tag: int) -> SendFrame:
        self.sent.append(octets)
        return SendFrame(Frame(COORDINATOR, 1, 1, 0x0109, 0x0704, octets), tag)

    def receive(self, octets: bytes) -> list[object]:
        outputs = self.party.receive(octets, VERSION, self.now)
        self.storage.commit()
        return list(outputs)

    def waiting(self) -> list[Message]:
        records = self.storage.records
        keys = [key for key in records.keys("outbox/") if not key.endswith("~")]
        return [decode_message(records.rows[key]) for key in keys]

    def codes(self, log: Log = Log.SECURITY) -> list[object]:
        return [entry["code"] for entry in self.party.log(log)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def dated(counter: int, executes_at: int | None, *, cancels: bool = False) -> bytes:
    header = replace(HEADER, originator_counter=counter)
    request = fm.ActivateFirmware(bytes(32), counter, executes_at, cancels)
    payload = fm.encode_cs06_command(request)
    return seal_critical(header, payload, KEYS.signing_key(SUPPLIER), KEYS, ACB, HCALCS)


def test_a_role_that_lacks_authority_earns_a_signed_alert_once_a_minute(bench: Bench) -> None:
    for _ in range(5):
        bench.receive(command("role"))
    assert bench.codes() == ["8F30"] * 5
    (alert,) = bench.waiting()
    assert (alert.header.message_code, alert.header.recipient) == (0x1000, SUPPLIER)
    assert fm.decode_generic_alert_gbz(alert.payload) == fm.GenericAlert(0x8F30, UTC)
    assert check_signature(alert, KEYS) is Verdict.VALID
    bench.now += ALERT_INTERVAL_MS
    bench.receive(command("role"))
    assert len(bench.waiting()) == 2


def test_the_alert_of_an_esme_is_of_the_dlms_shape_and_a_ppmid_s_goes_to_the_acb() -> None:
    esme = Bench(replace(HCALCS_SETTINGS, type=DeviceType.ESME))
    esme.receive(command("role"))
    (alert,) = esme.waiting()
    counter = alert.header.originator_counter
    assert fm.decode_generic_alert_dlms(alert.payload, counter).alert_code == 0x8F30
    ppmid = Bench(replace(SETTINGS, entity_id=HCALCS))
    header = GroupingHeader(HEADER.cra, 1, SUPPLIER, HCALCS, fm.CS08_READ_VERSION)
    payload = fm.encode_cs08_command()
    key = KEYS.signing_key(SUPPLIER)
    ppmid.receive(seal_critical(header, payload, key, KEYS, ACB, HCALCS))
    assert [m.header.recipient for m in ppmid.waiting()] == [ACB]


@pytest.mark.parametrize("fault", ["form", "recipient", "originator", "mac", "signature"])
def test_every_other_refusal_is_silence_and_a_log_entry(bench: Bench, fault: str) -> None:
    bench.receive(command(fault))
    assert bench.waiting() == []
    assert len(bench.codes()) == 1
    assert bench.party.schedule.report() is None


def test_a_full_outbox_takes_no_command_and_the_counter_stays(bench: Bench) -> None:
    for _ in range(OUTBOX_MAX):
        bench.outbox.put(b"waits")
    (refused,) = bench.receive(dated(1, UTC + 60))
    assert isinstance(refused, Notify)
    assert refused.name == "command_refused"
    assert bench.party.schedule.report() is None
    for key in bench.storage.records.keys("outbox/"):
        bench.storage.records.delete(key)
    bench.receive(dated(1, UTC + 60))
    assert bench.party.schedule.report() is not None


def test_lost_counters_accept_and_send_nothing(bench: Bench) -> None:
    for key in list(bench.medium.records):
        if key.startswith("counter/"):
            del bench.medium.records[key]
    bench.medium.ratchet = None
    notes = bench.start()
    assert [note.name for note in notes] == ["counters_lost"]
    bench.receive(dated(1, UTC + 60))
    bench.party.tell_receipt(fm.IMAGE_VERIFIED, bytes(32), 0)
    assert bench.waiting() == []
    assert bench.party.schedule.report() is None


def test_a_missing_signing_key_withholds_the_message_and_says_so() -> None:
    files = {name: KEYS.file(name) for name in KEYS.names() if name != f"{HCALCS.hex}-ds.key"}
    bench = Bench(keyring=Keyring(files))
    notes = bench.party.tell_receipt(fm.IMAGE_VERIFIED, bytes(32), 0)
    assert [getattr(note, "name", "") for note in notes] == ["message_withheld", "log_entry"]
    assert bench.waiting() == []


def test_an_immediate_command_is_handed_over_with_what_its_outcome_needs(bench: Bench) -> None:
    octets = command()
    *_, commanded = bench.receive(octets)
    assert commanded == ActivationCommanded(
        Outcome("cs06", octets.hex()), Wanted(bytes(32), SUPPLIER)
    )
    assert bench.waiting() == []


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (None, 0),
        ("no_image_held", 1),
        ("other_supplier", 1),
        ("hash_mismatch", 2),
        ("bank_changed", 2),
        ("below_rollback_floor", 3),
        ("self_test", 3),
        ("storage_full", 3),
    ],
)
def test_each_end_of_an_activation_has_its_code(bench: Bench, cause: str | None, code: int) -> None:
    bench.party.tell_outcome(Outcome("cs06", command().hex()), cause, VERSION, 0)
    (response,) = bench.waiting()
    expected = fm.ActivationOutcome(code, VERSION)
    assert fm.decode_cs06_response(response.payload) == expected
    assert response.header.date_time == fm.dlms_date_time(UTC)
    assert check_signature(response, KEYS) is Verdict.VALID
    bench.party.tell_outcome(Outcome("cs06", dated(7, UTC).hex()), cause, VERSION, 0)
    alert = fm.decode_cs06_alert(bench.waiting()[1].payload)
    assert alert.outcome == expected
    assert alert.alert_code == (0x8F67 if cause else 0x8F66)


def test_the_pending_date_survives_a_restart_and_is_handed_over_when_the_time_is_certain(
    bench: Bench,
) -> None:
    octets = dated(1, UTC + 60)
    bench.receive(octets)
    bench.utc = None
    assert [note.name for note in bench.start()] == ["activation_pending"]
    # Nothing to wake for before the time is known.
    assert (bench.party.timer(0), bench.party.wake_at) == ([], None)
    bench.utc = UTC
    assert bench.party.timer(5_000) == []
    assert bench.party.wake_at == 65_000
    bench.utc = UTC + 60
    (commanded,) = bench.party.timer(65_000)
    assert isinstance(commanded, ActivationCommanded)
    assert commanded.outcome == Outcome("cs06", octets.hex())
    bench.storage.commit()
    assert bench.start() == []


def test_a_lost_date_is_told_and_no_dead_end(bench: Bench) -> None:
    bench.receive(dated(1, UTC + 60))
    storage = MemoryStorage(bench.medium)
    party = GbcsParty(
        bench.settings,
        storage,
        KEYS,
        bench.outbox,
        Times(lambda _: UTC, lambda _: UTC),
        bench.send,
    )
    storage.records.lost.update(("activation/schedule", "activation/schedule~"))
    assert [note.name for note in party.start()] == ["record_lost"]
    assert party.schedule.report() is None
    party.receive(dated(2, UTC + 90), VERSION, 0)
    assert party.schedule.report() is not None


def test_the_oldest_of_a_hundred_entries_makes_room() -> None:
    storage = MemoryStorage(Medium(4096))
    logs = Logs(storage.records)
    for number in range(ENTRIES_MAX + 5):
        logs.add(Log.EVENT, 0x8154, f"entry {number}", UTC, number * 60_000)
    entries = Logs(storage.records).entries(Log.EVENT)
    assert len(entries) == ENTRIES_MAX
    assert [entries[0]["text"], entries[-1]["text"]] == ["entry 5", "entry 104"]
    assert logs.entries(Log.SECURITY) == []


def test_a_flood_of_entries_is_told_of_and_not_stored_beyond_the_minute_s_share() -> None:
    storage = MemoryStorage(Medium(4096))
    logs = Logs(storage.records)
    notes = [logs.add(Log.SECURITY, 0x8F53, "forged", UTC, 0) for _ in range(1000)]
    assert len(notes) == 1000
    assert len(logs.entries(Log.SECURITY)) == ENTRIES_PER_MINUTE
    logs.add(Log.SECURITY, 0x8F53, "later", UTC, 60_000)
    assert logs.entries(Log.SECURITY)[-1]["text"] == "later"


def test_a_rotten_entry_says_so_and_the_others_are_read() -> None:
    storage = MemoryStorage(Medium(4096))
    logs = Logs(storage.records)
    for number in range(3):
        logs.add(Log.SECURITY, 0x8F53, str(number), UTC, 0)
    storage.records.lost.add("log/security/00000002")
    texts = [str(entry["text"]) for entry in logs.entries(Log.SECURITY)]
    assert (texts[0], texts[2]) == ("0", "2")
    assert "checksum" in texts[1]


# --- a message in blocks --------------------------------------------------------------------------


def blocks_of(octets: bytes, size: int = 60) -> list[bytes]:
    series = gbt.Series.of(decode_message(octets).header)
    return [gbt.encode_block(block) for block in gbt.split(octets, series, size)]


def test_a_command_in_blocks_is_acknowledged_block_by_block_and_taken_when_whole(
    bench: Bench,
) -> None:
    first, *rest, last = blocks_of(dated(1, UTC + 60))
    for octets in (first, *rest, first):
        bench.receive(octets)
        assert bench.party.schedule.report() is None
    bench.receive(last)
    assert bench.party.schedule.report() is not None
    numbers = [gbt.decode_block(octets).acknowledged for octets in bench.sent]
    assert numbers == [1, 2, 3, 1, 4]
    assert [m.header.message_code for m in bench.waiting()] == [fm.CS06_ACTIVATE_FIRMWARE]


def test_a_series_that_lacks_a_block_gives_way_to_the_next_message(bench: Bench) -> None:
    for octets in blocks_of(dated(1, UTC + 60))[:-1]:
        bench.receive(octets)
    assert bench.codes() == []
    for octets in blocks_of(dated(2, UTC + 90)):
        bench.receive(octets)
    assert bench.party.schedule.report() is not None
    assert len(bench.waiting()) == 1


def test_blocks_that_contradict_each_other_are_dropped_whole_and_logged(bench: Bench) -> None:
    good = blocks_of(dated(1, UTC + 60))
    spoilt = gbt.decode_block(good[0])
    bench.receive(good[0])
    bench.receive(gbt.encode_block(replace(spoilt, data=bytes(len(spoilt.data)))))
    assert bench.codes() == ["8F1E"]
    for octets in good[1:]:
        bench.receive(octets)
    assert bench.party.schedule.report() is None
    assert bench.waiting() == []
