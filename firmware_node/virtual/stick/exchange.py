"""The trust centre link key: how a joiner gets one of its own, and what a trust centre does for it.

In order: the joiner asks the trust centre for its node descriptor, and is done where that names a
stack before revision 21; asks for a key, under the one it joined with; gets it sealed with the
key-load key of that one; proves that it has it; is told so under the new key. Only then does the
key count, on either side. Source: ZigBee specification 4.4.10, base device behaviour 8.2, 10.2.5.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable

from firmware_node.virtual import secure
from firmware_node.virtual.nv import DEFAULT_LINK_KEY, VERIFIED
from firmware_node.virtual.stick.aps import Aps
from firmware_node.virtual.stick.board import SECOND, Board, Timer
from firmware_node.virtual.stick.link import Link
from firmware_node.virtual.stick.zdo import NODE_DESC, Message, Zdo
from firmware_node.wire import aps, mt, nwk
from firmware_node.wire.mt import Cmd

TRUST_CENTRE = 0x0000
ATTEMPTS = 3  # bdbTCLinkKeyExchangeAttemptsMax
STEP_US = 2 * SECOND  # for an answer; bdbcTCLinkKeyExchangeTimeout has 5, for many hops
REQUIRED_US = 15 * SECOND  # bdbTrustCenterNodeJoinTimeout: then a joiner without one must leave
EXCHANGE_REVISION = 21  # of the stack: the first that has the exchange
DONE, FAILED = 0x00, 0x07  # statuses of the commissioning notification


class Exchange:
    """One joiner's exchange at a time; as trust centre, any number."""

    def __init__(self, board: Board, link: Link, aps_layer: Aps, zdo: Zdo) -> None:
        self._board = board
        self._link = link
        self._aps = aps_layer
        self._zdo = zdo
        self._on_done: Callable[[int], None] | None = None
        self._joining_key = DEFAULT_LINK_KEY
        self._new_key: bytes | None = None  # the joiner's, not confirmed yet
        self._attempts = 0
        self._ask: Callable[[], None] = lambda: None
        self._waiting: Timer | None = None
        self._offered: dict[bytes, int] = {}  # by joiners: the shift of a key not proved yet
        self._required = False
        self.on_refused: Callable[[bytes], None] = lambda ieee: None
        aps_layer.command_keys = self._command_keys
        zdo.on_descriptor = self._on_descriptor
        self.handlers: dict[int, Callable[..., bytes | None]] = {
            Cmd.APP_CNF_BDB_SET_REQUIRE_KEY_EXCHANGE: self._set_required,
        }

    def reset(self) -> None:
        """Nothing of it survives but verified keys."""
        self._on_done = self._new_key = self._waiting = None
        self._offered.clear()
        self._required = False

    # --- the joiner -------------------------------------------------------------------------------

    def start(self, joining_key: bytes, on_done: Callable[[int], None]) -> None:
        """Get a key; ``on_done`` is called with the status that commissioning ends with."""
        self._joining_key, self._new_key, self._on_done = joining_key, None, on_done
        self._begin(self._ask_descriptor)

    def cancel(self) -> None:
        """The network is left."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._on_done = self._new_key = self._waiting = None

    def _begin(self, ask: Callable[[], None]) -> None:
        self._ask, self._attempts = ask, 0
        self._try()

    def _try(self) -> None:
        if self._attempts == ATTEMPTS:
            self._end(FAILED)
            return
        self._attempts += 1
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self._board.after(STEP_US, self._try)
        self._ask()

    def _end(self, status: int) -> None:
        on_done = self._on_done
        self.cancel()
        if on_done is not None:
            on_done(status)

    def _ask_descriptor(self) -> None:
        self._zdo.send(TRUST_CENTRE, NODE_DESC, struct.pack("<H", TRUST_CENTRE))

    def _on_descriptor(self, message: Message) -> None:
        asking = self._on_done is not None and self._ask == self._ask_descriptor
        if not asking or message.source != TRUST_CENTRE or len(message.body) != 16:
            return
        (server,) = struct.unpack_from("<H", message.body, 11)
        if server >> 9 < EXCHANGE_REVISION:
            self._end(DONE)
        else:
            self._begin(self._ask_key)

    def _ask_key(self) -> None:
        self._new_key = None
        self._send(aps.encode_request_key(), self._joining_key, secure.LINK)

    def _send(self, command: bytes, key: bytes | None = None, key_id: int = secure.LINK) -> None:
        partner = self._link.neighbours.get(TRUST_CENTRE)
        frame = self._aps.command_frame(command, key, key_id, partner)
        self._link.unicast(TRUST_CENTRE, frame, None)

    def _on_key(self, command: aps.TransportLinkKey) -> None:
        if self._on_done is None or command.destination != self._link.ieee:
            return
        self._new_key = command.key
        self._send(
            aps.encode_verify_key(
                aps.VerifyKey(self._link.ieee, secure.proof_of_key(command.key)),
            )
        )

    def _on_confirm(self, source: int, command: aps.ConfirmKey, key: bytes | None) -> None:
        trust_centre = self._link.neighbours.get(TRUST_CENTRE)
        if self._on_done is None or key is None or key != self._new_key or trust_centre is None:
            return
        if source != TRUST_CENTRE or command.destination != self._link.ieee:
            return
        if command.status:
            self._end(FAILED)
            return
        # Whatever was set with it before belongs to an older membership.
        self._board.nv.forget_link_key(trust_centre)
        self._board.nv.keep_joined_key(trust_centre, key, VERIFIED)
        self._aps.begin_again(trust_centre)
        self._end(DONE)

    # --- both sides -------------------------------------------------------------------------------

    def _command_keys(self, ieee: bytes) -> list[bytes]:
        """What a command of this node may be sealed with; the likeliest first."""
        nv = self._board.nv
        code_key = nv.install_code_key(ieee)
        found = [self._new_key, nv.link_key(ieee), code_key or DEFAULT_LINK_KEY]
        if self._on_done is not None:
            found.append(self._joining_key)
        return list(dict.fromkeys(key for key in found if key is not None))

    def on_command(self, header: nwk.Header, command: bytes, key: bytes | None) -> None:
        """An APS command about trust centre link keys, opened with ``key``."""
        is_centre = self._link.short == TRUST_CENTRE
        match command[:1]:
            case b"\x05" if key is not None and not is_centre:
                self._on_key(aps.decode_transport_link_key(command))
            case b"\x08" if key is not None and is_centre:
                self._on_request(header.source, command, key)
            case b"\x0f" if is_centre:
                self._on_verify(header.source, aps.decode_verify_key(command))
            case b"\x10":
                self._on_confirm(header.source, aps.decode_confirm_key(command), key)
            case _:
                pass

    # --- the trust centre -------------------------------------------------------------------------

    def _on_request(self, source: int, command: bytes, key: bytes) -> None:
        ieee = self._link.neighbours.get(source)
        if ieee is None or command != aps.encode_request_key():
            return
        shift = self._board.random.randrange(16)
        self._offered[ieee] = shift
        new_key = self._board.nv.seeded_key(ieee, shift)
        transport = aps.TransportLinkKey(new_key, ieee, self._link.ieee)
        frame = self._aps.command_frame(
            aps.encode_transport_link_key(transport), key, secure.KEY_LOAD
        )
        self._link.unicast(source, frame, None)

    def _on_verify(self, source: int, command: aps.VerifyKey) -> None:
        nv, ieee = self._board.nv, command.source
        if self._link.neighbours.get(source) != ieee:
            return
        shift = self._offered.pop(ieee, None)
        known = nv.link_key(ieee)
        if shift is not None:
            new_key = nv.seeded_key(ieee, shift)
        elif nv.has_verified_key(ieee) and known is not None:
            new_key = known  # it lost the confirmation
        else:
            self._board.counters["proofs_not_expected"] += 1
            return
        status = aps.SECURITY_FAILURE
        if hmac.compare_digest(command.proof, secure.proof_of_key(new_key)):
            status = 0
            if shift is not None:
                nv.forget_link_key(ieee)
                nv.keep_seeded_key(ieee, shift)
                self._aps.begin_again(ieee)
        confirm = aps.encode_confirm_key(aps.ConfirmKey(status, ieee))
        frame = self._aps.command_frame(confirm, new_key, secure.LINK, ieee)
        self._link.unicast(source, frame, None)

    def expect(self, ieee: bytes) -> None:
        """A joiner got the network key; where exchanges are required it must go through one."""
        self._offered.pop(ieee, None)
        if self._required:
            self._board.after(REQUIRED_US, lambda: self._look_after(ieee))

    def _look_after(self, ieee: bytes) -> None:
        if not self._board.nv.has_verified_key(ieee):
            self._board.counters["joiners_without_key"] += 1
            self.on_refused(ieee)

    def _set_required(self, required: int) -> bytes:
        if required > 1:
            return bytes((mt.Status.INVALID_PARAMETER,))
        self._required = required != 0
        return b"\x00"
