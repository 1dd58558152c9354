"""Sinks of notifications: at least once, in order, whatever fails on the way."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from firmware_node.adapters.sinks import CommandSink, FileSink, Notices, SinkError, WebhookSink
from firmware_node.adapters.spool import Document
from firmware_node.boundary import Notify, SendFrame
from firmware_node.config import NotifySection
from firmware_node.terms import EntityId

DEVICE = EntityId.parse("00-DB-12-34-56-78-90-A4")
LIMIT_S = 20


def notices(directory: Path, **sections: NotifySection) -> Notices:
    return Notices(directory, DEVICE, sections, retry_first_s=0.001)


def lines(path: Path) -> list[dict[str, object]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def until(sinks: Notices, done: Callable[[], bool], *names: str) -> None:
    """Run the deliveries until that is so."""

    async def run() -> None:
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            tasks = [group.create_task(sinks.run(name)) for name in names]
            while not done():
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()

    asyncio.run(run())


def test_what_a_step_tells_is_kept_before_its_commit_and_reaches_a_file_in_order(
    tmp_path: Path,
) -> None:
    file = tmp_path / "told.jsonl"
    sinks = notices(tmp_path, log=NotifySection("file", path=str(file)))
    frame = SendFrame(None)  # type: ignore[arg-type]  # is not looked into
    sinks.before_commit([Notify("image_verified", {"size": 5}), frame, Notify("restarting")])
    sinks.close()  # the supply is gone before anything left
    sinks = notices(tmp_path, log=NotifySection("file", path=str(file)))
    sinks.before_commit([Notify("download_progress"), Notify("image_running")])
    until(sinks, lambda: sinks.report()["log"]["waiting"] == 0, "log")  # type: ignore[index]
    documents = lines(file)
    assert [d["name"] for d in documents] == ["image_verified", "restarting", "image_running"]
    assert [d["n"] for d in documents] == [1, 2, 3]
    assert (documents[0]["size"], documents[0]["device"]) == (5, str(DEVICE))
    sinks.close()


def test_a_sink_takes_the_names_that_it_wants_and_passes_over_the_others(tmp_path: Path) -> None:
    every, some = tmp_path / "every", tmp_path / "some"
    sinks = notices(
        tmp_path,
        every=NotifySection("file", path=str(every)),
        some=NotifySection("file", path=str(some), names=("download_progress",)),
    )
    sinks.before_commit([Notify("download_progress"), Notify("image_verified")])
    report = sinks.report
    until(
        sinks,
        lambda: all(s["waiting"] == 0 for s in report().values()),  # type: ignore[index]
        "every",
        "some",
    )
    assert [d["name"] for d in lines(every)] == ["image_verified"]
    assert [d["name"] for d in lines(some)] == ["download_progress"]
    sinks.close()


def test_without_sinks_nothing_is_written(tmp_path: Path) -> None:
    sinks = notices(tmp_path)
    sinks.before_commit([Notify("image_verified")])
    assert (sinks.report(), list(tmp_path.iterdir())) == ({}, [])
    sinks.close()


def test_half_a_line_of_a_cut_is_ended_before_the_next(tmp_path: Path) -> None:
    file = tmp_path / "told"
    file.write_bytes(b'{"n": 1}\n{"n": 2, "na')
    asyncio.run(FileSink(file).take([{"n": 2}]))
    assert file.read_bytes() == b'{"n": 1}\n{"n": 2, "na\n{"n": 2}\n'


def test_a_sink_that_fails_is_tried_again_and_what_comes_meanwhile_waits_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "later" / "told"
    sinks = notices(tmp_path, log=NotifySection("file", path=str(file)))
    sinks.before_commit([Notify("image_verified")])
    report = sinks.report

    def has_failed() -> bool:
        return report()["log"]["failure"] is not None  # type: ignore[index]

    with caplog.at_level(logging.INFO):
        until(sinks, has_failed, "log")
    assert "No such file or directory" in caplog.text
    assert report()["log"]["waiting"] == 1  # type: ignore[index]
    sinks.before_commit([Notify("image_confirmed")])
    file.parent.mkdir()
    until(sinks, lambda: report()["log"]["waiting"] == 0, "log")  # type: ignore[index]
    assert [d["name"] for d in lines(file)] == ["image_verified", "image_confirmed"]
    assert report()["log"]["failure"] is None  # type: ignore[index]
    sinks.close()


# --- command --------------------------------------------------------------------------------------


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "command"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_command_reads_one_document_from_standard_input(tmp_path: Path) -> None:
    command = script(tmp_path, f"cat >>{tmp_path}/told; echo $1 >>{tmp_path}/told")
    sink = CommandSink([command, "arg"])
    asyncio.run(sink.take([{"n": 7}]))
    assert (tmp_path / "told").read_text() == '{"n": 7}\narg\n'


def test_a_command_that_fails_gets_the_same_document_again(tmp_path: Path) -> None:
    once = f"{tmp_path}/once"
    body = f"cat >>{tmp_path}/told; test -e {once} || {{ touch {once}; exit 4; }}"
    section = NotifySection("command", command=(script(tmp_path, body),))
    sinks = notices(tmp_path, run=section)
    sinks.before_commit([Notify("image_verified"), Notify("image_confirmed")])
    until(sinks, lambda: sinks.report()["run"]["waiting"] == 0, "run")  # type: ignore[index]
    assert [d["n"] for d in lines(tmp_path / "told")] == [1, 1, 2]
    sinks.close()


def test_a_command_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    sink = CommandSink([script(tmp_path, "sleep 1000 & sleep 1000")], patience_s=0.2)
    with pytest.raises(TimeoutError):
        asyncio.run(sink.take([{"n": 1}]))


def test_a_command_that_says_no_or_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="exit code 3"):
        asyncio.run(CommandSink([script(tmp_path, "exit 3")]).take([{"n": 1}]))
    with pytest.raises(OSError, match="none"):
        asyncio.run(CommandSink([f"{tmp_path}/none"]).take([{"n": 1}]))


# --- webhook --------------------------------------------------------------------------------------

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def post(serve: Serve, documents: Sequence[Document], patience_s: float = 20) -> None:
    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            sink = WebhookSink(f"http://127.0.0.1:{port}/hook?a=b", patience_s)
            await sink.take(documents)
        finally:
            server.close()

    asyncio.run(run())


def answering(answer: bytes, heard: list[bytes]) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        heard.extend((head, await reader.readexactly(size)))
        writer.write(answer)
        await writer.drain()
        writer.close()

    return serve


@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content"])
def test_a_webhook_is_posted_one_document(status: bytes) -> None:
    heard: list[bytes] = []
    post(answering(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n", heard), [{"n": 1}])
    head, body = heard
    assert head.startswith(b"POST /hook?a=b HTTP/1.1\r\n")
    assert b"content-type: application/json" in head.lower()
    assert json.loads(body) == {"n": 1}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "HTTP 503"),
        (b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", "HTTP 302"),
        (b"220 mail.example ESMTP\r\n", "speaks no HTTP"),
        (b"", "speaks no HTTP|closed without an answer"),
    ],
)
def test_a_webhook_that_does_not_say_yes_has_not_taken_it(answer: bytes, says: str) -> None:
    with pytest.raises(SinkError, match=says):
        post(answering(answer, []), [{"n": 1}])


def test_a_webhook_that_is_silent_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    with pytest.raises(TimeoutError):
        post(silent, [{"n": 1}], patience_s=0.2)
