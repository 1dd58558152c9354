"""``radio selftest``: right sticks pass, each line is seen to fail, and every stick is put back."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sticks import (
    WAIT_S,
    WrongStick,
    always,
    at,
    run_beside,
    run_command,
    start_beside,
    virtual_stick,
    virtual_stick_on_a_pty,
    wrong_stick,
)

from firmware_node.adapters.znp import checks_alone, checks_on_air
from firmware_node.adapters.znp.checks import Bench, Check, Line, Verdict
from firmware_node.adapters.znp.host import connected
from firmware_node.adapters.znp.probe import stored_network
from firmware_node.adapters.znp.selftest import (
    CHECKS,
    SelftestOptions,
    run_check,
    run_selftest,
)
from firmware_node.errors import ConfigError
from firmware_node.wire import mt
from firmware_node.wire.mt import Cmd

LOGICAL_TYPE, STARTUP_OPTION = 0x0087, 0x0003
BY_NAME = {check.name: check for check in CHECKS}
PASS, FAIL, CANNOT_TELL = Verdict.PASS, Verdict.FAIL, Verdict.CANNOT_TELL


@pytest.fixture(scope="module")
def air(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("air") / "air"


@pytest.fixture(scope="module")
def stick(air: Path) -> Iterator[str]:
    with virtual_stick("--air", air) as port:
        yield port


@pytest.fixture(scope="module")
def peer(air: Path) -> Iterator[str]:
    with virtual_stick("--air", air) as port:
        yield port


@pytest.fixture(scope="module")
def lenient(air: Path) -> Iterator[str]:
    with virtual_stick("--air", air, "--profile", "lenient") as port:
        yield port


# --- whole runs -----------------------------------------------------------------------------------


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {line["name"]: line["verdict"] for line in document["lines"]}


def items_of(port: str, *items: int) -> list[bytes | None]:
    async def read() -> list[bytes | None]:
        async with connected(port) as host:
            return [await host.item(item) for item in items]

    return asyncio.run(read())


def put(port: str, item: int, value: bytes) -> None:
    async def write() -> None:
        async with connected(port) as host:
            await host.put_item(item, value)

    asyncio.run(write())


def network_of(port: str) -> Any:
    async def read() -> Any:
        async with connected(port) as host:
            return await stored_network(host)

    return asyncio.run(read())


@pytest.mark.parametrize("product", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_two_right_sticks_pass_every_line_show_no_key_and_are_put_back(
    tmp_path: Path, product: str
) -> None:
    air = ("--air", tmp_path / "air", "--product", product)
    with (
        virtual_stick_on_a_pty(tmp_path / "one", *air) as port,
        virtual_stick("--air", tmp_path / "air") as peer,
    ):
        put(port, LOGICAL_TYPE, b"\x01")
        code = bytes(range(16, 32)).hex()
        arguments = ("--peer", peer, "--install-code", code, "--json")
        run = run_command("radio", "selftest", port, *arguments)
        assert (run.returncode, run.stderr) == (0, "")
        assert code not in run.stdout and "octets of key" in run.stdout
        document = json.loads(run.stdout)
        assert (document["result"], document["restored"]) == ("pass", True)
        told = verdicts(document)
        assert told.pop("old-trust-centre") == "cannot tell"
        assert set(told.values()) == {"pass"}
        assert list(told) == [name for name in BY_NAME if name != "old-trust-centre"]
        for line in document["lines"]:
            assert line["found"] and line["means"] and line["asks"]
            assert line["exchange"] or line["verdict"] == "cannot tell"
        assert items_of(port, LOGICAL_TYPE, STARTUP_OPTION) == [b"\x01", b"\x00"]
        assert items_of(peer, LOGICAL_TYPE, STARTUP_OPTION) == [b"\x00", b"\x00"]
        assert items_of(port, 0x0047) == [bytes(8)]  # free to join any network
        assert network_of(port) is None and network_of(peer) is None


def test_a_stick_alone_is_told_to_people_and_on_air_lines_say_what_they_need(stick: str) -> None:
    run = run_command("radio", "selftest", stick)
    assert (run.returncode, run.stderr) == (0, "")
    alone, on_air = len(checks_alone.CHECKS), len(checks_on_air.CHECKS)
    assert run.stdout.count("\npass  ") + run.stdout.startswith("pass  ") == alone
    assert run.stdout.count("needs --peer PORT, a second stick") == on_air
    assert run.stdout.splitlines()[-1] == (
        f"pass: {alone} pass, 0 fail, {on_air} cannot tell; the stick is put back as it was"
    )
    assert "> 2550" in run.stdout and "< 6550" in run.stdout
    assert max(map(len, run.stdout.splitlines())) < 80


def test_a_stick_on_a_network_is_refused_until_it_may_be_erased(tmp_path: Path) -> None:
    with virtual_stick() as port:
        asyncio.run(form(port))
        before = network_of(port)
        run = run_command("radio", "selftest", port, "--json")
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.count("\n") == 1 and "--erase allows it" in run.stderr
        assert network_of(port) == before
        assert run_command("radio", "selftest", port, "--erase").returncode == 0
        assert network_of(port) is None


def test_a_peer_on_a_network_is_refused_too(stick: str) -> None:
    with virtual_stick() as port:
        asyncio.run(form(port))
        run = run_command("radio", "selftest", stick, "--peer", port)
        assert run.returncode == 1 and port in run.stderr
        assert network_of(port) is not None


async def form(port: str) -> None:
    async with connected(port) as host:
        await host.ask(Cmd.APP_CNF_BDB_SET_CHANNEL, 1, 1 << 20)
        await host.ask(Cmd.APP_CNF_BDB_START_COMMISSIONING, 4)
        await host.until(Cmd.ZDO_STATE_CHANGE_IND, 10, lambda fields: fields[0] == 9)


def test_a_stick_that_is_to_be_kept_stays_as_the_last_line_left_it(tmp_path: Path) -> None:
    with virtual_stick() as port:
        run = run_command("radio", "selftest", port, "--keep", "--json")
        assert json.loads(run.stdout)["restored"] is None
        assert items_of(port, LOGICAL_TYPE) == [b"\x02"]


def test_a_stick_joins_a_network_that_the_operator_opens(tmp_path: Path) -> None:
    air = ("--air", tmp_path / "air")
    with virtual_stick(*air) as port, virtual_stick(*air) as hub:

        async def story() -> tuple[int | None, str, str]:
            await form(hub)
            code = "83fed3407a939723a5c639b26916d505c3b5"  # the one of the ZigBee documents
            async with connected(port) as host:
                (ieee,) = await host.ask(Cmd.SYS_GET_EXT_ADDR)
            arguments = ("radio", "selftest", port, "--join", "--install-code", code)
            run = await start_beside(*arguments, "--json")
            assert run.stderr is not None
            request = await run.stderr.readline()
            await asyncio.sleep(3)  # the first attempt finds nothing
            async with connected(hub) as host:
                await host.ask(Cmd.APP_CNF_BDB_ADD_INSTALL_CODE, 1, ieee, bytes.fromhex(code))
                await host.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, 2, 0, 250, 1)
            out, err = await run.communicate()
            assert err == b""
            return run.returncode, out.decode(), request.decode()

        code, out, err = asyncio.run(story())
    told = verdicts(json.loads(out))
    assert code == 0
    assert err.startswith("open a network for 00-12-4B-")
    assert (told["join-by-install-code"], told["resume"]) == ("pass", "pass")
    assert told["profile-filter"] == "cannot tell"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_when_it_is_interrupted_the_sticks_are_put_back(
    tmp_path: Path, number: signal.Signals
) -> None:
    air = ("--air", tmp_path / "air")
    with virtual_stick(*air) as port, virtual_stick(*air) as peer:
        put(port, LOGICAL_TYPE, b"\x01")
        command = [sys.executable, "-m", "firmware_node", "radio", "selftest", port]
        with subprocess.Popen(
            [*command, "--peer", peer], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as run:
            assert run.stdout is not None and run.stderr is not None
            for line in run.stdout:
                if "peer-forms" in line:
                    break
            time.sleep(0.3)  # somewhere in the middle of joining
            run.send_signal(number)
            assert run.wait(WAIT_S) == 130
            assert "Traceback" not in run.stderr.read()
        assert items_of(port, LOGICAL_TYPE, STARTUP_OPTION) == [b"\x01", b"\x00"]
        assert network_of(port) is None and network_of(peer) is None


def test_a_data_request_that_is_not_answered_fails_its_line_alone(tmp_path: Path) -> None:
    air = ("--air", tmp_path / "air")
    with virtual_stick(*air) as port, virtual_stick(*air, "--fault", "no-srsp:1") as peer:
        lines: list[Line] = []
        document = run_selftest(SelftestOptions(port, peer=peer), lines.append)
    told = verdicts(document)
    assert [name for name, verdict in told.items() if verdict == "fail"] == ["profile-filter"]
    assert document["result"] == "fail" and document["restored"]
    (line,) = [one for one in lines if one.verdict is FAIL]
    assert line.found == "2402 AF_DATA_REQUEST_EXT: no answer in 2 s"
    assert line.exchange[-1] == "peer < silence"


def test_a_stick_that_is_pulled_out_is_the_environment_s_fault(stick: str) -> None:
    async def story() -> tuple[int | None, bytes]:
        async with wrong_stick(stick) as relay:
            relay.silent.add(Cmd.SYS_STACK_TUNE)
            run = await start_beside("radio", "selftest", relay.port)
            while Cmd.SYS_STACK_TUNE not in relay.heard:
                await asyncio.sleep(0.05)
            relay.hang_up()
            _, err = await run.communicate()
            return run.returncode, err

    code, err = asyncio.run(story())
    assert code == 3
    assert err.count(b"\n") == 1
    assert b"the stick is gone" in err and b"is not as it was before" in err


def test_a_stick_that_cannot_be_put_back_is_a_no(stick: str) -> None:
    def swallow_writes(relay: WrongStick, data: bytes) -> bytes:
        if relay.heard.count(Cmd.SYS_RESET_REQ) == 4:  # product, clear, router, end device
            relay.silent.add(Cmd.SYS_OSAL_NV_WRITE_EXT)
        return data

    async def story() -> tuple[int | None, str, str]:
        async with wrong_stick(stick) as relay:
            relay.changes[0x4180] = lambda data: swallow_writes(relay, data)
            return await run_beside("radio", "selftest", relay.port, "--json")

    code, out, err = asyncio.run(story())
    document = json.loads(out)
    assert (code, document["result"], document["restored"]) == (1, "fail", False)
    assert err.count("\n") == 1 and "is not as it was before" in err


def test_a_stick_that_does_not_tell_its_state_is_not_touched(stick: str) -> None:
    async def story() -> tuple[int | None, str, set[int]]:
        async with wrong_stick(stick) as relay:
            relay.silent.add(Cmd.SYS_OSAL_NV_LENGTH)
            code, _, err = await run_beside("radio", "selftest", relay.port)
            return code, err, set(relay.heard)

    code, err, heard = asyncio.run(story())
    assert code == 3
    assert err.count("\n") == 1 and "no answer in 2 s" in err
    assert heard == {Cmd.SYS_PING, Cmd.UTIL_GET_DEVICE_INFO, Cmd.SYS_OSAL_NV_LENGTH}


def test_wrong_arguments_are_the_user_s_fault(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    with pytest.raises(ConfigError, match="another port"):
        run_selftest(SelftestOptions("/dev/null", peer=str(tmp_path / "link")), lambda line: None)
    for arguments in (
        ("--channel", "27"),
        ("--join", "--peer", "/dev/zero"),
        ("--install-code", "00"),
        ("--install-code", "83fed3407a939723a5c639b26916d505c3b6"),
        (),
    ):
        port = () if not arguments else ("/dev/null",)
        run = run_command("radio", "selftest", *port, *arguments)
        assert run.returncode == 2 and run.stderr.count("\n") == 1


# --- each line alone ------------------------------------------------------------------------------

Spoil = Callable[[WrongStick, WrongStick], None]  # the stick, its peer


def stick_changes(command: int, change: Any) -> Spoil:
    return lambda stick, peer: stick.changes.__setitem__(command, change)


def stick_refuses(command: int) -> Spoil:
    return lambda stick, peer: stick.refuses.add(command)


def stick_is_silent(command: int) -> Spoil:
    return lambda stick, peer: stick.silent.add(command)


def stick_pretends(command: int, data: bytes = b"\x00") -> Spoil:
    return lambda stick, peer: stick.pretends.__setitem__(command, data)


def both_pretend(command: int, data: bytes = b"\x00") -> Spoil:
    def spoil(stick: WrongStick, peer: WrongStick) -> None:
        stick.pretends[command] = peer.pretends[command] = data

    return spoil


def reads(value: bytes) -> Spoil:
    """Whatever NV item is read, it is that."""
    return stick_changes(0x611C, always(bytes((0, len(value))) + value))


def slow(*case: Any) -> Any:
    """A case that waits for what does not come."""
    return pytest.param(*case, marks=pytest.mark.long)


ALONE = [
    ("capabilities", stick_changes(0x6101, always(b"\x59\x02")), FAIL, "['APP_CNF']"),
    ("product", stick_changes(0x4180, at(2, 0)), FAIL, "VERSION says 1, RESET_IND 0"),
    slow("product", stick_is_silent(0x4100), FAIL, "no 4180 SYS_RESET_IND in 10 s"),
    ("alignment", stick_changes(0x6749, always(bytes(30))), FAIL, "28 or 36"),
    ("alignment", stick_refuses(0x2749), FAIL, "28 or 36"),
    ("all-roles", stick_changes(0x6700, at(11, 1)), FAIL, "coordinator"),
    ("all-roles", stick_changes(0x6700, always(b"\x00")), FAIL, "at octet"),
    ("ext-nwk-info", stick_changes(0x6550, lambda data: data + bytes(3)), FAIL, "27 octets"),
    ("ext-nwk-info", stick_refuses(0x2550), FAIL, "RPC error 2"),
    ("startup-option", reads(b"\x00"), FAIL, "wrote 03, read 00"),
    ("startup-option", stick_is_silent(0x211D), FAIL, "no answer in 2 s"),
    ("startup-option", stick_changes(0x611D, always(b"\x0a")), PASS, "only after it was made anew"),
    ("clear-network", reads(b"\x03"), FAIL, "STARTUP_OPTION is 03"),
    ("default-tc-link-key", reads(b"\x00"), FAIL, "item 006D is 00"),
    ("default-tc-link-key", stick_changes(0x6113, always(b"\0\0")), CANNOT_TELL, "no item 006D"),
    ("se-endpoint", stick_changes(0x6400, always(b"\xb8")), FAIL, "status B8"),
    ("rx-on-when-idle", stick_changes(0x610F, always(b"\x00")), FAIL, "set to 1, read 0"),
    ("rx-on-when-idle", stick_changes(0x610F, always(b"\xff")), CANNOT_TELL, "gives FF"),
    ("install-code", stick_changes(0x6F07, always(b"\x02")), FAIL, "status 02"),
    ("install-code", stick_refuses(0x2F07), FAIL, "RPC error 2"),
    ("link-key", stick_refuses(0x2523), FAIL, "no 2523; 2542 gives 00"),
    ("link-key", stick_changes(0x6523, always(b"\x10")), FAIL, "status 10"),
    ("link-key", stick_changes(0x6525, at(10, 0)), FAIL, "another key"),
    ("link-key", stick_refuses(0x2525), CANNOT_TELL, "not read back"),
    ("link-key-counters", stick_refuses(0x2744), FAIL, "RPC error 2"),
    ("messages-in-parts", stick_refuses(0x2412), FAIL, "RPC error 2"),
    ("router-survives-reset", reads(b"\x00"), FAIL, "wrote 1, reset, read 00"),
    ("end-device-survives-reset", reads(b"\x00"), FAIL, "wrote 2, reset, read 00"),
]


@pytest.mark.parametrize(("name", "spoil", "verdict", "says"), ALONE)
def test_a_line_of_one_stick_is_seen_to_fail(
    stick: str, name: str, spoil: Spoil, verdict: Verdict, says: str
) -> None:
    async def story() -> Line:
        async with wrong_stick(stick) as wrong, connected(wrong.port) as host:
            spoil(wrong, wrong)
            return await run_check(BY_NAME[name], Bench(host))

    line = asyncio.run(story())
    assert line.verdict is verdict, line.found
    assert says in line.found
    check = BY_NAME[name]
    assert line.means == {PASS: check.good, FAIL: check.bad, CANNOT_TELL: "open"}[verdict]


def widely_known_key(stick: WrongStick, peer: WrongStick) -> None:
    """Install codes are of no account on either side."""
    stick.pretends[Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY] = b"\x00"
    peer.pretends[Cmd.APP_CNF_BDB_SET_JOIN_USES_INSTALL_CODE] = b"\x00"
    peer.pretends[Cmd.APP_CNF_BDB_ADD_INSTALL_CODE] = b"\x00"


def peer_hears_a_sleeper(stick: WrongStick, peer: WrongStick) -> None:
    peer.changes[0x45C1] = at(12, 0x80)


def no_formation(stick: WrongStick, peer: WrongStick) -> None:
    peer.changes[0x6F05] = always(b"\x01")


# When to spoil: before this line, the ones before it having run well.
ON_AIR = [
    ("peer-forms", "peer-forms", no_formation, CANNOT_TELL, "status 01"),
    ("join-by-install-code", "peer-forms", no_formation, CANNOT_TELL, "leads no network"),
    ("profile-filter", "peer-forms", no_formation, CANNOT_TELL, "leads no network"),
    ("wrong-install-code", "peer-forms", widely_known_key, FAIL, "joined with status 00"),
    ("join-by-install-code", "join-by-install-code", stick_pretends(0x2F07), FAIL, "status 07"),
    (
        "join-by-install-code",
        "join-by-install-code",
        stick_changes(0x6700, at(12, 1)),
        FAIL,
        "state 1",
    ),
    (
        "resume",
        "join-by-install-code",
        stick_pretends(0x2F07),
        CANNOT_TELL,
        "the stick has not joined: see above",
    ),
    (
        "receiver-on-in-network",
        "join-by-install-code",
        peer_hears_a_sleeper,
        FAIL,
        "announced capability 80",
    ),
    ("profile-filter", "profile-filter", stick_changes(0x4481, always(b"")), FAIL, "at octet"),
    ("profile-filter", "profile-filter", stick_changes(0x4481, lambda _: None), FAIL, "not arriv"),
    ("security-use", "security-use", stick_changes(0x4481, at(10, 1)), FAIL, "SecurityUse 1"),
    slow(
        "security-use",
        "security-use",
        stick_changes(0x4481, lambda _: None),
        CANNOT_TELL,
        "not arr",
    ),
    slow(
        "link-key-0x40", "link-key-0x40", stick_pretends(0x2523), FAIL, "up: status B7, not arrived"
    ),
    ("link-key-0x40", "link-key-0x40", stick_changes(0x4481, at(10, 0)), FAIL, "SecurityUse 0"),
    ("link-key-0x40", "link-key-0x40", stick_changes(0x6523, always(b"\x10")), CANNOT_TELL, "10"),
    ("wrong-link-key", "link-key-0x40", both_pretend(0x2523), FAIL, "status 00, arrived"),
    ("huge-frame-down", "huge-frame-down", stick_refuses(0x2412), FAIL, "RPC error 2"),
    slow(
        "huge-frame-down", "huge-frame-down", stick_changes(0x4482, lambda _: None), FAIL, "not arr"
    ),
    ("huge-frame-up", "huge-frame-up", stick_refuses(0x2411), FAIL, "RPC error 2"),
    slow("huge-frame-up", "huge-frame-up", stick_pretends(0x2402, b"\x02"), FAIL, "status 02"),
    ("resume", "resume", stick_changes(0x6700, at(9, 0x99)), FAIL, "after the reset"),
]


@asynccontextmanager
async def bench_of(stick: str, peer: str) -> AsyncIterator[tuple[Bench, WrongStick, WrongStick]]:
    async with AsyncExitStack() as stack:
        wrong = await stack.enter_async_context(wrong_stick(stick))
        wrong_peer = await stack.enter_async_context(wrong_stick(peer))
        host = await stack.enter_async_context(connected(wrong.port))
        other = await stack.enter_async_context(connected(wrong_peer.port))
        (ieee,) = await host.ask(Cmd.SYS_GET_EXT_ADDR)
        yield Bench(host, other, ieee=ieee), wrong, wrong_peer


def needed_by(name: str) -> list[Check]:
    """The lines without which this one cannot run, and itself."""
    first = ["peer-forms", "join-by-install-code"]
    if name in first or name == "wrong-install-code":
        first = first[: first.index(name)] if name in first else first[:1]
    if name == "wrong-link-key":
        first.append("link-key-0x40")
    return [BY_NAME[one] for one in (*first, name)]


@pytest.mark.parametrize(("name", "when", "spoil", "verdict", "says"), ON_AIR)
def test_a_line_on_the_air_is_seen_to_fail(
    stick: str, peer: str, name: str, when: str, spoil: Spoil, verdict: Verdict, says: str
) -> None:
    async def story() -> Line:
        async with bench_of(stick, peer) as (bench, wrong, wrong_peer):
            for check in needed_by(name):
                if check.name == when:
                    spoil(wrong, wrong_peer)
                line = await run_check(check, bench)
            return line

    line = asyncio.run(story())
    assert line.verdict is verdict, line.found
    assert says in line.found


@pytest.mark.parametrize(
    ("spoil", "verdict", "says"),
    [
        (lambda stick, peer: None, PASS, "revision is 20: joined"),
        (stick_pretends(0x2F07), FAIL, "revision is 20: not joined"),
    ],
)
def test_a_trust_centre_before_revision_21_tells_whether_the_stick_gets_on_with_it(
    stick: str, air: Path, spoil: Spoil, verdict: Verdict, says: str
) -> None:
    async def story(old: str) -> Line:
        async with bench_of(stick, old) as (bench, wrong, wrong_peer):
            spoil(wrong, wrong_peer)
            for check in needed_by("old-trust-centre"):
                line = await run_check(check, bench)
            return line

    with virtual_stick("--air", air, "--stack-revision", "20") as old:
        line = asyncio.run(story(old))
    assert line.verdict is verdict, line.found
    assert says in line.found


def test_a_lenient_stick_fails_the_profile_filter(lenient: str, peer: str) -> None:
    async def story() -> Line:
        async with bench_of(lenient, peer) as (bench, _, _):
            for check in needed_by("profile-filter"):
                line = await run_check(check, bench)
            return line

    line = asyncio.run(story())
    assert line.verdict is FAIL
    assert line.found == "from an endpoint of 0109: status 00, arrived; from one of 0104: " + (
        "status 00, arrived"
    )


def test_every_line_is_seen_to_fail() -> None:
    cases = [case for case in (*ALONE, *ON_AIR) if isinstance(case, tuple)]  # not the slow ones
    failed = {case[0] for case in cases if FAIL in case}
    # The first has a test of its own; that a peer leads no network says nothing of the stick.
    assert set(BY_NAME) - failed == {"old-trust-centre", "peer-forms"}


def test_lines_have_names_of_their_own_and_fit_a_terminal() -> None:
    assert len(BY_NAME) == len(CHECKS)
    assert mt.DATA_MAX < checks_on_air.HUGE_SIZE
