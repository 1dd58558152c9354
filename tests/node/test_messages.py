"""The checks on a command: each refuses with its code, in the order of supplement 1.2."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from home import ACB, KEYS, SETTINGS, SUPPLIER
from ota_bench import DictRecords

from firmware_node.boundary import RatchetValues
from firmware_node.errors import RecordLostError, RefusedError
from firmware_node.node.counters import Counters
from firmware_node.node.messages import ActivateCommand, Messages, ReadVersionCommand
from firmware_node.node.records import put_twice
from firmware_node.sealing import seal_critical, seal_maced
from firmware_node.terms import DeviceType, EntityId
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader

HCALCS = EntityId.parse("00-DB-12-34-56-78-90-A5")
STRANGER = EntityId.parse("90-B3-D5-1F-30-0F-0F-0F")
HEADER = GroupingHeader(Cra.COMMAND, 1000, SUPPLIER, HCALCS, fm.CS06_ACTIVATE_FIRMWARE)

# Step of the order: the fault, the security-log code and cause that it is refused with.
STEPS = {
    1: ("form", 0x8F1E, "malformed"),
    2: ("recipient", 0x8F53, "wrong_recipient"),
    3: ("use_case", 0x8F1E, "unknown_use_case"),
    4: ("originator", 0x8F53, "unknown_originator"),
    5: ("role", 0x8F30, "role_lacks_authority"),
    6: ("counter", 0x8F60, "replay"),
    7: ("mac", 0x8F53, "mac_wrong"),
    8: ("signature", 0x8F53, "signature_wrong"),
    9: ("payload", 0x8F1E, "payload_counter_differs"),
}


class NoRatchet:
    def read(self) -> RatchetValues:
        raise RecordLostError("ratchet")

    def raise_now(self, values: RatchetValues) -> None:
        raise AssertionError("no own counter is taken here")

    def raise_after_commit(self, values: RatchetValues) -> None:
        raise AssertionError("no floor is raised here")


@pytest.fixture
def records() -> DictRecords:
    made = DictRecords()
    for key, value in Counters.first_rows().items():
        put_twice(made, key, value)
    return made


@pytest.fixture
def messages(records: DictRecords) -> Messages:
    return made_for(DeviceType.HCALCS, HCALCS, records)


def made_for(kind: DeviceType, entity_id: EntityId, records: DictRecords) -> Messages:
    settings = replace(SETTINGS, type=kind, entity_id=entity_id)
    return Messages(settings, KEYS, Counters(records, NoRatchet()))


def command(*faults: str) -> bytes:
    """A CS06 command with these faults and, as far as they allow, good in all else."""
    header = HEADER
    if "recipient" in faults:
        header = replace(header, recipient=EntityId.parse("00-DB-12-34-56-78-90-A1"))
    if "use_case" in faults:
        header = replace(header, message_code=0x0013)
    if "originator" in faults:
        header = replace(header, originator=STRANGER)
    if "role" in faults:
        header = replace(header, originator=ACB)
    if "counter" in faults:
        header = replace(header, originator_counter=10)
    counter = header.originator_counter + ("payload" in faults)
    payload = fm.encode_cs06_command(fm.ActivateFirmware(bytes(32), counter))
    signer = KEYS.signing_key(HCALCS if "signature" in faults else SUPPLIER)
    octets = seal_critical(header, payload, signer, KEYS, ACB, header.recipient)
    if "mac" in faults:
        octets = octets[:-1] + bytes((octets[-1] ^ 1,))
    return octets[:-1] if "form" in faults else octets


def refusal(messages: Messages, octets: bytes) -> tuple[int, str]:
    with pytest.raises(RefusedError) as refused:
        messages.check(octets)
    return refused.value.code, refused.value.cause


def test_a_good_command_passes_and_nothing_moves_before_it_is_accepted(
    messages: Messages, records: DictRecords
) -> None:
    before = dict(records.rows)
    checked = messages.check(command())
    assert isinstance(checked, ActivateCommand)
    assert checked.octets == command()
    assert records.rows == before
    messages.accept(checked)
    assert refusal(messages, command())[1] == "replay"


@pytest.mark.parametrize("step", STEPS)
def test_each_step_refuses_with_its_code_and_keeps_the_counters(
    step: int, messages: Messages, records: DictRecords
) -> None:
    fault, code, cause = STEPS[step]
    messages.accept(messages.check(command("counter")))  # 10 is held from now on
    before = dict(records.rows)
    assert refusal(messages, command(fault)) == (code, cause)
    assert records.rows == before


# A role that lacks authority is known; a message is of one originator.
PAIRS = [pair for pair in combinations(STEPS, 2) if pair != (4, 5)]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_earlier_of_two_faults_is_the_one_that_counts(
    first: int, second: int, messages: Messages
) -> None:
    messages.accept(messages.check(command("counter")))
    octets = command(STEPS[first][0], STEPS[second][0])
    assert refusal(messages, octets) == STEPS[first][1:]


def test_counters_are_kept_for_each_role_alone(records: DictRecords) -> None:
    messages = made_for(DeviceType.HCALCS, HCALCS, records)
    messages.accept(messages.check(command()))
    header = replace(
        HEADER, originator=ACB, originator_counter=5, message_code=fm.CS08_READ_VERSION
    )
    read = seal_maced(header, fm.encode_cs08_command(), KEYS, ACB, HCALCS)
    checked = messages.check(read)
    assert isinstance(checked, ReadVersionCommand)
    messages.accept(checked)
    assert refusal(messages, read)[1] == "replay"
    assert refusal(messages, command())[1] == "replay"


def test_the_highest_counter_is_accepted_and_ends_the_series(messages: Messages) -> None:
    """Unsigned 64-bit in the header; a payload that repeats it ends at 2^63 - 1."""
    header = replace(
        HEADER, originator=ACB, originator_counter=2**64 - 1, message_code=fm.CS08_READ_VERSION
    )
    octets = seal_maced(header, fm.encode_cs08_command(), KEYS, ACB, HCALCS)
    messages.accept(messages.check(octets))
    assert refusal(messages, octets)[1] == "replay"


def test_a_signature_where_none_belongs_is_refused(messages: Messages) -> None:
    header = replace(HEADER, originator=ACB, message_code=fm.CS08_READ_VERSION)
    payload = fm.encode_cs08_command()
    octets = seal_critical(header, payload, KEYS.signing_key(ACB), KEYS, ACB, HCALCS)
    assert refusal(messages, octets) == (0x8F53, "signature_unexpected")


@pytest.mark.parametrize(
    ("kind", "knows"),
    [
        (DeviceType.PPMID, {"CS08"}),
        (DeviceType.HCALCS, {"CS06", "CS08"}),
        (DeviceType.ESME, {"CS06"}),
        (DeviceType.GSME, {"CS06"}),
    ],
)
def test_each_device_type_knows_its_use_cases_alone(
    kind: DeviceType, knows: set[str], records: DictRecords
) -> None:
    messages = made_for(kind, HCALCS, records)
    header = replace(HEADER, originator=ACB, message_code=fm.CS08_READ_VERSION)
    sent = {
        "CS06": command(),
        "CS08": seal_maced(header, fm.encode_cs08_command(), KEYS, ACB, HCALCS),
    }
    for name, octets in sent.items():
        if name in knows:
            messages.check(octets)
        else:
            assert refusal(messages, octets) == (0x8F1E, "unknown_use_case")


def test_lost_counters_accept_nothing(messages: Messages, records: DictRecords) -> None:
    for key in records.keys("counter/received/"):
        records.lost.add(key)
    with pytest.raises(RecordLostError):
        messages.check(command())
