"""CS06 commands a second: parsed, verified, accepted and answered with a signature.

The commands are dated, so that each is carried out and answered at once and nothing is activated.
The floor is the cryptography that one such command cannot do without: a key derivation, a MAC, one
ECDSA verification and one signature. The shared secret is agreed once and kept by both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench_figures import home
from bench_figures.figures import Baseline, Effort, Figure, in_turns, timed
from firmware_node.adapters.storage import FileStorage
from firmware_node.boundary import RatchetValues, Storage
from firmware_node.crypto import Keyring, gmac
from firmware_node.node.counters import Counters
from firmware_node.node.outbox import Outbox
from firmware_node.node.party import GbcsParty, Times
from firmware_node.node.records import put_twice
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.sealing import message_key, seal_critical
from firmware_node.terms import DeviceType, EntityId
from firmware_node.tools.keys import build_keys
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader, decode_message

SUPPLIER = EntityId.parse("90b3d51f30010000")
ACB = EntityId.parse("90b3d51f30000002")
DEVICE = EntityId.parse("00db1234567890a5")
UTC = 800_000_000
COMMANDS = 1000  # in one turn
BATCH = 20  # commands that one commit of durable storage holds


def commands(effort: Effort) -> Iterator[Figure]:
    """``gbcs.cs06.*``."""
    keyring = Keyring(build_keys(b"bench"))
    count = COMMANDS if effort.turns > 1 else BATCH
    turns = effort.turns
    series = [_command(keyring, counter) for counter in range(1, 2 * turns * count + 1)]
    in_memory, on_disk = iter(series[: turns * count]), iter(series[turns * count :])
    with tempfile.TemporaryDirectory() as name:
        durable = FileStorage(Path(name), 64 * 1024)
        memory, files = _party(MemoryStorage(Medium(64 * 1024)), keyring), _party(durable, keyring)

        def batch() -> None:
            for _ in range(BATCH):
                files.take(next(on_disk))
            durable.commit()

        ours, batched, bare = in_turns(
            turns,
            timed(lambda: memory.take(next(in_memory)), count),
            timed(batch, count // BATCH),
            timed(lambda: _bare(keyring, series[0]), count),
        )
        durable.close()
    floor = Baseline("the cryptography of one command alone", 1 / bare)
    yield Figure("gbcs.cs06.per_second", 1 / ours, "commands/s", True, floor)
    per_second = BATCH / batched
    yield Figure("gbcs.cs06_durable.per_second", per_second, "commands/s", True, floor)


class _Device:
    def __init__(self, party: GbcsParty, storage: Storage) -> None:
        self._party = party
        self._storage = storage

    def take(self, octets: bytes) -> None:
        """One command; its answer is taken out of the outbox as if it had been delivered."""
        self._party.receive(octets, 1, 0)
        waiting = self._storage.records.keys("outbox/")
        if len(waiting) != 2:  # each message is kept in two rows
            raise RuntimeError("a command was not answered")
        for key in waiting:
            self._storage.records.delete(key)


def _party(storage: Storage, keyring: Keyring) -> _Device:
    for key, value in Counters.first_rows().items():
        put_twice(storage.records, key, value)
    storage.ratchet.raise_now(RatchetValues(0, 1))
    settings = replace(home.SETTINGS, type=DeviceType.HCALCS, entity_id=DEVICE)
    outbox = Outbox(storage.records, lambda message, tag: None)
    times = Times(lambda _: UTC, lambda _: UTC)
    party = GbcsParty(settings, storage, keyring, outbox, times, lambda message, tag: None)
    party.start()
    return _Device(party, storage)


def _command(keyring: Keyring, counter: int) -> bytes:
    header = GroupingHeader(Cra.COMMAND, counter, SUPPLIER, DEVICE, fm.CS06_ACTIVATE_FIRMWARE)
    payload = fm.encode_cs06_command(fm.ActivateFirmware(bytes(32), counter, UTC + 3600))
    return seal_critical(header, payload, keyring.signing_key(SUPPLIER), keyring, ACB, DEVICE)


def _bare(keyring: Keyring, octets: bytes) -> Sequence[object]:
    message = decode_message(octets)
    secret = keyring.shared_secret(DEVICE, ACB)
    key = message_key(secret, message.header)
    mac = gmac(key, message.header.originator.octets + bytes(4), message.mac_covered)
    valid = keyring.verify_key(SUPPLIER).is_valid(message.signature, message.signed_octets)
    if mac != message.mac or not valid:
        raise RuntimeError("the floor's own message does not verify")
    return mac, keyring.signing_key(DEVICE).sign(message.signed_octets)
