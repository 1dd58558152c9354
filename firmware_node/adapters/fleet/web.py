"""A fleet in the browser: one static page, what it reads, reports, and metrics.

    /                         the page; ``/page/NAME`` is what it loads
    /v1/fleet                 who is in the fleet, and a snapshot without rows
    /v1/events                snapshots as they come (server-sent events), with what changed;
                              ``end`` when the run is over
    /v1/members/INDEX         a device;  POST /v1/members/INDEX/orders  {"verb", "amount"}
    POST /v1/campaign         {"action"}
    /v1/openapi.json          this, for programs
    /metrics                  in the text format of Prometheus
    /report.html /results.json /junit.xml     what the run came to so far

Who is let in is decided by ``guard``. A stream asks for a snapshot twice a second and sends it when
something changed; so the run loop need not know who looks, and a slow browser slows only its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from firmware_node.adapters.fleet.backend import ACTIONS, VERBS, FleetBackend
from firmware_node.adapters.fleet.guard import COOKIE, Guard
from firmware_node.adapters.fleet.metrics import FleetMetrics
from firmware_node.errors import EnvironmentFailure, FirmwareNodeError
from firmware_node.fleet.live_json import fleet_document, snapshot_document
from firmware_node.fleet.terms import Order
from firmware_node.tools import fleet_html, fleet_report

INTERVAL_S: Final = 0.5  # between looks of a stream
HEARTBEAT_S: Final = 15.0  # a stream is not silent longer, so that proxies keep it
STREAMS_MAX: Final = 32  # each costs a task, and a copy of the rows when it begins
MEMBERS_SHOWN_MAX: Final = 200_000  # that the page draws; some 5 MB when it begins
BODY_MAX: Final = 4096  # bytes; an order is a few words
AMOUNT_MAX: Final = 86_400_000  # ms: a supply is cut for a day at most
_PAGE: Final = {
    "index.html": "text/html",
    "fleet.css": "text/css",
    "fleet.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # an address may have held the token
    "Cross-Origin-Resource-Policy": "same-origin",
}
_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FleetWeb:
    """Serves one fleet on one address, or on a Unix ``socket`` of its owner alone.

    ``folder`` is the run's, as commands on that machine name it.

    Raises:
        ConfigError: see ``Guard``.
    """

    def __init__(
        self,
        backend: FleetBackend,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        socket: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        self._backend = backend
        self._host = host
        self._port = port
        self._socket = socket
        self._folder = None if folder is None else str(folder)
        self._guard = Guard(host, token)
        self._metrics = FleetMetrics(backend.snapshot)
        self._run = secrets.token_hex(4)  # so that a browser notices that another run answers
        self._streams = 0
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def open(self) -> str:
        """Answer; the address for people, with the port that was free if it was 0.

        Raises:
            EnvironmentFailure: the address cannot be had.
        """
        app = web.Application(middlewares=[self._let_in], client_max_size=BODY_MAX)
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/page/{name}", self._static),
                web.get("/v1/fleet", self._fleet),
                web.get("/v1/events", self._events),
                web.get("/v1/members/{index}", self._member),
                web.post("/v1/members/{index}/orders", self._order),
                web.post("/v1/campaign", self._campaign),
                web.get("/v1/openapi.json", self._openapi),
                web.get("/metrics", self._metrics_page),
                web.get("/report.html", self._report),
                web.get("/results.json", self._results),
                web.get("/junit.xml", self._junit),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2 * INTERVAL_S)
        await self._runner.setup()
        site: web.BaseSite = web.TCPSite(self._runner, self._host, self._port)
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
            site = web.UnixSite(self._runner, self._socket)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            where = self._socket or f"{self._host}:{self._port}"
            raise EnvironmentFailure(f"{where}: {error.strerror or error}") from error
        if self._socket is not None:
            self._socket.chmod(0o600)
            return str(self._socket)
        port = self._runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{port}/"

    async def close(self) -> None:
        """End streams, stop listening."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            if self._socket is not None:
                self._socket.unlink(missing_ok=True)

    # --- every request ----------------------------------------------------------------------------

    @web.middleware
    async def _let_in(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            response = await self._checked(request, handler)
        except web.HTTPException as error:
            response = _error(error.status, error.reason)
        except FirmwareNodeError as error:
            response = _error(400, str(error))
        if not response.prepared:
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    async def _checked(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        refusal = self._guard.refuses(request.headers)
        if refusal is not None:
            return _error(403, refusal)
        token = request.query.get("token")
        if request.path == "/" and token is not None and self._guard.is_token(token):
            answer = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(COOKIE, self._guard.cookie, httponly=True, samesite="Strict")
            return answer
        if not self._guard.knows(request.headers, request.cookies.get(COOKIE)):
            answer = _error(401, "a token is needed: Authorization: Bearer, or /?token= once")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        return await handler(request)

    # --- the page ---------------------------------------------------------------------------------

    async def _index(self, _: web.Request) -> web.Response:
        return _static("index.html")

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _PAGE:
            raise web.HTTPNotFound
        return _static(name)

    # --- reading ----------------------------------------------------------------------------------

    async def _fleet(self, _: web.Request) -> web.Response:
        seen = self._backend.snapshot()
        document = fleet_document(seen.plan) | {"run": self._run, "folder": self._folder}
        document["members_shown"] = min(seen.plan.shape.size, MEMBERS_SHOWN_MAX)
        document["history"] = [list(point) for point in seen.history]
        return _json(document | {"snapshot": snapshot_document(seen)})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._streams >= STREAMS_MAX:
            return _error(503, f"{STREAMS_MAX} others are looking")
        response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self._streams += 1
        try:
            await self._stream(response, self._since(request.headers.get("Last-Event-ID")))
        except ConnectionResetError:
            _log.debug("a browser left")
        finally:
            self._streams -= 1
        return response

    async def _stream(self, response: web.StreamResponse, since: int) -> None:
        last: tuple[object, ...] = ()
        silent_s = 0.0
        while True:
            is_last = self._closing.is_set()
            seen = self._backend.snapshot(since)
            now = (seen.revision, seen.now_ms, seen.campaign)
            if now != last:
                document = snapshot_document(seen)
                document["since"], document["run"] = since, self._run
                shown = [row for row in document["rows"] if row[0] < MEMBERS_SHOWN_MAX]
                text = json.dumps(document | {"rows": shown}, separators=(",", ":"))
                await response.write(
                    f"id: {self._run}-{seen.revision}\nevent: snapshot\ndata: {text}\n\n".encode()
                )
                last, since, silent_s = now, seen.revision, 0.0
            elif silent_s >= HEARTBEAT_S:
                await response.write(b": still here\n\n")
                silent_s = 0.0
            if is_last:
                await response.write(b"event: end\ndata: {}\n\n")
                return
            try:
                async with asyncio.timeout(INTERVAL_S):
                    await self._closing.wait()
            except TimeoutError:
                silent_s += INTERVAL_S

    def _since(self, last_event_id: str | None) -> int:
        """Where a browser that lost us goes on; 0, which is all, after another run."""
        run, _, revision = (last_event_id or "").partition("-")
        return int(revision) if run == self._run and revision.isdecimal() else 0

    async def _member(self, request: web.Request) -> web.Response:
        return _json(await self._backend.member(self._index_of(request)))

    async def _openapi(self, _: web.Request) -> web.Response:
        from firmware_node.adapters.fleet.description import description

        return _json(description())

    async def _metrics_page(self, _: web.Request) -> web.Response:
        page = self._metrics.page()
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _report(self, _: web.Request) -> web.Response:
        page = await asyncio.to_thread(fleet_html.html, await self._backend.results(), self._folder)
        policy = fleet_html.html_policy()  # it has its style and script inside
        headers = {"Content-Security-Policy": policy}
        return web.Response(text=page, content_type="text/html", headers=headers)

    async def _results(self, _: web.Request) -> web.Response:
        text = await asyncio.to_thread(fleet_report.results_json, await self._backend.results())
        return web.Response(text=text, content_type="application/json")

    async def _junit(self, _: web.Request) -> web.Response:
        body = await asyncio.to_thread(
            fleet_report.junit, await self._backend.results(), self._folder
        )
        return web.Response(body=body, content_type="application/xml")

    # --- steering ---------------------------------------------------------------------------------

    async def _order(self, request: web.Request) -> web.Response:
        member = self._index_of(request)
        body = await _body(request)
        verb, amount = body.get("verb"), body.get("amount", 0)
        if verb not in VERBS:
            return _error(400, f"verb: expected one of {', '.join(VERBS)}")
        if type(amount) is not int or not 0 <= amount <= AMOUNT_MAX:
            return _error(400, f"amount: expected 0 to {AMOUNT_MAX} ms")
        text = await self._backend.order(Order(str(verb), member, amount=amount))
        return _json({"done": True, "text": text})

    async def _campaign(self, request: web.Request) -> web.Response:
        action = (await _body(request)).get("action")
        if action not in ACTIONS:
            return _error(400, f"action: expected one of {', '.join(ACTIONS)}")
        return _json({"done": True, "text": await self._backend.campaign(str(action))})

    def _index_of(self, request: web.Request) -> int:
        text = request.match_info["index"]
        size = self._backend.snapshot().plan.shape.size
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < size):
            raise web.HTTPNotFound(reason=f"expected a member from 0 to {size - 1}")
        return int(text)


def _static(name: str) -> web.Response:
    data = files("firmware_node.adapters.fleet").joinpath("page", name).read_bytes()
    return web.Response(body=data, content_type=_PAGE[name], charset="utf-8")


def _json(document: Mapping[str, Any]) -> web.Response:
    return web.json_response(document)


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


async def _body(request: web.Request) -> Mapping[str, Any]:
    """A JSON object; its media type makes a browser ask before another site may send one."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(reason="expected application/json")
    try:
        document = json.loads(await request.read())
    except ValueError as error:
        raise web.HTTPBadRequest(reason="the body is not JSON") from error
    if not isinstance(document, dict):
        raise web.HTTPBadRequest(reason="expected a JSON object")
    return document
