"""The ``radio`` verbs for sticks on ports: what is there, what it is, whether it will do."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator

from firmware_node.errors import EnvironmentFailure
from firmware_node.tools import render_radio


def list_ports(args: argparse.Namespace) -> int:
    """``radio list``: always a yes, also where there is no port."""
    from firmware_node.adapters.znp.ports import describe_ports, system_ports

    document = {"ports": [port.document() for port in describe_ports(system_ports())]}
    if args.json:
        print(json.dumps(document))
    else:
        render_radio.ports(document)
    return 0


def probe(args: argparse.Namespace) -> int:
    """``radio probe``: yes for a stick that the daemon can drive."""
    with _the_extra():
        from firmware_node.adapters.znp.probe import run_probe
    document = run_probe(args.port)
    if args.json:
        print(json.dumps(document))
    else:
        render_radio.probe(document)
    return 0 if document["result"] == "ok" else 1


def selftest(args: argparse.Namespace) -> int:
    """``radio selftest``: yes when nothing failed that the daemon needs."""
    with _the_extra():
        from firmware_node.adapters.znp.selftest import SelftestOptions, run_selftest
    options = SelftestOptions(
        port=args.port,
        peer=args.peer,
        erase=args.erase,
        keep=args.keep,
        join=args.join,
        channel=args.channel,
        install_code=args.install_code,
    )
    document = run_selftest(
        options, lambda line: None if args.json else render_radio.line(line.document())
    )
    if args.json:
        print(json.dumps(document))
    else:
        render_radio.verdict(document)
    return 0 if document["result"] == "pass" else 1


@contextlib.contextmanager
def _the_extra() -> Iterator[None]:
    """The stick's libraries may not be installed."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").startswith("firmware_node"):
            raise
        raise EnvironmentFailure(
            f"a ZNP stick needs {error.name}: pip install 'firmware-node[radio]'"
        ) from error
