"""Agents of several hosts in one process, for tests: ``agents.py BROKER_URL SITE FOLDER HOST...``.

``HOST:2`` runs its homes in two processes, ``HOST`` in this one. Every message is published twice.
SIGTERM ends them in good order.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

from brokers import TwiceLink

from firmware_node.adapters.fleet.agent import Agent, AgentSettings
from firmware_node.adapters.fleet.link import Broker


async def run(url: str, site: str, folder: Path, hosts: list[str]) -> None:
    agents = []
    for entry in hosts:
        host, _, workers = entry.partition(":")
        settings = AgentSettings(
            site, host, Broker(url), folder / host, ("homes",), int(workers or 0)
        )
        agents.append(Agent(settings, link=TwiceLink))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for agent in agents:
            agent.stop()

    loop.add_signal_handler(signal.SIGTERM, stop)
    async with asyncio.TaskGroup() as tasks:
        for agent in agents:
            tasks.create_task(agent.run())


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:]))
