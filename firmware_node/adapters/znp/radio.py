"""The radio of a daemon: a ZNP stick that joins a network, or forms one, and stays on it.

One task looks after the stick: opens the port, gives it role and EUI-64, registers our endpoints,
brings the network up and then waits for something to go wrong. A stick that resets is set up
again; a lost parent is looked for; a port that vanishes is opened again with back-off. What the
daemon's machine hears of it is ``NetworkUp`` and ``NetworkDown``. The network itself is kept by
the stick, in its NV memory. Source: zigbee-znp.md 3.4, 3.5, 4.2, 4.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import zigpy_znp.commands as c
import zigpy_znp.types as t
from serialx import SerialException
from zigpy_znp.commands.af import LatencyReq
from zigpy_znp.commands.app_config import (
    BDBCommissioningMode,
    CentralizedLinkKeyMode,
    InstallCodeFormat,
)
from zigpy_znp.commands.zdo import AddrRequestType
from zigpy_znp.exceptions import CommandNotRecognized, InvalidCommandResponse
from zigpy_znp.types.nvids import OsalNvIds

from firmware_node.adapters.znp.line import Line, errors_of
from firmware_node.boundary import (
    Frame,
    FrameReceived,
    Input,
    NetworkDown,
    NetworkUp,
    PeerAnnounced,
    SendConfirmed,
    SendFrame,
)
from firmware_node.config import RadioSection
from firmware_node.errors import EnvironmentFailure
from firmware_node.terms import EntityId, ShortAddress
from firmware_node.wire import zdo
from firmware_node.wire.mt import Cmd, DeviceState
from firmware_node.wire.zcl import decode_eui64, encode_eui64

STARTUP_S = 60.0  # until a stick that was asked to start has found its network
STEERING_S = 40.0  # until a stick that was asked to join has scanned (zigbee-znp.md 3.4)
RETRY_FIRST_S, RETRY_LAST_S = 0.5, 60.0  # between two attempts to join or to rejoin
REOPEN_FIRST_S, REOPEN_LAST_S = 0.1, 5.0  # between two attempts to open the port
PING_S = 10.0  # a silent stick is asked whether it is there
PERMIT_S = 254  # the longest window that ends by itself; opened again before it does
IDENTIFY_S = 10.0  # until the answer to IEEE_addr_req is missed
HELD_MAX = 32  # frames of a device whose EUI-64 is being asked for
ALL_CLUSTERS = 0xFFFF
DIRECT_CALLBACKS = b"\x01"
CLUSTER_EDGE = 0x8000  # ZDO responses have this bit

_ROLES = {
    "coordinator": (t.DeviceLogicalType.Coordinator, DeviceState.COORDINATOR),
    "router": (t.DeviceLogicalType.Router, DeviceState.ROUTER),
    "end-device": (t.DeviceLogicalType.EndDevice, DeviceState.END_DEVICE),
}
# Of a Device_annce: mains, receiver on when idle (zigbee-znp.md 4.2).
_CAPABILITIES = {DeviceState.END_DEVICE: 0x88, DeviceState.ROUTER: 0x8E}
_STEERED, _STEER_BUSY = 0x00, 0x01  # of a commissioning notification
# What the library lets through of ports and loops, and its own words for a stick's refusal.
_FAILURES = (OSError, TimeoutError, RuntimeError, LookupError, ValueError, SerialException)
_REFUSALS = (CommandNotRecognized, InvalidCommandResponse)
_log = logging.getLogger(__name__)


class _LostError(Exception):
    """The stick or its port is gone; says how."""


class ZnpRadio:
    """What ``AirClient`` and ``AirServer`` are to a daemon, on a stick.

    Args:
        role: ``coordinator``, ``router`` or ``end-device``.
        endpoints: what is registered; the numbers are the machine's.
        failed: called with what ends the process, when the stick stays away.
    """

    def __init__(
        self,
        settings: RadioSection,
        role: str,
        entity_id: EntityId,
        endpoints: Sequence[zdo.Endpoint],
        deliver: Callable[[Input], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        assert settings.path is not None
        self._settings = settings
        self._path = settings.path
        self._role = role
        self._logical_type, self._target = _ROLES[role]
        self._entity_id = entity_id
        self._endpoints = endpoints
        self._deliver = deliver
        self._failed = failed
        self._line: Line | None = None
        self._events: asyncio.Queue[tuple[int, tuple[Any, ...]] | _LostError] = asyncio.Queue()
        self._is_up = False
        self._fault: str | None = None
        self._known: set[ShortAddress] = set()
        self._held: dict[ShortAddress, list[Frame]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what a daemon calls ----------------------------------------------------------------------

    async def open(self) -> None:
        """Open the port and hear the stick answer.

        Raises:
            EnvironmentFailure: no port, no permission, or no ZNP stick on it.
        """
        self._line = await self._connect()

    async def run(self) -> None:
        """Keep the stick on its network until cancelled.

        A stick that stays away for ``give_up_s`` is told to ``failed`` as an EnvironmentFailure.
        """
        delay, loop = REOPEN_FIRST_S, asyncio.get_running_loop()
        gone_since = loop.time()
        while True:
            try:
                if self._line is None:
                    self._line = await self._connect()
                    self._fault = None
                    _log.warning("radio %s is back", self._path)
                delay = REOPEN_FIRST_S
                await self._serve(self._line)
            except (_LostError, EnvironmentFailure) as error:
                self._fault = str(error).removeprefix(f"{self._path}: ")
                if self._line is not None:
                    _log.warning("radio %s: %s", self._path, error)
                    gone_since = loop.time()
                await self._drop()
                away_s = loop.time() - gone_since
                if self._settings.give_up_s and away_s >= self._settings.give_up_s:
                    self._failed(EnvironmentFailure(f"{self._path}: gone for {away_s:.0f} s"))
                    return
            await asyncio.sleep(delay)
            delay = min(2 * delay, REOPEN_LAST_S)

    def send(self, effect: SendFrame) -> None:
        """To the air; leaves with ``flush``. Without a network a tag is not delivered."""
        if self._line is not None and self._is_up:
            self._line.send(effect)
        elif effect.tag:
            self._deliver(SendConfirmed(effect.tag, delivered=False))

    def flush(self) -> None:
        """Write what was sent."""
        if self._line is not None:
            self._line.flush()

    def report(self) -> dict[str, object]:
        """See ``radios.Radio``."""
        return {"type": "znp", "path": self._path, "fault": self._fault}

    def close(self) -> None:
        """Let go of the port. The stick stays on its network."""
        for task in self._tasks:
            task.cancel()
        if self._line is not None:
            self._line.on_confirm = lambda tag, delivered: None
            self._line.hang_up()
            self._line = None

    async def forget(self) -> None:
        """Leave the network and have the stick forget it, as a factory reset does.

        Raises:
            EnvironmentFailure: the stick did not do so.
        """
        if self._line is None:
            raise EnvironmentFailure(f"{self._path}: not there, its network is not forgotten")
        with self._in_words():
            await self._line.reset_network_info()

    # --- the port ---------------------------------------------------------------------------------

    async def _connect(self) -> Line:
        line = Line(self._path, self._settings.baud)
        line.profiles = {end.number: end.profile for end in self._endpoints}
        line.secured = self._settings.aps_security
        try:
            await line.connect()
        except (*_FAILURES, *_REFUSALS) as error:
            raise EnvironmentFailure(_no_stick(self._path, error)) from error
        self._events = asyncio.Queue()
        line.on_frame = self._on_frame
        line.on_confirm = lambda tag, delivered: self._deliver(SendConfirmed(tag, delivered))
        line.on_event = lambda command, fields: self._events.put_nowait((command, fields))
        line.on_dead = lambda cause: self._events.put_nowait(_LostError(cause))
        line.set_application(self)
        return line

    def connection_lost(self, error: Exception | None) -> None:
        """The library's word for a port that is gone."""
        self._events.put_nowait(_LostError(f"the port is gone ({error or 'closed'})"))

    async def _drop(self) -> None:
        line, self._line = self._line, None
        self._down()
        if line is not None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await line.disconnect()

    @contextlib.contextmanager
    def _in_words(self) -> Any:
        """What the library raises where a stick refuses, falls silent or is gone."""
        try:
            yield
        except _FAILURES as error:
            raise EnvironmentFailure(f"{self._path}: {' / '.join(errors_of(error))}") from error
        except _REFUSALS as error:
            raise EnvironmentFailure(f"{self._path}: the stick refuses: {error}") from error

    # --- one stick, from its opening to its loss --------------------------------------------------

    async def _serve(self, line: Line) -> None:
        """Bring the network up and mend it, over and over.

        Raises:
            _LostError: the stick is gone.
            EnvironmentFailure: it refuses or does not answer.
        """
        delay = RETRY_FIRST_S
        while True:
            with self._in_words():
                await self._set_up(line)
                is_up = await self._start_network(line)
            if is_up:
                delay = RETRY_FIRST_S
                await self._watch(line)
                self._down()
            else:
                await self._pause(delay)
                delay = min(2 * delay, RETRY_LAST_S)

    async def _set_up(self, line: Line) -> None:
        """Role, EUI-64, callbacks and endpoints, each only where it is not so already."""
        await self._take_role(line)
        for endpoint in self._endpoints:
            await self._register(line, endpoint)
        await line.request(
            c.ZDO.MsgCallbackRegister.Req(ClusterId=t.ClusterId(ALL_CLUSTERS)),
            RspStatus=t.Status.SUCCESS,
        )
        self._drain()

    async def _take_role(self, line: Line) -> None:
        """A stick of another role or name forgets its network before it becomes ours."""
        info = await line.request(c.UTIL.GetDeviceInfo.Req(), RspStatus=t.Status.SUCCESS)
        role = await _nv(line, OsalNvIds.LOGICAL_TYPE, t.DeviceLogicalType)
        direct = await _nv(line, OsalNvIds.ZDO_DIRECT_CB, t.Bytes)
        renamed = (
            self._settings.eui64 == "entity-id" and info.IEEE.serialize() != self._eui64.serialize()
        )
        if role == self._logical_type and not renamed and direct == DIRECT_CALLBACKS:
            return
        _log.warning("radio %s: becomes %s %s", self._path, self._role, self._entity_id)
        if role != self._logical_type or renamed:
            await line.reset_network_info()
        if renamed:
            await line.nvram.osal_write(OsalNvIds.EXTADDR, self._eui64, create=True)
        await line.nvram.osal_write(OsalNvIds.LOGICAL_TYPE, self._logical_type, create=True)
        await line.nvram.osal_write(OsalNvIds.ZDO_DIRECT_CB, t.Bytes(DIRECT_CALLBACKS), create=True)
        await line.reset()

    @property
    def _eui64(self) -> Any:
        """In GB a device's entity id is its EUI-64 (gbcs.md 1)."""
        return t.EUI64.deserialize(encode_eui64(self._entity_id))[0]

    async def _register(self, line: Line, endpoint: zdo.Endpoint) -> None:
        """A stick that was not reset still has it, perhaps with other clusters."""
        request = c.AF.Register.Req(
            Endpoint=endpoint.number,
            ProfileId=endpoint.profile,
            DeviceId=endpoint.device,
            DeviceVersion=0,
            LatencyReq=LatencyReq.NoLatencyReqs,
            InputClusters=t.ClusterIdList(map(t.ClusterId, endpoint.in_clusters)),
            OutputClusters=t.ClusterIdList(map(t.ClusterId, endpoint.out_clusters)),
        )
        answer = await line.request(request)
        if answer.Status != t.Status.SUCCESS:
            await line.request(c.AF.Delete.Req(Endpoint=endpoint.number))
            await line.request(request, RspStatus=t.Status.SUCCESS)

    # --- the network ------------------------------------------------------------------------------

    async def _start_network(self, line: Line) -> bool:
        """Resume the stored network, or join or form one; whether it is up now."""
        info = await line.request(c.UTIL.GetDeviceInfo.Req(), RspStatus=t.Status.SUCCESS)
        state = int(info.DeviceState)
        if state != self._target:
            if await _nv(line, OsalNvIds.BDBNODEISONANETWORK, t.uint8_t):
                state = await self._resume(line, state)
            elif self._target == DeviceState.COORDINATOR:
                state = await self._form(line)
            else:
                state = await self._join(line)
        if state != self._target:
            return False
        await self._on_up(line)
        return True

    async def _resume(self, line: Line, state: int) -> int:
        """Start from the stored network; the parent may be away."""
        if state in (DeviceState.ORPHAN, DeviceState.REJOINING):
            answer = await line.request(c.AppConfig.BDBZedAttemptRecoverNWK.Req())
            _log.info("radio %s: looks for its parent (%s)", self._path, answer.Status)
        else:
            await line.request(c.ZDO.StartupFromApp.Req(StartDelay=0))
        return await self._settled(STARTUP_S)

    async def _join(self, line: Line) -> int:
        """Steering: look for a network that is open, and join it."""
        await self._give_key(line)
        return await self._commission(line, BDBCommissioningMode.NwkSteering, STEERING_S)

    async def _form(self, line: Line) -> int:
        """A network of our own, with a network key that the stick draws."""
        return await self._commission(line, BDBCommissioningMode.NwkFormation, STARTUP_S)

    async def _commission(self, line: Line, mode: Any, limit_s: float) -> int:
        await self._give_channels(line)
        await line.request(
            c.AppConfig.BDBStartCommissioning.Req(Mode=mode), RspStatus=t.Status.SUCCESS
        )
        return await self._settled(limit_s)

    async def _give_channels(self, line: Line) -> None:
        mask = t.Channels.from_channel_list(self._settings.channels)
        for primary, channels in ((True, mask), (False, t.Channels.NO_CHANNELS)):
            await line.request(
                c.AppConfig.BDBSetChannel.Req(IsPrimary=primary, Channel=channels),
                RspStatus=t.Status.SUCCESS,
            )
        if self._settings.extended_pan_id is not None:
            pinned = bytes.fromhex(self._settings.extended_pan_id)[::-1]
            await line.nvram.osal_write(OsalNvIds.APS_USE_EXT_PANID, t.Bytes(pinned), create=True)

    async def _give_key(self, line: Line) -> None:
        """The link key that the trust centre has of us, if we have one."""
        settings = self._settings
        if settings.install_code is not None:
            mode, key = CentralizedLinkKeyMode.UseProvidedInstallCode, settings.install_code
        elif settings.link_key is not None:
            mode, key = CentralizedLinkKeyMode.UseProvidedAPSLinkKey, settings.link_key
        else:
            return
        await line.request(
            c.AppConfig.BDBSetActiveDefaultCentralizedKey.Req(
                CentralizedLinkKeyModes=mode, InstallCode=t.Bytes(bytes.fromhex(key))
            ),
            RspStatus=t.Status.SUCCESS,
        )

    async def _settled(self, limit_s: float) -> int:
        """The state in which a start ends: ours, or one that goes no further by itself."""
        state: int = -1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while True:
                    command, fields = await self._next()
                    if command == Cmd.ZDO_STATE_CHANGE_IND:
                        state = int(fields[0])
                        if state == self._target:
                            return state
                    elif command == Cmd.APP_CNF_BDB_NOTIFICATION:
                        # A success is told before or after the state that makes it one.
                        if fields[0] not in (_STEERED, _STEER_BUSY, 0x0D):
                            _log.warning("radio %s: no network (status %d)", self._path, fields[0])
                            return state
                    elif command == Cmd.SYS_RESET_IND:
                        return state
        return state

    async def _on_up(self, line: Line) -> None:
        info = await line.request(c.UTIL.GetDeviceInfo.Req(), RspStatus=t.Status.SUCCESS)
        nib = await line.nvram.osal_read(OsalNvIds.NIB, item_type=t.NIB)
        self._is_up = True
        address = ShortAddress(int(info.NWK))
        if self._target == DeviceState.COORDINATOR:
            await self._open_door(line)
        else:  # a stick that never left does not say that its host began again
            await line.request(
                c.ZDO.EndDeviceAnnce.Req(
                    NWK=info.NWK, IEEE=info.IEEE, Capabilities=_CAPABILITIES[self._target]
                )
            )
        self._deliver(NetworkUp(address, int(nib.nwkLogicalChannel)))
        if self._target == DeviceState.COORDINATOR:
            for child in info.AssociatedDevices:
                self._identify(ShortAddress(int(child)))

    async def _open_door(self, line: Line) -> None:
        """Who may join: keys of the devices that have one, and the window."""
        settings = self._settings
        for joiner in settings.joiners:
            code = joiner.install_code
            form = (
                InstallCodeFormat.InstallCodeAndCRC
                if code is not None
                else InstallCodeFormat.KeyDerivedFromInstallCode
            )
            key = code if code is not None else joiner.link_key
            assert key is not None
            eui64 = t.EUI64.deserialize(encode_eui64(EntityId.parse(joiner.entity_id)))[0]
            await line.request(
                c.AppConfig.BDBAddInstallCode.Req(
                    InstallCodeFormat=form, IEEE=eui64, InstallCode=t.Bytes(bytes.fromhex(key))
                ),
                RspStatus=t.Status.SUCCESS,
            )
        await line.request(
            c.AppConfig.BDBSetJoinUsesInstallCodeKey.Req(
                BdbJoinUsesInstallCodeKey=t.Bool(settings.require_install_code)
            ),
            RspStatus=t.Status.SUCCESS,
        )
        await self._permit(line)

    async def _permit(self, line: Line) -> None:
        await line.request(
            c.ZDO.MgmtPermitJoinReq.Req(
                AddrMode=t.AddrMode.Broadcast,
                Dst=t.NWK(0xFFFC),
                Duration=PERMIT_S if self._settings.permit else 0,
                TCSignificance=0,
            ),
            RspStatus=t.Status.SUCCESS,
        )

    # --- while it is up ---------------------------------------------------------------------------

    async def _watch(self, line: Line) -> None:
        """Until the network or the set-up of the stick is lost.

        Raises:
            _LostError, EnvironmentFailure: the stick is.
        """
        loop = asyncio.get_running_loop()
        permitted_at = loop.time()
        while True:
            try:
                async with asyncio.timeout(PING_S):
                    command, fields = await self._next()
            except TimeoutError:
                with self._in_words():
                    await line.request(c.SYS.Ping.Req())
                    if self._settings.permit and self._target == DeviceState.COORDINATOR:
                        if loop.time() - permitted_at > PERMIT_S / 2:
                            await self._permit(line)
                            permitted_at = loop.time()
                continue
            if command == Cmd.SYS_RESET_IND:
                _log.warning("radio %s: the stick was reset", self._path)
                return
            if command == Cmd.ZDO_STATE_CHANGE_IND and fields[0] != self._target:
                _log.warning("radio %s: network lost (state %d)", self._path, fields[0])
                return
            if command == Cmd.ZDO_LEAVE_IND and decode_eui64(fields[1]) == self._entity_id:
                _log.warning("radio %s: told to leave the network", self._path)
                return
            if command == Cmd.ZDO_TC_DEV_IND:
                self._announced(fields[0], fields[1])
            elif command == Cmd.ZDO_END_DEVICE_ANNCE_IND:
                self._announced(fields[1], fields[2])

    def _announced(self, address: int, eui64: bytes) -> None:
        if self._target != DeviceState.COORDINATOR:
            return
        short = ShortAddress(address)
        self._known.add(short)
        self._deliver(PeerAnnounced(short, decode_eui64(eui64)))
        for frame in self._held.pop(short, ()):
            self._deliver(FrameReceived(frame))

    def _on_frame(self, frame: Frame) -> None:
        if not self._is_up:
            return
        if frame.profile == zdo.PROFILE and not frame.cluster & CLUSTER_EDGE:
            return  # the stick answers requests itself
        if self._target == DeviceState.COORDINATOR and frame.peer not in self._known:
            if frame.profile == zdo.PROFILE:
                return
            held = self._held.setdefault(frame.peer, [])
            if len(held) < HELD_MAX:
                held.append(frame)
            if len(held) == 1:
                self._identify(frame.peer)
            return
        self._deliver(FrameReceived(frame))

    def _identify(self, address: ShortAddress) -> None:
        """Ask a device that we do not know for its EUI-64: it joined before we started."""

        async def ask(line: Line) -> None:
            try:
                answer = await line.request_callback_rsp(
                    request=c.ZDO.IEEEAddrReq.Req(
                        NWK=t.NWK(address), RequestType=AddrRequestType.SINGLE, StartIndex=0
                    ),
                    callback=c.ZDO.IEEEAddrRsp.Callback(partial=True, NWK=t.NWK(address)),
                    timeout=IDENTIFY_S,
                )
            except (TimeoutError, OSError, RuntimeError, InvalidCommandResponse):
                self._held.pop(address, None)
                return
            self._announced(address, answer.IEEE.serialize())

        if self._line is not None:
            self._spawn(ask(self._line))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _down(self) -> None:
        was_up, self._is_up = self._is_up, False
        self._known.clear()
        self._held.clear()
        if was_up:
            self._deliver(NetworkDown())

    # --- events -----------------------------------------------------------------------------------

    async def _next(self) -> tuple[int, tuple[Any, ...]]:
        event = await self._events.get()
        if isinstance(event, _LostError):
            raise event
        return event

    def _drain(self) -> None:
        """Forget what was told while the stick was being set up; a loss is no such thing."""
        while not self._events.empty():
            event = self._events.get_nowait()
            if isinstance(event, _LostError):
                raise event

    async def _pause(self, delay_s: float) -> None:
        """Before another attempt; ends early when the stick finds its network by itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                while True:
                    command, fields = await self._next()
                    if command == Cmd.SYS_RESET_IND or (
                        command == Cmd.ZDO_STATE_CHANGE_IND and fields[0] == self._target
                    ):
                        return


async def _nv(line: Line, item: Any, item_type: Any) -> Any:
    """An NV item's value; None where it is missing."""
    try:
        return await line.nvram.osal_read(item, item_type=item_type)
    except KeyError:
        return None


def _no_stick(path: str, error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"{path}: no ZNP stick answers there"
    if isinstance(error, FileNotFoundError):
        return f"{path}: there is no such port"
    if isinstance(error, PermissionError):
        return f"{path}: permission denied; on Debian the group is dialout"
    return f"{path}: {' / '.join(errors_of(error))}"
