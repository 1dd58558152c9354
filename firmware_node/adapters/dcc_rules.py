"""The rules of the DCC: who may ask for what, with which counter, and what a broken rule costs.

Under ``warn`` a broken rule is told of and the request goes on, as a test rig wants it; under
``require`` the request is refused. What is counted here lives as long as the process.
Source: gbcs.md 1.4, 1.5; the roles are those of the service request table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from firmware_node.config import DccSection
from firmware_node.crypto import Keyring
from firmware_node.terms import EntityId, Role
from firmware_node.tools import duis

REMEMBERED_MAX = 50_000  # as many devices as one request can name; then the oldest is forgotten
_SUPPLIERS_ONLY = (duis.UPDATE_FIRMWARE, duis.ACTIVATE_FIRMWARE, duis.UPDATE_PPMID_FIRMWARE)
K = TypeVar("K")
V = TypeVar("V")


class Ruling:
    """What was found against a request, and whether it is refused for it: the first reason."""

    def __init__(self, section: DccSection) -> None:
        self._rules: Mapping[str, str] = {
            "request_signature": section.request_signature,
            "request_rules": section.request_rules,
        }
        self.warnings: list[str] = []
        self.error: str | None = None
        self.code = ""

    def broken(self, rule: str, reason: str, code: str) -> None:
        """A rule of the configuration is broken: a warning, or the end."""
        if self._rules[rule] == "require":
            self.refuse(f"{reason} (dcc.{rule} requires otherwise)", code)
        else:
            self.warnings.append(reason)

    def refuse(self, reason: str, code: str) -> None:
        """Nothing will be done."""
        if self.error is None:
            self.error, self.code = reason, code


class Rules:
    """See the module."""

    def __init__(self, section: DccSection, keyring: Keyring, broker: EntityId) -> None:
        self._section = section
        self._keyring = keyring
        self._broker = broker
        self._counters: dict[EntityId, int] = {}  # the highest of each user
        # Requests whose signed Pre-Command may follow, with the counter they have already.
        self._transformed: dict[str, None] = {}

    def judge(self, request: duis.ServiceRequest, signature_state: str) -> Ruling:
        """Signature, the User's role, the target, and a counter that rises.

        A refused request moves no counter, or a forger could lock a user out.
        """
        ruling = Ruling(self._section)
        user, reference = request.originator, request.service_reference
        if signature_state != "valid":
            reason = f"request signature: {signature_state}"
            ruling.broken("request_signature", reason, duis.REFUSED)
        role = self._keyring.role(user)
        if reference in _SUPPLIERS_ONLY and role not in (None, Role.SUPPLIER):
            ruling.broken(
                "request_rules",
                f"{user} is no supplier by its certificate, and SR {reference} is a supplier's",
                duis.ROLE_NOT_PERMITTED,
            )
        if not request.to_devices and request.target != self._broker:
            ruling.broken(
                "request_rules",
                f"target {request.target}: SR {reference} goes to {self._broker}",
                duis.REFUSED,
            )
        last = self._counters.get(user)
        follows = request.signed_pre_command is not None
        if follows and request.request_id in self._transformed:
            del self._transformed[request.request_id]
        elif last is not None and request.counter <= last:
            ruling.broken(
                "request_rules",
                f"counter {request.counter} is not above {last}, the last one of {user}",
                duis.REFUSED,
            )
        if ruling.error is None:
            remember(self._counters, user, max(last or 0, request.counter))
        return ruling

    def transformed(self, request_id: str) -> None:
        """The Pre-Command of this request was returned; its signed form may come once."""
        remember(self._transformed, request_id, None)


def remember(kept: dict[K, V], key: K, value: V) -> None:
    """Keep it as the youngest entry; too many, and the oldest is forgotten."""
    kept.pop(key, None)
    while len(kept) >= REMEMBERED_MAX:
        del kept[next(iter(kept))]
    kept[key] = value
