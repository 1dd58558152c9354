"""``fleet``: many devices from one command; arguments, files, and what is printed.

A run has a folder of its own, ``fleet-NAME`` where it was started unless ``--state`` names another:
its journal, its report, and while it runs the socket that the other commands speak to.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import re
import secrets
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from firmware_node.cli_agent import add_agent_parser, add_broker_arguments, broker_of, hosts_of
from firmware_node.errors import ConfigError, EnvironmentFailure

if TYPE_CHECKING:
    from firmware_node.adapters.fleet.hosts import Hosts
    from firmware_node.adapters.fleet.journal import Journal
    from firmware_node.adapters.fleet.run import Homes
    from firmware_node.adapters.fleet.workers import Workers
    from firmware_node.fleet.campaign import Campaign
    from firmware_node.fleet.terms import Member, Order, Plan

JOURNAL: Final = "journal.sqlite"
SOCKET: Final = "control.sock"
REPORTS: Final = ("results.json", "junit.xml", "report.html")
PLAN_MAX: Final = 1024 * 1024  # bytes; a plan is a few pages
IMAGE_FILE_MAX: Final = (
    17 * 1024 * 1024
)  # bytes; the largest image, with room for what is around it
PORT_MAX: Final = 65_535
WEB: Final = "127.0.0.1:0"
CUT_FOR: Final = "60s"
_OVERRIDES: Final = ("homes", "devices", "first_index", "seed", "start_jitter", "max_concurrent")
EVENTS_SHOWN: Final = 30
LOOK_S: Final = 0.5  # between two looks at a run that goes on; it commits every second


def add_verbs(verbs: Any) -> None:
    """Declare ``fleet`` and what is under it."""
    from firmware_node.cli import _group, _verb

    fleet = _group(verbs, "fleet", "many homes at once: campaigns, their views and reports")
    run = _verb(fleet, "run", _run, "run the campaign of a plan over its fleet")
    run.add_argument("plan", type=Path, metavar="PLAN", help="TOML; see examples/rollout.toml")
    run.add_argument("--homes", type=int, metavar="N")
    run.add_argument("--devices", metavar="TYPE=N,...", help="of each home: ppmid=1,hcalcs=1")
    run.add_argument("--first-index", type=int, metavar="N", help="of the homes, and so of the ids")
    run.add_argument("--seed", type=int, metavar="N")
    run.add_argument("--start-jitter", metavar="TIME", help="devices are switched on within it")
    run.add_argument("--max-concurrent", type=int, metavar="N", help="upgrades at once, each wave")
    run.add_argument("--stop-after", metavar="TIME", help="of virtual time: 90s, 30m, 2h, 1d")
    run.add_argument(
        "--speed",
        type=float,
        default=0.0,
        metavar="X",
        help="times real time; 0: all there is, over hosts 1",
    )
    run.add_argument("--shards", type=int, metavar="N", help="processes; default: the processors")
    run.add_argument("--state", type=Path, metavar="DIR", help="default: fleet-NAME")
    run.add_argument("--resume", action="store_true", help="go on where the run was cut off")
    run.add_argument("--fresh", action="store_true", help="throw away a run that was cut off")
    run.add_argument(
        "--web", default=WEB, metavar="[HOST:]PORT", help="the page; default: a free port, loopback"
    )
    run.add_argument("--metrics", type=int, metavar="PORT", help="the page and /metrics, loopback")
    run.add_argument("--no-web", action="store_true")
    run.add_argument(
        "--token-file", type=Path, metavar="FILE", help="needed where others can reach the page"
    )
    run.add_argument("--json", action="store_true", help="the results, and nothing else")
    add_broker_arguments(run)

    report = _verb(fleet, "report", _report, "write the reports of a run again, or print one")
    _state(report)
    report.add_argument("--print", choices=["json", "junit", "html"], dest="form")
    report.add_argument("--json", action="store_const", const="json", dest="form")

    log = _verb(fleet, "log", _log, "every event of a run, a line each, with its device")
    log.add_argument("device", nargs="*", help="these alone: entity id, or number in the fleet")
    log.add_argument("--follow", action="store_true", help="and what comes, while the run goes on")
    _state(log)
    log.add_argument("--json", action="store_true", help="a JSON document a line")

    listed = _verb(fleet, "list", _list, "the devices of a run that goes on")
    _state(listed)
    listed.add_argument("--phase", help="only these: failed, downloading, ...")
    listed.add_argument("--json", action="store_true")
    show = _verb(fleet, "show", _show, "one device: banks, events, last failure")
    _member(show)
    for name, text in (
        ("cut", "take a device's supply away for a while"),
        ("pause", "switch a device off"),
        ("resume", "switch a paused device on again"),
        ("remove", "take a device out of its home"),
        ("add", "bring a removed device back"),
        ("query", "have a device ask its hub for an image"),
    ):
        verb = _verb(fleet, name, _order, text)
        verb.set_defaults(order=name)
        _member(verb)
        if name == "cut":
            verb.add_argument("--for", default=CUT_FOR, dest="length", metavar="TIME")
    campaign = _verb(fleet, "campaign", _campaign, "pause, go on with, or stop the campaign")
    campaign.add_argument("action", choices=["start", "pause", "stop"])
    _state(campaign)
    campaign.add_argument("--json", action="store_true")
    add_agent_parser(fleet)


def _state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="default: the only fleet-NAME here"
    )


def _member(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", help="entity id, or its number in the fleet")
    _state(parser)
    parser.add_argument("--json", action="store_true")


# --- run ------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    from firmware_node.adapters.fleet.journal import Journal
    from firmware_node.fleet.campaign import Campaign
    from firmware_node.fleet.stock import check_images

    if not (math.isfinite(args.speed) and args.speed >= 0):
        raise ConfigError(f"--speed: expected 0 or more, found {args.speed}")
    if args.broker and args.shards:
        raise ConfigError("--shards: hosts have processes as their own settings say")
    if args.shards is not None and args.shards < 1:
        raise ConfigError(f"--shards: expected 1 or more, found {args.shards}")
    _address(args)
    about = _read_plan(args.plan)
    options = json.loads(about["options"]) | _options(args)
    about["options"] = json.dumps(options)
    plan = _plan(about["plan"], args.plan, options)
    is_folder = args.plan.is_dir()
    folder = args.state or (args.plan if is_folder else Path(f"fleet-{plan.name}"))
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        path = folder / JOURNAL
        if args.resume:
            journal = Journal.open(path)
            _refuse_other_options(journal, _options(args))
            plan, campaign = _stored(journal)
        else:
            _refuse_to_overwrite(path, args)
            check_images(plan, _image_files(plan, Path(about["where"]).parent))
            if args.broker:
                about["fleet"] = _bus_name(plan)
            for name in REPORTS:
                (folder / name).unlink(missing_ok=True)
            journal = Journal.create(path, about)
            campaign = Campaign(plan)
        with contextlib.closing(journal):
            return _carry_out(args, folder, plan, campaign, journal)


def _carry_out(
    args: argparse.Namespace, folder: Path, plan: Plan, campaign: Campaign, journal: Journal
) -> int:
    from firmware_node.adapters.fleet.lines import view_of
    from firmware_node.adapters.fleet.run import FleetRun
    from firmware_node.adapters.fleet.serve import Page, serve

    begin_ms = journal.now_ms
    resumed = campaign.state != "ready"
    if resumed and journal.about()["state"] != "running":
        raise ConfigError(f"{folder}: that run is over; --fresh begins another")
    orders: list[Order] = []
    if resumed and not args.broker:
        orders = campaign.reoffer(begin_ms)
        journal.put_life(begin_ms)
    out = sys.stderr if args.json else sys.stdout
    page = None if args.no_web else Page(*_address(args), _token(args.token_file))
    with contextlib.ExitStack() as stack:
        homes: Homes
        if args.broker:
            hosts, orders = _hosts(args, plan, journal)
            homes = stack.enter_context(hosts)
            if not resumed:  # later one may be away, and come back
                hosts.ready()
        else:
            hosts = None
            homes = stack.enter_context(_workers(args, plan, journal, resumed))
        run = FleetRun(
            plan,
            homes,
            campaign,
            journal,
            view_of(out),
            speed=0.0 if args.broker else args.speed,  # a turn of hosts waits for the wall
            stop_at_ms=_stop_at(args.stop_after),
            now_ms=begin_ms,
            far=hosts,
        )
        ended = serve(run, folder / SOCKET, page, orders)
        if hosts is not None and ended != "left":
            hosts.end()
    results = _write_reports(folder, plan, campaign, run.now_ms)
    totals = results["totals"]
    if args.json:
        print(json.dumps(results))
    else:
        print(_last_words(folder, ended, results))
    if ended == "left":
        return 130
    return 0 if ended == "done" and not totals["failed"] else 1


def _workers(args: argparse.Namespace, plan: Plan, journal: Journal, resumed: bool) -> Workers:
    """The homes on this machine."""
    from firmware_node.adapters.fleet.workers import Workers

    about = journal.about()
    if "fleet" in about:
        raise ConfigError(f"{about['fleet']}: its homes are on hosts; name their --broker")
    return Workers(
        plan,
        args.shards or os.cpu_count() or 1,
        files=_image_files(plan, Path(about["where"]).parent),
        begin_ms=journal.now_ms,
        kept=journal.kept() if resumed else None,
        absent=journal.held(),
    )


def _bus_name(plan: Plan) -> str:
    """A name for a run on the bus; another run has another one."""
    words = re.sub("[^a-z0-9]+", "-", plan.name.lower()).strip("-")
    return f"{words[:40] or 'fleet'}-{secrets.token_hex(3)}"


def _hosts(args: argparse.Namespace, plan: Plan, journal: Journal) -> tuple[Hosts, list[Order]]:
    """The homes on hosts, and the orders that were to be given next."""
    from firmware_node.adapters.fleet.run import HOSTS
    from firmware_node.fleet.terms import Order

    about = journal.about()
    if "fleet" not in about:
        raise ConfigError(f"{about['where']}: the homes of that run are here, not on hosts")
    journal.spare_no_sync()
    state = json.loads(about[HOSTS]) if HOSTS in about else {}
    hosts = hosts_of(
        args,
        plan,
        tomllib.loads(about["plan"]),
        fleet=about["fleet"],
        options=json.loads(about["options"]),
        files=_image_files(plan, Path(about["where"]).parent),
        state=state,
        history=journal.all_orders(),
    )
    return hosts, [Order(*order) for order in state.get("next", ())]


def _last_words(folder: Path, ended: str, results: Mapping[str, Any]) -> str:
    totals = results["totals"]
    said = {
        "done": "the campaign is over",
        "stopped": f"the campaign was stopped: {results['reason']}",
        "limit": "the time is over",
        "left": f"left as it stands; go on with: firmware-node fleet run {folder} --resume",
    }[ended]
    counts = ", ".join(f"{totals[name]} {name.replace('_', ' ')}" for name in totals)
    return f"{said}\n{counts}\nreport: {folder / 'report.html'}"


# --- a run's folder -------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One run at a time in a folder."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EnvironmentFailure(f"{folder}: a run goes on there") from error
        yield


def _refuse_to_overwrite(path: Path, args: argparse.Namespace) -> None:
    """A run that was cut off, unless its loss is wanted; then its hosts are told so."""
    from firmware_node.adapters.fleet.journal import Journal

    if not path.exists():
        return
    with contextlib.closing(Journal.open(path)) as journal:
        about = journal.about()
    if about["state"] != "running":
        return
    # One that never came to its first commit has nothing to go on with.
    if int(about["now_ms"]) and not args.fresh:
        raise ConfigError(
            f"{path.parent}: a run was cut off there; --resume goes on with it, --fresh throws it "
            "away"
        )
    if "fleet" in about:
        if not args.broker:
            raise ConfigError(f"{path.parent}: hosts have its homes; name their --broker")
        broker = broker_of(args)
        from firmware_node.adapters.fleet.site import forget

        forget(broker, args.site, about["fleet"])


def _refuse_other_options(journal: Journal, options: Mapping[str, Any]) -> None:
    """A run goes on as it was begun."""
    begun = json.loads(journal.about()["options"])
    for name, value in options.items():
        if begun[name] != value:
            option, was = f"--{name.replace('_', '-')}", begun[name]
            said = "without it" if was is None else f"with {was}"
            raise ConfigError(f"{option}: found {value}, but the run was begun {said}")


def _read_plan(path: Path) -> dict[str, str]:
    """The text of a plan, where it lies, and the options that a run of it had; as a journal has it.

    Images are named from where the plan lies, so that is kept in a way that holds anywhere.
    """
    if path.is_dir():  # a run's folder: its plan is in its journal
        from firmware_node.adapters.fleet.journal import Journal

        with contextlib.closing(Journal.open(path / JOURNAL)) as journal:
            about = journal.about()
        return {name: about[name] for name in ("plan", "options", "where")}
    options = json.dumps(dict.fromkeys(_OVERRIDES))
    return {"plan": _text_of(path), "options": options, "where": str(path.resolve())}


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > PLAN_MAX:
            raise ConfigError(f"{path}: expected at most {PLAN_MAX} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _plan(text: str, path: Path, options: Mapping[str, Any]) -> Plan:
    from firmware_node.fleet.plan import overridden, read_plan

    try:
        plan = read_plan(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return overridden(plan, **{name: options[name] for name in _OVERRIDES})


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says instead of the plan."""
    given = {name: getattr(args, name) for name in _OVERRIDES}
    return {name: value for name, value in given.items() if value is not None}


def _stored(journal: Journal) -> tuple[Plan, Campaign]:
    """The plan of a run, and its campaign as far as it came."""
    from firmware_node.fleet.campaign import Campaign

    about = journal.about()
    plan = _plan(about["plan"], Path(about["where"]), json.loads(about["options"]))
    campaign = Campaign.resume(plan, journal.turns())
    campaign.run_to(journal.now_ms)  # times that ran out in turns in which nothing else happened
    campaign.rows.take_changed()
    return plan, campaign


def _image_files(plan: Plan, beside: Path) -> dict[str, bytes]:
    """The images that the plan takes from files, named from where it lies."""
    files = {}
    for image in plan.images:
        if image.file is None:
            continue
        path = beside / image.file
        try:
            with path.open("rb") as file:
                files[image.name] = file.read(IMAGE_FILE_MAX + 1)
        except OSError as error:
            raise ConfigError(f"image {image.name}: {path}: {error.strerror}") from error
        if len(files[image.name]) > IMAGE_FILE_MAX:
            raise ConfigError(
                f"image {image.name}: {path}: expected at most {IMAGE_FILE_MAX} bytes"
            )
    return files


def _write_reports(folder: Path, plan: Plan, campaign: Campaign, now_ms: int) -> dict[str, Any]:
    """Each is whole or as it was before."""
    from firmware_node.fleet.results import results
    from firmware_node.tools import fleet_html, fleet_report

    document: dict[str, Any] = results(plan, campaign, now_ms)
    for name, data in zip(
        REPORTS,
        (
            fleet_report.results_json(document).encode(),
            fleet_report.junit(document, str(folder)),
            fleet_html.html(document, str(folder)).encode(),
        ),
        strict=True,
    ):
        part = folder / f".{name}.part"
        part.write_bytes(data)
        part.replace(folder / name)
    return document


def _report(args: argparse.Namespace) -> int:
    from firmware_node.adapters.fleet.journal import Journal

    folder = _folder(args.state, JOURNAL)
    with contextlib.closing(Journal.open(folder / JOURNAL)) as journal, journal.at_one_commit():
        plan, campaign = _stored(journal)
        now_ms = journal.now_ms
    _write_reports(folder, plan, campaign, now_ms)
    if args.form is None:
        print("\n".join(str(folder / name) for name in REPORTS))
    else:
        name = REPORTS[("json", "junit", "html").index(args.form)]
        print((folder / name).read_text(encoding="utf-8"))
    return 0


def replay(args: argparse.Namespace) -> int:
    """``rig replay SEED --device``: a home of a run once more, alone; the exit code.

    1: it did not go as it is written down, which would be a mistake of ours.
    """
    from firmware_node.adapters.fleet.journal import Journal
    from firmware_node.boundary import NOTIFICATIONS
    from firmware_node.fleet.again import run_again
    from firmware_node.fleet.home import TOLD
    from firmware_node.fleet.stock import Stock
    from firmware_node.fleet.terms import Event

    folder = _folder(args.state, JOURNAL)
    with contextlib.closing(Journal.open(folder / JOURNAL)) as journal, journal.at_one_commit():
        about = journal.about()
        if "fleet" in about:
            raise ConfigError(f"{folder}: its homes ran on hosts, in a time that is not kept here")
        plan = _plan(about["plan"], Path(about["where"]), json.loads(about["options"]))
        if plan.shape.seed != args.seed:
            raise ConfigError(f"{folder}: its seed is {plan.shape.seed}, not {args.seed}")
        member = _member_of(plan, args.device)
        members = tuple(other.index for other in plan.shape.members_of(member.home))
        recorded = journal.events(members)
        orders, lives, end_ms = journal.orders(members), journal.lives(), journal.now_ms
    stock = Stock(plan, _image_files(plan, Path(about["where"]).parent))
    told: list[Event] = []

    def tell(event: Event) -> None:
        told.append(event)
        if event.member == member.index and not args.json:
            print(_event_line(event.at_ms, event.name, event.fields), flush=True)

    home = run_again(plan, stock, member.home, orders, lives, end_ms, tell, tells_all=True)
    again = [event for event in told if event.name in TOLD or event.name not in NOTIFICATIONS]
    # What an order does at once has the time of the turn before, and is written down after it.
    order, written = (
        sorted(events, key=lambda event: (event.at_ms, event.member))
        for events in (again, recorded)
    )
    same = json.dumps(order) == json.dumps(written)
    status = home.show(member.index)
    if args.json:
        events = [event._asdict() for event in told if event.member == member.index]
        print(
            json.dumps({"result": "ok" if same else "failed", "events": events, "status": status})
        )
    else:
        print(f"{len(order)} events of this home, {'as' if same else 'NOT as'} they were recorded")
    return 0 if same else 1


def _member_of(plan: Plan, text: str) -> Member:
    from firmware_node.terms import EntityId

    if text.isascii() and text.isdecimal() and int(text) < plan.shape.size:
        return plan.shape.member(int(text))
    wanted = EntityId.parse(text)
    home = int.from_bytes(wanted.octets[4:], "big")
    first = plan.shape.first_index
    if first <= home < first + plan.shape.homes:
        for member in plan.shape.members_of(home):
            if member.entity_id == wanted:
                return member
    raise ConfigError(f"device: {text} is not in this fleet")


def _log(args: argparse.Namespace) -> int:
    from firmware_node.adapters.fleet.journal import Journal
    from firmware_node.tools.render import printable
    from firmware_node.wire.zcl import utc_text

    folder = _folder(args.state, JOURNAL)
    with contextlib.closing(Journal.open(folder / JOURNAL)) as journal:
        about = journal.about()
        plan = _plan(about["plan"], Path(about["where"]), json.loads(about["options"]))
        wanted = {_member_of(plan, text).index for text in args.device}
        last, goes_on = 0, True
        while goes_on:
            goes_on = args.follow and journal.about()["state"] == "running"
            for number, event in journal.events_after(last):
                last = number
                if wanted and event.member not in wanted:
                    continue
                at = utc_text(plan.start_utc + event.at_ms // 1000)
                who = str(plan.shape.member(event.member).entity_id)
                if args.json:
                    fields = {"at": at, "at_ms": event.at_ms, "entity_id": who, "name": event.name}
                    print(json.dumps(fields | {"fields": dict(event.fields)}))
                else:
                    said = " ".join(f"{field}={value}" for field, value in event.fields.items())
                    print(printable(f"{at} {who} {event.name} {said}"))
            sys.stdout.flush()
            if goes_on:
                time.sleep(LOOK_S)
    return 0


def _event_line(at_ms: int, name: str, fields: Mapping[str, Any]) -> str:
    from firmware_node.tools.render import printable

    said = " ".join(f"{field}={value}" for field, value in fields.items())
    return printable(f"{at_ms / 1000:>12.3f} s  {name} {said}")


# --- a run that goes on ---------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    document = _ask(args, "GET", "/results.json")
    devices = [device for device in document["devices"] if args.phase in (None, device["phase"])]
    if args.json:
        print(json.dumps({"now_ms": document["now_ms"], "devices": devices}))
        return 0
    for device in devices:
        who = f"{device['index']:>6} {device['entity_id']} {device['type']:<6}"
        is_at = f"{device['phase']:<12} {device['version'] or '-':<8} {device['wave'] or '-':<16}"
        print(f"{who} {is_at} {device['words'] or ''}".rstrip())
    return 0


def _show(args: argparse.Namespace) -> int:
    from firmware_node.tools import render

    document = _ask(args, "GET", f"/v1/members/{_index(args)}")
    if args.json:
        print(json.dumps(document))
        return 0
    events = document.pop("events")
    render.fields(document, "")
    for event in events[-EVENTS_SHOWN:]:
        print(_event_line(event["at_ms"], event["name"], event["fields"]))
    return 0


def _order(args: argparse.Namespace) -> int:
    amount = _milliseconds("--for", args.length) if args.order == "cut" else 0
    body = {"verb": args.order, "amount": amount}
    return _told(args, _ask(args, "POST", f"/v1/members/{_index(args)}/orders", body))


def _campaign(args: argparse.Namespace) -> int:
    return _told(args, _ask(args, "POST", "/v1/campaign", {"action": args.action}))


def _told(args: argparse.Namespace, document: Mapping[str, Any]) -> int:
    print(json.dumps(document) if args.json else document["text"])
    return 0


def _ask(
    args: argparse.Namespace, method: str, target: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    from firmware_node.adapters.control_client import ask

    given = None if body is None else dict(body)
    return ask(_folder(args.state, SOCKET) / SOCKET, method, target, given)


def _folder(state: Path | None, name: str) -> Path:
    """The folder that was named, or the only one here that has such a file."""
    if state is not None:
        return state
    found = sorted(path.parent for path in Path().glob(f"fleet-*/{name}"))
    if len(found) != 1:
        listed = ", ".join(str(path) for path in found) or "none"
        raise ConfigError(f"--state: expected one fleet-NAME in this folder, found {listed}")
    return found[0]


def _index(args: argparse.Namespace) -> int:
    """The member that is meant, by its number or its entity id."""
    if args.device.isascii() and args.device.isdecimal() and len(args.device) < 10:
        return int(args.device)
    from firmware_node.terms import EntityId

    wanted = str(EntityId.parse(args.device))
    fleet = _ask(args, "GET", "/v1/fleet")
    prefixes = [place["prefix"] for place in fleet["places"]]
    home: int = int(wanted.replace("-", "")[8:], 16) - fleet["first_index"]
    for number, prefix in enumerate(prefixes):
        if wanted.startswith(prefix) and 0 <= home < fleet["homes"]:
            return home * len(prefixes) + number
    raise ConfigError(f"device: {wanted} is not in this fleet")


# --- values ---------------------------------------------------------------------------------------


def _address(args: argparse.Namespace) -> tuple[str, int]:
    if args.metrics is not None:
        if not 0 <= args.metrics <= PORT_MAX:
            raise ConfigError(
                f"--metrics: expected a port from 0 to {PORT_MAX}, found {args.metrics}"
            )
        return "127.0.0.1", int(args.metrics)
    host, _, port = args.web.rpartition(":")
    if not port.isdecimal() or len(port) > 5 or int(port) > PORT_MAX:
        raise ConfigError(f"--web: expected [HOST:]PORT, found {args.web}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not token:
        raise ConfigError(f"{path}: expected a token, found nothing")
    return token


def _milliseconds(name: str, text: str) -> int:
    from firmware_node.fleet.plan_values import duration

    return int(duration()(name, int(text) if text.isdecimal() else text))


def _stop_at(text: str | None) -> int | None:
    return None if text is None else _milliseconds("--stop-after", text)
