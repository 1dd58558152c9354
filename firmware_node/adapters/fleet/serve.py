"""A run with whoever looks on: its socket for commands, its page for browsers, its signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from firmware_node.adapters.fleet.run import Backend, FleetRun
from firmware_node.fleet.terms import Order

NO_EXTRA = "pip install 'firmware-node[fleet]'"


class Page(NamedTuple):
    """Where the page is served, and the token that is needed there."""

    host: str
    port: int  # 0: any that is free
    token: str | None


def serve(run: FleetRun, socket: Path, page: Page | None, orders: Sequence[Order]) -> str:
    """The run to its end, or until it is interrupted; how it ended, as ``FleetRun.run`` says.

    Without the extra ``fleet`` it runs all the same, and nobody can look on.

    Raises:
        ConfigError: others could reach the page without a token.
        EnvironmentFailure: an address cannot be had, or a worker ended.
    """
    return asyncio.run(_serve(run, socket, page, orders))


async def _serve(run: FleetRun, socket: Path, page: Page | None, orders: Sequence[Order]) -> str:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.stop)
    async with contextlib.AsyncExitStack() as stack:
        try:
            from firmware_node.adapters.fleet.web import FleetWeb
        except ImportError as error:
            print(f"no page and no commands: {error} ({NO_EXTRA})", file=sys.stderr)
            return await run.run(orders)
        backend = Backend(run)
        control = FleetWeb(backend, socket=socket, folder=socket.parent)
        await control.open()
        stack.push_async_callback(control.close)
        if page is not None:
            web = FleetWeb(
                backend,
                host=page.host,
                port=page.port,
                token=page.token,
                folder=socket.parent,
            )
            url = await web.open()
            stack.push_async_callback(web.close)
            print(f"page: {url}", file=sys.stderr, flush=True)
        return await run.run(orders)
