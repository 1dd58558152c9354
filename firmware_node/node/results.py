"""How the last upgrade ended, for people; nothing is decided by it, so a lost row reads as nothing.

Source: contract, ``status --json`` (``state``, ``last_failure``).
"""

from __future__ import annotations

from firmware_node.boundary import Records
from firmware_node.errors import RecordLostError
from firmware_node.node.records import decode, encode
from firmware_node.terms import DeviceState
from firmware_node.wire import zcl

_RESULT = "device/result"
_LAST_FAILURE = "device/last_failure"


class Results:
    """A word of state, and the last failure."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def set(self, state: DeviceState) -> None:
        """How it ended."""
        self._records.put(_RESULT, state.value.encode())

    def clear(self) -> None:
        """Something new has begun."""
        self._records.delete(_RESULT)

    def failed(self, phase: str, cause: str, at: int | None) -> None:
        """``at``: seconds since 2000-01-01, None while the time is not known."""
        self._records.put(_LAST_FAILURE, encode({"phase": phase, "cause": cause, "utc": at}))
        self.set(DeviceState.FAILED)

    def state(self) -> DeviceState:
        """What the device is when nothing is under way."""
        stored = self._get(_RESULT)
        return DeviceState.IDLE if stored is None else DeviceState(stored.decode())

    def last_failure(self) -> dict[str, object] | None:
        """``{phase, cause, at}``."""
        stored = self._get(_LAST_FAILURE)
        if stored is None:
            return None
        fields = decode(stored)
        utc = fields.pop("utc")
        return fields | {"at": None if utc is None else zcl.utc_text(utc)}

    def _get(self, key: str) -> bytes | None:
        try:
            return self._records.get(key)
        except RecordLostError:
            return None
