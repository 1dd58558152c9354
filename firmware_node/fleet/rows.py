"""What is known of each member: a fold of events, and the rules of what ends an upgrade.

The head end's view decides, as it does for a DCC: an upgrade is done or failed by what came up
from hub and device as GBCS messages whose signatures hold, by what the hub says of an offer, or by
a time that ran out. What a device tells locally moves its phase, and gives a failure its cause.

    a PPMID is done              by CS09: result success, the version that was offered
    an HCALCS is done            by the CS06 response to an activation at once, or the alert that
                                 follows one at a time: outcome success, that version
    one never to be activated    by its receipt alert 8F72
    failed are they              by CCS08 with a failure, receipt 8F1C, CS09 or CS06 with a failure,
                                 an order refused, a removal, or ``Rows.end`` (the campaign's)

A message that is badly signed is counted and shown, and decides nothing. Source: gbcs.md 1.3, 1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from firmware_node.fleet.terms import Event, Field, ImageSpec, Plan, Row, Wave
from firmware_node.terms import DeviceType
from firmware_node.wire import firmware_messages as fm

Fields = Mapping[str, Field]
MessageKind = tuple[str, str, str | None, str, str]  # use case, kind, alert code, signature, MAC

MESSAGES_MAX: Final = 32  # that a row keeps in words; the oldest is forgotten
CS09, CS06, RECEIPT = "cs09", "cs06", "receipt"

# Causes in words for people who have a screwdriver in their hand.
CAUSES: Final[Mapping[str, str]] = {
    # the campaign's
    "no_answer_in_time": "nothing more was heard of it in the time it had",
    "switched_off": "it was without supply when its time ran out",
    "removed": "it was removed from the home",
    "campaign_stopped": "the campaign was stopped before it was activated",
    "no_pathway": "no way leads from the version it runs to that of the image",
    # the hub's
    "image_discarded": "the image was found unusable and thrown away",
    "hardware_mismatch": "the image is for another version of the hardware",
    "transfer_failed": "the hub heard nothing from it for too long",
    "image_not_verified": "the image that arrived does not verify",
    "activation_failed": "the activation failed",
    "no_image_held": "it held no image when it was to activate one",
    "hash_mismatch": "the image it held is not the one it was to activate",
    # the device's, while it downloads
    "no_answer": "the hub did not answer its requests for blocks",
    "server_abort": "the hub broke the download off",
    "no_image": "the hub has no image for it any more",
    "other_image": "the hub offered an image of another kind",
    "downgrade": "the image is older than the one that runs",
    "endless_file": "the hub sent more than the image has",
    "block_too_long": "the hub sent more than was asked for",
    "image_too_large": "the image does not fit into a bank",
    "storage_full": "its storage is full",
    # when it verifies what it has
    "readback_differs": "its storage does not hold what was written to it",
    "not_as_offered": "the image is not the one that was offered",
    "image_malformed": "the image is damaged or no image",
    "manifest_malformed": "the image does not say what it is",
    "manufacturer_signature_wrong": "the image is not signed by its manufacturer",
    "manufacturer_signature_absent": "the image carries no signature of its manufacturer",
    "supplier_signature_wrong": "the image is not signed by the supplier",
    "supplier_signature_absent": "the image carries no signature of the supplier",
    "upgrade_pathway": "the image does not go with the version that runs",
    "below_rollback_floor": "the image is older than one that was in use before",
    "image_rejected": "this very image failed on this device before",
    "other_supplier": "the image is signed by another supplier than the command",
    "bank_changed": "the stored image changed since it was verified",
    # when it tries the image
    "self_test": "the new image failed its self-test",
    "start_limit": "the new image crashed, or lost its supply, again and again",
    "trial_limit": "the new image never said that it is well",
    "bank_fault": "the bank with the new image does not verify any more",
}
_CCS08_CAUSES: Final = {
    fm.FIRMWARE_IMAGE_DISCARDED: "image_discarded",
    fm.HARDWARE_VERSION_MISMATCH: "hardware_mismatch",
    fm.FILE_TRANSFER_FAILURE: "transfer_failed",
}
_CS06_CAUSES: Final = {1: "no_image_held", 2: "hash_mismatch"}
_DELIVERY_CAUSES: Final = {
    "discarded": "image_discarded",
    "hardware_mismatch": "hardware_mismatch",
    "transfer_failed": "transfer_failed",
}
# Of ``upgrade_failed``, in the words of phases.
_DEVICE_PHASES: Final = {"download": "downloading", "activation": "activating"}
_OUTCOMES: Final = ("success", "no image held", "another image held", "failure")
_TRANSFERS: Final = ("success", "image discarded", "hardware mismatch", "failure")


def cause_words(cause: str | None) -> str | None:
    """A cause for people; one that has no words of its own is shown as it is."""
    return None if cause is None else CAUSES.get(cause, cause.replace("_", " "))


def is_open(row: Row) -> bool:
    """Whether an offer was made that has no outcome yet."""
    return row.begun_ms is not None and row.ended_ms is None


def phase_of(row: Row) -> str:
    """Where the upgrade is, also of a member whose supply is off."""
    return row.phase_before if row.phase == "off" and row.phase_before else row.phase


class Rows:
    """The rows of a fleet, and what is counted over all of them."""

    def __init__(self, plan: Plan) -> None:
        shape = plan.shape
        self._factory_version = plan.factory_version
        self._rows = [
            Row(member)
            for home in range(shape.first_index, shape.first_index + shape.homes)
            for member in shape.members_of(home)
        ]
        self._changed: set[int] = set()
        self.messages: dict[MessageKind, int] = {}
        self.faults: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def take_changed(self) -> set[int]:
        """The members whose rows changed since this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    def version_of(self, row: Row) -> int:
        """The version that a member runs; one that has not spoken yet is as it was made."""
        return row.version or self._factory_version

    def apply(self, event: Event) -> Row:
        """Fold an event; the row that it changed."""
        self._changed.add(event.member)
        row = self._rows[event.member]
        apply(row, event)
        if event.name == "message":
            kind = message_kind(event.fields)
            self.messages[kind] = self.messages.get(kind, 0) + 1
        elif event.name == "fault":
            what = str(event.fields.get("what", ""))
            self.faults[what] = self.faults.get(what, 0) + 1
        return row

    def offer(self, index: int, wave: Wave, image: ImageSpec, now_ms: int) -> Row:
        """An image is offered to a member: what is known of an earlier one is over."""
        self._changed.add(index)
        row = self._rows[index]
        row.wave, row.image = wave.name, image.name
        row.from_version, row.to_version = self.version_of(row), image.version
        row.finish = CS09
        if row.member.type is not DeviceType.PPMID:
            row.finish = RECEIPT if wave.activate == "never" else CS06
        row.offset = row.total = 0
        row.begun_ms, row.ended_ms = now_ms, None
        row.failed_in = row.cause = row.trouble = None
        row.verified = row.commanded = False
        if row.phase == "off":
            row.phase_before = "offered"
        else:
            row.phase = "offered"
        return row

    def skip(self, index: int, wave: Wave, image: ImageSpec, cause: str) -> Row:
        """A member is in a wave and gets nothing."""
        self._changed.add(index)
        row = self._rows[index]
        row.wave, row.image = wave.name, image.name
        row.from_version, row.to_version = self.version_of(row), image.version
        row.begun_ms = row.ended_ms = row.failed_in = row.trouble = None
        row.cause = cause
        return row

    def end(self, index: int, cause: str, now_ms: int) -> Row:
        """A member's upgrade counts as failed, whatever comes of it."""
        self._changed.add(index)
        row = self._rows[index]
        _fail(row, now_ms, cause, own=True)
        return row


def apply(row: Row, event: Event) -> None:
    """Fold one event into the row of its member."""
    at_ms, _, name, fields = event
    row.last_event, row.last_ms = name, at_ms
    handler = _HANDLERS.get(name)
    if handler is not None:
        handler(row, fields, at_ms)


def message_kind(fields: Fields) -> MessageKind:
    """What a message is counted under."""
    return (
        str(fields.get("use_case", "")),
        str(fields.get("kind", "")),
        _code_text(fields.get("alert_code")),
        str(fields.get("signature", "")),
        str(fields.get("mac", "")),
    )


def kind_words(use_case: str, kind: str, alert_code: str | None) -> str:
    """A kind of message for people."""
    return _KIND_WORDS.get((use_case, kind, alert_code)) or _KIND_WORDS.get(
        (use_case, kind, None), f"{use_case} {kind}"
    )


_KIND_WORDS: Final[Mapping[tuple[str, str, str | None], str]] = {
    ("CCS08", "alert", "8F8A"): "the hub has given a device its image",
    ("CCS08", "alert", "8F89"): "the hub could not give a device its image",
    ("CS09", "alert", None): "a PPMID has activated its image, or tried to",
    ("CS06", "response", None): "an HCALCS answers the command to activate",
    ("CS08", "response", None): "a device tells its firmware version",
    ("firmware distribution receipt alert (GSME)", "alert", "8F72"): (
        "an HCALCS has its image, and it verifies"
    ),
    ("firmware distribution receipt alert (GSME)", "alert", "8F1C"): (
        "an HCALCS has its image, and it does not verify"
    ),
    ("future dated firmware activation alert", "alert", "8F66"): (
        "an HCALCS has activated its image at the time it was given"
    ),
    ("future dated firmware activation alert", "alert", "8F67"): (
        "an HCALCS could not activate its image at the time it was given"
    ),
}


def message_words(fields: Fields) -> str:
    """A GBCS message for people: what it is, what it says, whether it may be believed."""
    code = _code_text(fields.get("alert_code"))
    words = f"{fields.get('use_case')} {fields.get('kind')}" + (f" {code}" if code else "")
    said = _said(fields)
    verdicts = [
        f"{what} {fields.get(what)}"
        for what in ("signature", "mac")
        if fields.get(what) not in (None, "absent")
    ]
    return words + (f": {said}" if said else "") + f" ({', '.join(verdicts) or 'unsigned'})"


def _said(fields: Fields) -> str:
    version = fields.get("firmware_version")
    match fields.get("message_code"):
        case _ if "error" in fields:
            return "cannot be read"
        case fm.CCS08_FIRMWARE_TRANSFER:
            return f"transfer of {version}, {_name(_TRANSFERS, fields.get('response_code'))}"
        case fm.CS09_ACTIVATION_ALERT:
            return f"runs {version}, activation {_name(('success', 'failure'), fields['result'])}"
        case fm.CS06_ACTIVATE_FIRMWARE if "accepted" in fields:
            return "accepted, for later"
        case fm.CS06_ACTIVATE_FIRMWARE | fm.CS06_ALERT:
            return f"runs {version}, {_name(_OUTCOMES, fields.get('response_code'))}"
        case fm.CS08_READ_VERSION:
            return f"runs {version}"
        case fm.RECEIPT_ALERT_DLMS | fm.RECEIPT_ALERT_GBZ:
            good = fields.get("alert_code") == fm.IMAGE_VERIFIED
            return "image verified" if good else "image does not verify"
    return ""


def _name(names: tuple[str, ...], value: Field) -> str:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else f"code {value}"


def _code_text(code: Field) -> str | None:
    return f"{code:04X}" if isinstance(code, int) else None


# --- what each event changes ----------------------------------------------------------------------


def _move(row: Row, phase: str) -> None:
    """Into a phase, unless the upgrade has its outcome already."""
    if row.ended_ms is None:
        row.phase, row.phase_before = phase, ""


def _wake(row: Row) -> None:
    """It has its supply, whatever was told of it."""
    if row.phase in ("off", "starting"):
        row.phase, row.phase_before = row.phase_before or "idle", ""


def _on_joined(row: Row, _: Fields, at_ms: int) -> None:
    row.left = False
    _wake(row)


def _on_left(row: Row, _: Fields, at_ms: int) -> None:
    row.left = True
    if is_open(row):
        _fail(row, at_ms, "removed", own=True)
    else:
        _on_power_off(row, _, at_ms)


def _on_power_off(row: Row, _: Fields, at_ms: int) -> None:
    if row.phase != "off":
        row.phase, row.phase_before = "off", row.phase


def _on_power_on(row: Row, _: Fields, at_ms: int) -> None:
    if row.phase == "off":
        row.phase, row.phase_before = row.phase_before or "starting", ""


def _on_offered(row: Row, fields: Fields, _: int) -> None:
    if row.ended_ms is None:
        row.total, row.trouble = _whole(fields, "total_size", row.total), None


def _on_download(row: Row, fields: Fields, _: int) -> None:
    if row.ended_ms is None:
        row.offset = _whole(fields, "file_offset", row.offset)
        row.total = _whole(fields, "total_size", row.total)
        row.trouble = None
        _move(row, "downloading")


def _on_progress(row: Row, fields: Fields, _: int) -> None:
    if row.ended_ms is None:
        row.offset = _whole(fields, "file_offset", row.offset)
        row.total = _whole(fields, "total_size", row.total)


def _on_retried(row: Row, _: Fields, at_ms: int) -> None:
    row.retries += 1


def _on_verified(row: Row, _: Fields, at_ms: int) -> None:
    if row.ended_ms is None:
        row.offset = row.total
        row.trouble = None
        _move(row, "transferred")


def _on_activating(row: Row, _: Fields, at_ms: int) -> None:
    if phase_of(row) != "trial":
        _move(row, "activating")


def _on_command(row: Row, fields: Fields, _: int) -> None:
    if fields.get("message_code") == f"{fm.CS06_ACTIVATE_FIRMWARE:04X}":
        row.commanded = True


def _on_running(row: Row, fields: Fields, _: int) -> None:
    row.starts += 1
    row.version = _version(fields, row.version)
    _wake(row)
    if fields.get("trial"):
        _move(row, "trial")


def _on_confirmed(row: Row, fields: Fields, _: int) -> None:
    row.version = _version(fields, row.version)
    if row.begun_ms is None:  # nobody waits for a message about it
        _move(row, "idle")


def _on_reverted(row: Row, fields: Fields, _: int) -> None:
    row.version = _version(fields, row.version)
    if row.begun_ms is None:
        _move(row, "idle")
    elif row.ended_ms is None:
        row.trouble = ("trial", str(fields.get("cause")))


def _on_failed(row: Row, fields: Fields, _: int) -> None:
    if row.ended_ms is None:
        phase = str(fields.get("phase"))
        row.trouble = (_DEVICE_PHASES.get(phase, phase), str(fields.get("cause")))


def _on_delivered(row: Row, fields: Fields, at_ms: int) -> None:
    status = str(fields.get("status"))
    if not is_open(row) or fields.get("request_id", row.image) != row.image:
        return  # of a message, or of an offer that is over
    if status == "downloading" and row.phase == "offered":
        row.phase = "downloading"
    elif status == "activating":
        _on_activating(row, fields, at_ms)
    elif status in _DELIVERY_CAUSES:
        _fail(row, at_ms, _DELIVERY_CAUSES[status])


def _on_refused(row: Row, fields: Fields, at_ms: int) -> None:
    verb = fields.get("verb")
    if is_open(row) and verb in ("offer", "activate"):
        cause = str(fields.get("reason"))
        _fail(row, at_ms, cause, own=True, phase="offered" if verb == "offer" else "activating")


def _on_message(row: Row, fields: Fields, at_ms: int) -> None:
    row.messages.append(message_words(fields))
    if len(row.messages) > MESSAGES_MAX:
        del row.messages[0]
    signature, mac = fields.get("signature"), fields.get("mac")
    if "invalid" in (signature, mac) or "valid" not in (signature, mac) or "error" in fields:
        return
    match fields.get("message_code"), fields.get("kind"):
        case fm.CS09_ACTIVATION_ALERT, "alert" if signature == "valid":
            _on_cs09(row, fields, at_ms)
        case fm.CS06_ACTIVATE_FIRMWARE, "response" if "accepted" in fields:
            row.commanded = True
            _on_activating(row, fields, at_ms)
        case (fm.CS06_ACTIVATE_FIRMWARE, "response") | (fm.CS06_ALERT, "alert"):
            _on_outcome(row, fields, at_ms)
        case ((fm.RECEIPT_ALERT_DLMS | fm.RECEIPT_ALERT_GBZ), "alert"):
            _on_receipt(row, fields, at_ms)
        case fm.CCS08_FIRMWARE_TRANSFER, "alert" if signature == "valid":
            _on_transfer(row, fields, at_ms)
        case fm.CS08_READ_VERSION, "response" if fields.get("response_code") == 0:
            row.version = _version(fields, row.version)


def _on_cs09(row: Row, fields: Fields, at_ms: int) -> None:
    row.version = _version(fields, row.version)
    if not is_open(row) or row.finish != CS09:
        return
    if fields.get("result") == 0:
        if row.version == row.to_version:
            _succeed(row, at_ms)
    elif phase_of(row) not in ("offered", "downloading"):  # else it is about an earlier image
        _fail(row, at_ms, "activation_failed")


def _on_outcome(row: Row, fields: Fields, at_ms: int) -> None:
    row.version = _version(fields, row.version)
    if not is_open(row) or row.finish != CS06:
        return
    row.commanded = True
    code = fields.get("response_code")
    if code == 0:
        if row.version == row.to_version:
            _succeed(row, at_ms)
    elif phase_of(row) == "trial" and row.trouble is None:
        pass  # the answer to a command that came twice: the first one is being carried out
    elif phase_of(row) not in ("offered", "downloading"):
        cause = _CS06_CAUSES.get(code, "activation_failed") if isinstance(code, int) else ""
        _fail(row, at_ms, cause, phase="activating")


def _on_receipt(row: Row, fields: Fields, at_ms: int) -> None:
    if not is_open(row):
        return
    if fields.get("alert_code") == fm.IMAGE_VERIFIED:
        row.verified = True
        if phase_of(row) in ("offered", "downloading"):
            _move(row, "transferred")
        if row.finish == RECEIPT:
            _succeed(row, at_ms)
    else:
        _fail(row, at_ms, "image_not_verified", phase="verification")


def _on_transfer(row: Row, fields: Fields, at_ms: int) -> None:
    code = fields.get("response_code")
    cause = _CCS08_CAUSES.get(code) if isinstance(code, int) else None
    version = _version(fields, 0)
    # A hub that could not read the image at all does not know its version.
    is_ours = version == row.to_version or (version == 0 and cause == "image_discarded")
    if cause is not None and is_open(row) and is_ours:
        if phase_of(row) in ("offered", "downloading", "transferred"):
            _fail(row, at_ms, cause)


def _succeed(row: Row, at_ms: int) -> None:
    row.phase, row.phase_before = "done", ""
    row.offset = row.total
    row.ended_ms, row.trouble = at_ms, None


def _fail(row: Row, at_ms: int, cause: str, *, own: bool = False, phase: str | None = None) -> None:
    """It failed; the cause that the device told before is the better one, unless ``own``."""
    where = phase or phase_of(row)
    if row.trouble is not None and not own:
        where, cause = row.trouble
    row.failed_in, row.cause, row.trouble = where, cause, None
    row.phase, row.phase_before = "failed", ""
    row.ended_ms = at_ms


def _whole(fields: Fields, name: str, default: int) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) else default


def _version(fields: Fields, default: int) -> int:
    """A version as eight hexadecimal digits; some events call it so, some firmware version."""
    text = fields.get("firmware_version", fields.get("version"))
    return int(text, 16) if isinstance(text, str) else default


_HANDLERS: Final[Mapping[str, Callable[[Row, Fields, int], None]]] = {
    "joined": _on_joined,
    "left": _on_left,
    "power_off": _on_power_off,
    "power_on": _on_power_on,
    "image_offered": _on_offered,
    "download_started": _on_download,
    "download_kept": _on_progress,
    "download_progress": _on_progress,
    "block_retried": _on_retried,
    "image_verified": _on_verified,
    "activation_scheduled": _on_activating,
    "activation_pending": _on_activating,
    "image_activated": _on_activating,
    "command_accepted": _on_command,
    "image_running": _on_running,
    "image_confirmed": _on_confirmed,
    "image_reverted": _on_reverted,
    "upgrade_failed": _on_failed,
    "delivered": _on_delivered,
    "order_refused": _on_refused,
    "message": _on_message,
}
