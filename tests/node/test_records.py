"""Rows that are kept twice: one that rots costs nothing, two are a loss and never a guess."""

from __future__ import annotations

import pytest
from ota_bench import DictRecords

from firmware_node.errors import RecordLostError
from firmware_node.node.records import (
    decode,
    delete_twice,
    encode,
    get_twice,
    keys_twice,
    put_twice,
)

BOTH = {"a": b"value", "a~": b"value"}


def test_a_value_is_written_under_both_keys() -> None:
    records = DictRecords()
    put_twice(records, "a", b"value")
    assert records.rows == BOTH
    assert get_twice(records, "a") == b"value"
    assert records.rows == BOTH


@pytest.mark.parametrize("key", ["a", "a~"])
@pytest.mark.parametrize("how", ["lost", "absent"])
def test_one_row_is_enough_and_the_other_is_mended(key: str, how: str) -> None:
    records = DictRecords()
    put_twice(records, "a", b"value")
    if how == "lost":
        records.rows[key] = b"rotten"
        records.lost.add(key)
    else:
        del records.rows[key]
    assert get_twice(records, "a") == b"value"
    assert records.rows == BOTH
    assert records.lost == set()


@pytest.mark.parametrize("how", ["lost", "absent"])
def test_without_either_row_the_value_is_lost_and_nothing_is_written(how: str) -> None:
    records = DictRecords()
    if how == "lost":
        put_twice(records, "a", b"value")
        records.lost = {"a", "a~"}
    before = dict(records.rows)
    with pytest.raises(RecordLostError, match="record a: both"):
        get_twice(records, "a")
    assert records.rows == before


def test_an_empty_value_is_a_value() -> None:
    records = DictRecords()
    put_twice(records, "a", b"")
    del records.rows["a"]
    assert get_twice(records, "a") == b""
    assert records.rows == {"a": b"", "a~": b""}


def test_deleting_removes_both_rows_and_an_absent_pair_is_no_error() -> None:
    records = DictRecords()
    put_twice(records, "a", b"value")
    put_twice(records, "b", b"value")
    delete_twice(records, "a")
    delete_twice(records, "a")
    assert records.rows == {"b": b"value", "b~": b"value"}


def test_keys_are_named_once_and_in_order_though_a_row_is_missing() -> None:
    records = DictRecords()
    for key in ("x/2", "x/10", "x/1", "y/1"):
        put_twice(records, key, b"value")
    del records.rows["x/1"], records.rows["x/10~"]
    assert keys_twice(records, "x/") == ["x/1", "x/10", "x/2"]


def test_fields_come_back_and_their_octets_do_not_depend_on_their_order() -> None:
    fields = {"b": [1, None, True], "a": {"d": "ü", "c": 2**40}}
    octets = encode(fields)
    assert decode(octets) == fields
    assert octets == encode({"a": {"c": 2**40, "d": "ü"}, "b": [1, None, True]})
    assert octets == b'{"a":{"c":1099511627776,"d":"\\u00fc"},"b":[1,null,true]}'


def test_what_is_no_object_is_our_own_fault() -> None:
    with pytest.raises(AssertionError):
        decode(b"[1]")
