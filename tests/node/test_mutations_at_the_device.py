"""Each named bad message at the device: the answer that the table of mutations promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from home import ACB, SETTINGS, SUPPLIER
from ota_bench import DictRecords

from firmware_node.boundary import RatchetValues
from firmware_node.crypto import Keyring
from firmware_node.errors import RecordLostError, RefusedError
from firmware_node.node.counters import Counters
from firmware_node.node.messages import Messages
from firmware_node.node.records import put_twice
from firmware_node.sealing import seal_critical, seal_maced
from firmware_node.terms import DeviceType, EntityId, Role
from firmware_node.tools.gbcs_mutations import mutate
from firmware_node.tools.keys import PARTIES, Party, build_keys
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader

HCALCS = EntityId.parse("00-DB-12-34-56-78-90-A5")
OTHER_SUPPLIER = Party(EntityId.parse("90b3d51f30030000"), Role.SUPPLIER, "OTHERSUPPLIER")
KEYRING = Keyring(build_keys(b"mutations", parties=(*PARTIES, OTHER_SUPPLIER), days=10))
TOO_LATE = 7320 * 86_400  # after 2020-01-11
CS06 = seal_critical(
    GroupingHeader(Cra.COMMAND, 1000, SUPPLIER, HCALCS, fm.CS06_ACTIVATE_FIRMWARE),
    fm.encode_cs06_command(fm.ActivateFirmware(bytes(32), 1000)),
    KEYRING.signing_key(SUPPLIER),
    KEYRING,
    ACB,
    HCALCS,
)
CS08 = seal_maced(
    GroupingHeader(Cra.COMMAND, 1300, ACB, HCALCS, fm.CS08_READ_VERSION),
    fm.encode_cs08_command(),
    KEYRING,
    ACB,
    HCALCS,
)
# Name of the mutation: security-log code and cause, for CS06 and for CS08; None: taken as good.
ANSWERS: dict[str, tuple[tuple[int, str] | None, ...]] = {
    "wrong-mac": ((0x8F53, "mac_wrong"), (0x8F53, "mac_wrong")),
    "wrong-signature": ((0x8F53, "signature_wrong"),),
    "replay": ((0x8F60, "replay"), (0x8F60, "replay")),
    "counter-lower": ((0x8F60, "replay"), (0x8F60, "replay")),
    "counter-max": ((0x8F1E, "payload_counter_differs"), None),
    "payload-counter-differs": ((0x8F1E, "payload_counter_differs"),),
    "wrong-recipient": ((0x8F53, "wrong_recipient"), (0x8F53, "wrong_recipient")),
    "unknown-originator": ((0x8F53, "unknown_originator"), (0x8F53, "unknown_originator")),
    "wrong-role": ((0x8F30, "role_lacks_authority"), (0x8F30, "role_lacks_authority")),
    "other-device-use-case": ((0x8F1E, "unknown_use_case"), (0x8F1E, "unknown_use_case")),
    "wrong-usage-certificate": ((0x8F53, "signature_wrong"), (0x8F53, "mac_wrong")),
    "other-supplier-signature": ((0x8F53, "signature_wrong"),),
    "truncated-der": ((0x8F1E, "payload_malformed"), (0x8F1E, "payload_malformed")),
    "non-minimal-der": ((0x8F1E, "payload_malformed"), (0x8F1E, "payload_malformed")),
    "trailing-bytes": ((0x8F1E, "payload_malformed"), (0x8F1E, "payload_malformed")),
    "giant-length": ((0x8F1E, "malformed"), (0x8F1E, "malformed")),
}


class NoRatchet:
    def read(self) -> RatchetValues:
        raise RecordLostError("ratchet")

    def raise_now(self, values: RatchetValues) -> None:
        raise AssertionError("no own counter is taken here")

    def raise_after_commit(self, values: RatchetValues) -> None:
        raise AssertionError("no floor is raised here")


def device(records: DictRecords, keyring: Keyring = KEYRING) -> Messages:
    for key, value in Counters.first_rows().items():
        put_twice(records, key, value)
    counters = Counters(records, NoRatchet())
    settings = replace(SETTINGS, type=DeviceType.HCALCS, entity_id=HCALCS)
    return Messages(settings, keyring, counters)


@pytest.mark.parametrize(
    ("name", "good", "answer"),
    [
        (name, good, answer)
        for name, answers in ANSWERS.items()
        for good, answer in zip((CS06, CS08), answers, strict=False)
    ],
)
def test_bad_message_is_refused_as_the_table_says_and_the_good_one_is_still_taken(
    name: str, good: bytes, answer: tuple[int, str] | None
) -> None:
    records = DictRecords()
    messages = device(records)
    if name in ("replay", "counter-lower"):  # sent after the good one
        messages.accept(messages.check(good))
    kept = dict(records.rows)
    (bad,) = mutate(good, name, KEYRING)
    if answer is None:
        messages.check(bad)
        return
    with pytest.raises(RefusedError) as refused:
        messages.check(bad)
    assert (refused.value.code, refused.value.cause) == answer
    assert records.rows == kept
    if name not in ("replay", "counter-lower"):
        messages.accept(messages.check(good))


@pytest.mark.parametrize("good", [CS06, CS08])
def test_expired_certificate_is_refused_only_where_validity_is_checked(good: bytes) -> None:
    (expired,) = mutate(good, "expired-certificate", KEYRING, TOO_LATE)
    device(DictRecords()).check(expired)
    with pytest.raises(RefusedError) as refused:
        device(DictRecords(), KEYRING.at(TOO_LATE)).check(expired)
    assert refused.value.code == fm.AUTHENTICATION_FAILURE
