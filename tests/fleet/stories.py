"""Fleets that exist as events alone: what devices and hubs would tell, for tests of the fold."""

from __future__ import annotations

from dataclasses import replace

from firmware_node.fleet.campaign import Campaign, Turn
from firmware_node.fleet.terms import Event, Field, ImageSpec, Order, Plan, Shape, Wave
from firmware_node.terms import DeviceType
from firmware_node.wire import firmware_messages as fm

PPMID_2 = ImageSpec("ppmid-2", DeviceType.PPMID, 2)
PPMID_3 = ImageSpec("ppmid-3", DeviceType.PPMID, 3)
HCALCS_2 = ImageSpec("hcalcs-2", DeviceType.HCALCS, 2)
WAVE = Wave("all", "ppmid-2", timeout_ms=600_000)


def plan_of(
    *waves: Wave,
    homes: int = 10,
    kind: DeviceType = DeviceType.PPMID,
    pathways: tuple[tuple[DeviceType, int, int], ...] = (),
) -> Plan:
    return Plan(
        "story",
        Shape(homes, ((kind, 1),), seed=5),
        images=(PPMID_2, PPMID_3, HCALCS_2),
        waves=waves,
        pathways=pathways,
    )


def told(at_ms: int, member: int, name: str, **fields: Field) -> Event:
    return Event(at_ms, member, name, fields)


def signed(at_ms: int, member: int, code: int, kind: str = "alert", **fields: Field) -> Event:
    """A GBCS message whose signature holds."""
    named: dict[str, Field] = {
        "use_case": "CS09",
        "kind": kind,
        "message_code": code,
        "alert_code": None,
        "signature": "valid",
        "mac": "absent",
    }
    return Event(at_ms, member, "message", named | fields)


def cs09(at_ms: int, member: int, version: int = 2, result: int = 0) -> Event:
    return signed(
        at_ms,
        member,
        fm.CS09_ACTIVATION_ALERT,
        alert_code=fm.PPMID_ACTIVATION,
        firmware_version=f"{version:08x}",
        result=result,
    )


def receipt(at_ms: int, member: int, code: int = fm.IMAGE_VERIFIED) -> Event:
    return signed(at_ms, member, fm.RECEIPT_ALERT_GBZ, alert_code=code)


def cs06(at_ms: int, member: int, version: int = 2, response_code: int = 0) -> Event:
    return signed(
        at_ms,
        member,
        fm.CS06_ACTIVATE_FIRMWARE,
        "response",
        firmware_version=f"{version:08x}",
        response_code=response_code,
    )


def later(at_ms: int, member: int, version: int = 2, response_code: int = 0) -> Event:
    """The alert on an activation at a time."""
    code = fm.FUTURE_DATED_FAILED if response_code else fm.FUTURE_DATED_DONE
    return replace_code(cs06(at_ms, member, version, response_code), fm.CS06_ALERT, code)


def replace_code(event: Event, message_code: int, alert_code: int) -> Event:
    fields = {**event.fields, "message_code": message_code, "alert_code": alert_code}
    return event._replace(fields={**fields, "kind": "alert"})


def ccs08(at_ms: int, member: int, code: int, version: int = 2) -> Event:
    return signed(
        at_ms,
        member,
        fm.CCS08_FIRMWARE_TRANSFER,
        use_case="CCS08",
        alert_code=fm.TRANSFER_FAILURE if code else fm.TRANSFER_SUCCESS,
        firmware_version=f"{version:08x}",
        response_code=code,
    )


class Story:
    """A campaign that was started, and every turn that it had."""

    def __init__(self, plan: Plan, *, start: bool = True) -> None:
        self.plan = plan
        self.campaign = Campaign(plan)
        self.turns: list[Turn] = []
        self.orders: list[Order] = []
        if start:
            self.turn(0, actions=("start",))

    def turn(self, now_ms: int, *events: Event, actions: tuple[str, ...] = ()) -> list[Order]:
        turn = Turn(now_ms, events, actions)
        self.turns.append(turn)
        orders = self.campaign.turn(turn)
        self.orders += orders
        return orders

    def offered(self, orders: list[Order]) -> list[int]:
        return [order.member for order in orders if order.verb == "offer"]


def waves(*names: str, **changes: object) -> tuple[Wave, ...]:
    return tuple(replace(WAVE, name=name, **changes) for name in names)  # type: ignore[arg-type]
