"""Counters never repeat and never go back, whatever is cut or lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_node.boundary import RatchetValues
from firmware_node.errors import RecordLostError, RefusedError
from firmware_node.node.counters import RESERVE, Counters
from firmware_node.node.records import put_twice
from firmware_node.rig.memory_storage import Medium, MemoryStorage, PowerCut
from firmware_node.terms import Role

OWN = ("counter/own", "counter/own~")
ACB = ("counter/received/004", "counter/received/004~")


class Bench:
    """Counters of a device, life after life."""

    def __init__(self) -> None:
        self.medium = Medium(4096)
        self._new_life()
        for key, value in Counters.first_rows().items():
            put_twice(self.records, key, value)
        self.commit()
        self.start()

    def _new_life(self, *lost: str) -> None:
        self.storage = MemoryStorage(self.medium)
        self.records = self.storage.records
        self.records.lost.update(lost)
        self.counters = Counters(self.records, self.storage.ratchet)

    def start(self, *lost: str) -> Bench:
        """The next life; these rows have wrong checksums."""
        self._new_life(*lost)
        self.storage.ratchet.raise_now(RatchetValues(rollback_floor=1))  # as the banks do
        self.counters.start()
        return self

    def commit(self) -> Bench:
        self.storage.commit()
        return self

    def ceilings(self) -> tuple[int, int]:
        """What record and ratchet hold durably."""
        assert self.medium.ratchet is not None
        return int(self.medium.records["counter/own"]), self.medium.ratchet.counter_ceiling

    def received(self, role: Role) -> int:
        return int(self.medium.records[f"counter/received/{role.value:03d}"])


# --- own ------------------------------------------------------------------------------------------


def test_the_first_counter_is_one_and_each_is_one_more() -> None:
    bench = Bench()
    assert [bench.counters.take() for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_reservation_is_durable_before_its_first_use() -> None:
    bench = Bench()
    assert bench.ceilings() == (0, 0)
    first = bench.counters.take()
    assert bench.ceilings() == (0, first + RESERVE)  # the record comes with the commit
    assert bench.commit().ceilings() == (first + RESERVE, first + RESERVE)


def test_one_reservation_serves_a_thousand_and_the_next_is_made_in_time() -> None:
    bench = Bench()
    syncs = bench.medium.syncs
    taken = []
    for _ in range(2 * RESERVE + 1):
        taken.append(bench.counters.take())
        assert bench.medium.ratchet is not None
        assert taken[-1] < bench.medium.ratchet.counter_ceiling
    assert bench.medium.syncs == syncs + 3
    assert taken == list(range(1, 2 * RESERVE + 2))


def test_a_restart_goes_on_at_the_ceiling() -> None:
    bench = Bench()
    bench.counters.take()
    bench.commit()
    assert bench.start().counters.take() == 1 + RESERVE


def test_a_restart_before_the_commit_goes_on_at_the_ceiling_of_the_ratchet() -> None:
    bench = Bench()
    bench.counters.take()
    assert bench.start().counters.take() == 1 + RESERVE
    assert bench.commit().ceilings() == (1 + 2 * RESERVE, 1 + 2 * RESERVE)


def test_when_the_supply_goes_in_a_reservation_no_counter_was_used() -> None:
    bench = Bench()
    bench.medium.cut_at = bench.medium.calls + 1
    with pytest.raises(PowerCut):
        bench.counters.take()
    assert bench.ceilings() == (0, 0)
    bench.medium.power_cycle()
    assert bench.start().counters.take() == 1


@pytest.mark.parametrize(("record", "ratchet"), [(5_000, 1_000), (1_000, 5_000)])
def test_the_higher_of_both_homes_counts(record: int, ratchet: int) -> None:
    bench = Bench()
    bench.medium.records |= dict.fromkeys(OWN, b"%d" % record)
    bench.medium.ratchet = RatchetValues(counter_ceiling=ratchet)
    assert bench.start().counters.take() == 5_000


def test_a_ceiling_that_is_lost_in_one_home_comes_from_the_other() -> None:
    bench = Bench()
    bench.counters.take()
    bench.commit()
    assert bench.start(*OWN).counters.take() == 1 + RESERVE
    bench.commit().medium.ratchet = None
    assert bench.start().counters.take() == 1 + 2 * RESERVE


@pytest.mark.parametrize("lost", OWN)
def test_one_lost_row_is_mended(lost: str) -> None:
    bench = Bench()
    bench.counters.take()
    bench.commit().start(lost)
    assert bench.records.lost == set()
    assert bench.counters.take() == 1 + RESERVE


def test_lost_in_both_homes_it_is_not_begun_again_at_zero() -> None:
    bench = Bench()
    bench.counters.take()
    bench.commit().medium.ratchet = None
    with pytest.raises(RecordLostError, match="both unreadable"):
        bench.start(*OWN)
    assert bench.commit().medium.ratchet is None
    assert bench.medium.records["counter/own"] == b"1001"  # as it was, and still not believed


STORIES = st.lists(
    st.sampled_from(["take", "commit", "cut", "restart", "lose record", "lose ratchet"])
)


@settings(deadline=None)
@given(STORIES)
def test_no_counter_ever_leaves_twice_or_out_of_turn(story: list[str]) -> None:
    bench = Bench()
    taken: list[int] = []  # and not committed: an effect leaves after its commit
    sent: list[int] = []
    for event in [*story, "take", "commit", "take", "commit"]:
        try:
            match event:
                case "take":
                    taken.append(bench.counters.take())
                case "commit":
                    bench.commit()
                    sent, taken = sent + taken, []
                case "cut":
                    bench.medium.cut_at = bench.medium.calls + 1
                case "lose record" if bench.medium.ratchet is not None:
                    taken = []
                    bench.start(*OWN)
                case "lose ratchet":
                    taken, bench.medium.ratchet = [], None
                    bench.start()
                case _:
                    taken = []
                    bench.start()
        except PowerCut:
            bench.medium.power_cycle()
            taken = []
            bench.start()
    assert sent == sorted(set(sent)) and sent[0] > 0


# --- received -------------------------------------------------------------------------------------


@pytest.mark.parametrize("counter", [0, 41, 42])
def test_a_counter_that_is_not_above_the_last_one_is_a_replay(counter: int) -> None:
    bench = Bench()
    bench.counters.accept_received(Role.ACCESS_CONTROL_BROKER, 42)
    bench.commit()
    before = dict(bench.medium.records)
    with pytest.raises(RefusedError) as refused:
        bench.counters.check_received(Role.ACCESS_CONTROL_BROKER, counter)
    assert (refused.value.code, refused.value.cause) == (0x8F60, "replay")
    assert bench.commit().medium.records == before


def test_a_check_changes_nothing_and_an_acceptance_is_kept() -> None:
    bench = Bench()
    bench.counters.check_received(Role.SUPPLIER, 7)
    bench.counters.check_received(Role.SUPPLIER, 7)
    assert bench.commit().received(Role.SUPPLIER) == 0
    bench.counters.accept_received(Role.SUPPLIER, 7)
    bench.commit().start()
    with pytest.raises(RefusedError):
        bench.counters.check_received(Role.SUPPLIER, 7)
    bench.counters.check_received(Role.SUPPLIER, 8)
    assert bench.received(Role.SUPPLIER) == 7


def test_an_acceptance_whose_step_was_not_committed_never_was() -> None:
    bench = Bench()
    bench.counters.accept_received(Role.SUPPLIER, 7)
    bench.start().counters.check_received(Role.SUPPLIER, 7)
    assert bench.received(Role.SUPPLIER) == 0


def test_each_role_has_a_counter_of_its_own() -> None:
    bench = Bench()
    for role in Role:
        bench.counters.accept_received(role, 10 + role.value)
    bench.commit().start()
    for role in Role:
        with pytest.raises(RefusedError):
            bench.counters.check_received(role, 10 + role.value)
        bench.counters.check_received(role, 11 + role.value)
        assert bench.received(role) == 10 + role.value


def test_a_lost_received_counter_accepts_nothing() -> None:
    bench = Bench().start(*ACB)
    with pytest.raises(RecordLostError):
        bench.counters.check_received(Role.ACCESS_CONTROL_BROKER, 2**62)
    bench.counters.check_received(Role.SUPPLIER, 1)
    assert set(ACB) <= bench.records.lost


def test_a_received_counter_without_rows_accepts_nothing() -> None:
    bench = Bench()
    for key in ACB:
        del bench.medium.records[key]
    with pytest.raises(RecordLostError):
        bench.start().counters.check_received(Role.ACCESS_CONTROL_BROKER, 5)
    assert not set(ACB) & bench.commit().medium.records.keys()


# --- what is told ---------------------------------------------------------------------------------


def test_first_rows_are_all_there_is() -> None:
    rows = Counters.first_rows()
    assert set(rows.values()) == {b"0"}
    assert len(rows) == 1 + len(Role)


def test_the_report_tells_what_is_stored_and_what_is_lost() -> None:
    bench = Bench()
    bench.counters.take()
    bench.counters.accept_received(Role.SUPPLIER, 9)
    bench.commit()
    report = bench.start(*ACB).counters.report()
    assert report == {
        "own_ceiling": 1 + RESERVE,
        "root": 0,
        "recovery": 0,
        "supplier": 9,
        "network_operator": 0,
        "access_control_broker": None,
        "transitional_cos": 0,
        "wan_provider": 0,
        "issuing_authority": 0,
        "load_controller": 0,
        "other": 0,
    }
