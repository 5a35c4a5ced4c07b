"""A simulated day behind the live page: as many sessions, failures and stalls as a test wants.

The real server has what its visitors have done. This one plays the same requests and the same
stream with what would take visitors a day, and with a clock that a test can have run faster.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import mimetypes
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import chainlit_otel

ASSETS = Path(next(iter(chainlit_otel.__path__))) / "live" / "assets"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECONDS, MINUTES = 900, 1440
ROWS = 500

Row = dict[str, Any]

_PROFILES = ("fast", "careful", "GPT 4 with tools", "")
_CLIENTS = ("webapp", "webapp", "copilot", "teams")
_EVENTS = ("starts", "ends", "reconnects", "refused", "turns_ok", "turns_error", "turns_cancelled")
_SHARES = (0.4, 0.4, 0.1, 0.02, 0.9, 0.05, 0.04)
_HEADLINE = (
    ("creation_rate", "Sessions created", "1/min", "starts"),
    ("duration", "Mean session", "s", "connected"),
    ("concurrent", "Connected now", "sessions", "connected"),
    ("peak", "Peak", "sessions", "peak"),
    ("turns", "Turns", "1/min", "turns_ok"),
    ("first_token", "First token, p95", "s", "first_token_p95"),
    ("errors", "Turns failed", "ratio", "turns_error"),
    ("loop_lag", "Event loop lag", "s", "loop_lag"),
)


class LiveDay:
    """The day, and what serves it.

    Args:
        sessions: How many are open.
        ended: How many are over, and still kept.
        seed: Of the random numbers.
        speed: How many of its seconds go by in one.
        churn: How many rows change in a second.

    Attributes:
        rows: The rows of the sessions by their key, to be changed by `change`.
        turns: The rows of the turns by their key.
        requests: Which paths were asked for, in their order.
        figures: Values that the figures have from now on, in place of the simulated ones.
        missing: Figures that there are none of.
        blocked: What a tick says of the event loop, if it is blocked.
        levels: Levels of figures of the first row, by their name.
        denied: What each request for data is refused with, if it is.
    """

    def __init__(
        self,
        sessions: int = 40,
        *,
        ended: int = 60,
        seed: int = 1,
        speed: float = 1.0,
        churn: int = 5,
    ) -> None:
        self._dice = random.Random(seed)
        self._speed, self._churn = speed, churn
        self._started, self._began = float(int(time.time())), time.monotonic()
        self.requests: list[str] = []
        self.figures: dict[str, float | None] = {}
        self.missing: set[str] = set()
        self.blocked: Row | None = None
        self.levels: dict[str, str] = {}
        self.denied = ""
        self.silent = False
        self._streams: dict[asyncio.Queue[tuple[str, Any] | None], None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.rows = {row["key"]: row for row in (self._session(n) for n in range(sessions))}
        self.ended = {
            row["key"]: row for row in (self._session(10**6 + n, ended=True) for n in range(ended))
        }
        self.turns = {row["key"]: row for row in (self._turn(n) for n in range(ROWS))}
        self.url = ""

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def now(self) -> float:
        """The time of the day that is simulated."""
        return self._started + (time.monotonic() - self._began) * self._speed

    # --- what a test does ------------------------------------------------------------------

    def change(self, *rows: Row) -> None:
        """Add sessions or change them, and tell every stream."""
        for row in rows:
            at = self.ended if row.get("state") == "ended" else self.rows
            self.rows.pop(row["key"], None)
            if row.get("state") != "gone":
                at[row["key"]] = row
        self._tell("sessions", {"rows": list(rows)})

    def add_turn(self, *rows: Row) -> None:
        """Add turns, and tell every stream."""
        self.turns.update({row["key"]: row for row in rows})
        self._tell("turns", {"rows": list(rows)})

    def cut(self) -> None:
        """End every stream."""
        self._put(None)

    def session(self, key: str, **values: Any) -> Row:
        """Return the row of a new session."""
        return {**self._session(hash(key) % 1000), "key": key, "started": self.now(), **values}

    # --- what there is ---------------------------------------------------------------------

    def _session(self, n: int, ended: bool = False) -> Row:
        dice = self._dice
        age = dice.expovariate(1 / 900)
        turns = dice.randrange(12)
        state = "ended" if ended else "disconnected" if dice.random() < 0.08 else "connected"
        busy = state == "connected" and dice.random() < 0.3
        now = self.now()
        return {
            "key": f"s{n}",
            "id": f"{dice.getrandbits(64):016x}",
            "mode": "http" if dice.random() < 0.1 else "websocket",
            "client": dice.choice(_CLIENTS),
            "profile": dice.choice(_PROFILES),
            "origin": "new",
            "state": state,
            "started": now - age,
            "left": now - dice.random() * age / 3 if state != "connected" else None,
            "turns": turns,
            "errors": dice.randrange(2) if turns and dice.random() < 0.1 else 0,
            "cancelled": 0,
            "reconnects": dice.randrange(3) if dice.random() < 0.2 else 0,
            "undelivered": 1 if dice.random() < 0.03 else 0,
            "doing": {
                "since": now - dice.random() * 9,
                "callback": "on_message",
                "step": dice.choice(("tool search", "llm answer", "")),
            }
            if busy
            else None,
            "reason": "timeout" if ended else "",
            "seconds": age if ended else None,
        }

    def _turn(self, n: int) -> Row:
        dice = self._dice
        outcome = dice.choices(("ok", "error", "cancelled"), (90, 6, 4))[0]
        seconds = dice.lognormvariate(0.6, 0.8)
        session = dice.choice(list(self.rows.values()) or [self._session(0)])
        kept = "failed" if outcome == "error" else "slow" if seconds > 6 else "last"
        return {
            "key": f"t{n}",
            "session": session["id"],
            "session_key": session["key"],
            "number": 1 + n % 12,
            "source": "message",
            "profile": session["profile"],
            "client": session["client"],
            "started": self.now() - n * 7.3 - 5,
            "seconds": seconds,
            "first_token": seconds / 4 if outcome != "error" else None,
            "chunks": int(seconds * 20),
            "outcome": outcome,
            "error": dice.choice(("ValueError", "TimeoutError")) if outcome == "error" else "",
            "callback": "on_message",
            "steps": 2,
            "tools": [{"name": "search", "seconds": seconds / 3, "outcome": "ok"}],
            "models": _models(n, outcome),
            "undelivered": 0,
            "data_layer_errors": 0,
            "trace_id": f"{dice.getrandbits(128):032x}",
            "trace_url": "",
            "kept": kept,
        }

    def _figure(self, at: float, step: int) -> dict[str, float | None]:
        """The figures at a time; the same for the same time."""
        dice = random.Random(int(at) // 15)
        busy = 1.4 + 0.6 * math.sin(at / 2900) + 0.2 * math.sin(at / 361) + dice.random() / 9
        each_second = random.Random(int(at))
        connected = round(24 * busy)
        each = {
            name: sum(each_second.random() < busy * share / 2 for _ in range(step))
            for name, share in zip(_EVENTS, _SHARES, strict=True)
        }
        figures: dict[str, float | None] = {
            "connected": connected,
            "disconnected": round(3 * busy),
            "peak": max(connected, 30),
            **each,
            "turns_active": round(4 * busy),
            "turn_p50": 1.6 * busy,
            "turn_p95": 6.1 * busy + dice.random(),
            "first_token_p50": 0.4 * busy,
            "first_token_p95": 1.3 * busy + dice.random() / 3,
            "data_layer_p95": 0.02 * busy + dice.random() / 100,
            "chunks": round(step * 30 * busy),
            "undelivered": 0,
            "data_layer_operations": round(step * 4 * busy),
            "data_layer_errors": 0,
            "access_attempts": None,
            "access_denied": None,
            "memory": 180e6 + 9e6 * busy,
            "loop_lag": 0.002 + (0.2 if dice.random() > 0.995 else 0) + dice.random() / 300,
            "loop_blocked": 0,
        }
        return {k: v for k, v in {**figures, **self.figures}.items() if k not in self.missing}

    def _tick(self) -> Row:
        at = self.now()
        figures = self._figure(at, 1)
        values = {
            "creation_rate": 22.4, "duration": 863.0, "concurrent": figures.get("connected"),
            "peak": figures.get("peak"), "turns": 51.0, "first_token": 1.42, "errors": 0.0123,
            "loop_lag": figures.get("loop_lag"),
        }  # fmt: skip
        return {
            "at": at,
            "figures": figures,
            "headline": [
                {
                    "name": name,
                    "title": title,
                    "value": values[name],
                    "unit": unit,
                    "level": self.levels.get(name, "ok"),
                    "curve": curve,
                    "help": f"What {title.lower()} is, over the last minute.",
                }
                for name, title, unit, curve in _HEADLINE
            ],
            "loop": self.blocked or {"blocked": False, "seconds": 0, "where": ""},
        }

    # --- serving ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def served(self, port: int = 0) -> Iterator[LiveDay]:
        """Serve it at `url`, from a thread."""
        config = uvicorn.Config(self._app(), port=port, log_level="warning", lifespan="off",
                                timeout_graceful_shutdown=1)  # fmt: skip
        server = uvicorn.Server(config)

        def run() -> None:
            self._loop = asyncio.new_event_loop()
            self._loop.run_until_complete(server.serve())
            self._loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            yield self
        finally:
            self.cut()
            server.should_exit = True
            thread.join()

    def _app(self) -> Starlette:
        def data(answer: Callable[[Request], Any]) -> Callable[[Request], Response]:
            def endpoint(request: Request) -> Response:
                self.requests.append(request.url.path)
                if self.denied:
                    return JSONResponse({"error": self.denied}, 403)
                found = answer(request)
                return JSONResponse(found) if found else JSONResponse({"error": "gone"}, 404)

            return endpoint

        return Starlette(
            routes=[
                Route("/", lambda _: self._file("page.html")),
                Route("/live/assets/{name}", lambda r: self._file(r.path_params["name"])),
                Route("/live/data/history", data(self._history)),
                Route("/live/data/sessions", data(self._sessions)),
                Route("/live/data/sessions/{key}", data(self._one_session)),
                Route("/live/data/turns", data(self._turns)),
                Route("/live/data/turns/{key}", data(self._one_turn)),
                Route("/live/data/health", data(self._health)),
                Route("/live/data/stream", self._stream),
            ]
        )

    def _file(self, name: str) -> Response:
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return FileResponse(ASSETS / Path(name).name, media_type=kind, headers=headers)

    def _history(self, request: Request) -> Any:
        step = int(request.query_params["step"])
        end = int(self.now()) // step
        since = float(request.query_params.get("since", 0))
        slots = range(max(end - (SECONDS if step == 1 else MINUTES) + 1, math.ceil(since / step)),
                      end + 1)  # fmt: skip
        values = [self._figure(slot * step, step) for slot in slots]
        names = values[0] if values else {}
        figures = {name: [each[name] for each in values] for name in names}
        return {"step": step, "start": slots.start * step, "figures": figures}

    def _sessions(self, _: Request) -> Any:
        open_, ended = list(self.rows.values()), list(self.ended.values())
        return {"at": self.now(), "open": open_, "ended": ended}

    def _turns(self, _: Request) -> Any:
        return {"at": self.now(), "rows": list(self.turns.values())}

    def _one_session(self, request: Request) -> Any:
        key = request.path_params["key"]
        row = self.rows.get(key) or self.ended.get(key)
        if row is None:
            return None
        start, now = row["started"], self.now()
        part = (now - start) / 10
        events = [{"at": start, "kind": "connect", "detail": ""}]
        turns = []
        for n in range(row["turns"]):
            at, outcome = start + part * (1 + n * 7 / row["turns"]), "ok"
            if n == 1 and row["errors"]:
                outcome = "error"
            events.append({"at": at, "kind": "turn", "detail": n + 1})
            end = {"at": at + part / 3, "kind": "turn_end"}
            events.append({**end, "detail": "ValueError" if outcome == "error" else outcome})
            turns.append({**self.turns["t1"], "key": f"t{n}", "number": n + 1, "started": at,
                          "seconds": part / 3, "outcome": outcome})  # fmt: skip
        if row["reconnects"] or row["state"] == "disconnected":
            events.append({"at": start + part * 8.2, "kind": "drop", "detail": "transport close"})
            events.append({"at": start + part * 8.4, "kind": "undelivered", "detail": "1"})
        if row["state"] == "connected" and row["reconnects"]:
            events.append({"at": start + part * 9, "kind": "reconnect", "detail": ""})
        if row["state"] == "ended":
            events.append({"at": start + row["seconds"], "kind": "end", "detail": row["reason"]})
        return {"row": row, "events": events, "turns": turns}

    def _one_turn(self, request: Request) -> Any:
        row = self.turns.get(request.path_params["key"])
        if row is None:
            return None
        whole, failed = row["seconds"], row["outcome"]
        names = [
            ("a", "", "chainlit.turn", 0, 1, failed),
            ("b", "a", "callback on_message", 0.01, 0.97, failed),
            ("c", "b", "execute_tool search", 0.05, 0.33, "ok"),
            ("d", "c", "GET", 0.06, 0.28, "ok"),
            ("e", "b", "llm answer", 0.4, 0.5, failed),
            ("f", "b", "data_layer create_step", 0.92, 0.04, "ok"),
        ]
        spans = [
            {"id": key, "parent": parent, "name": name, "start": start * whole,
             "seconds": length * whole, "outcome": outcome,
             "attributes": {"session.id": row["session"], "chainlit.turn.number": row["number"]},
             "events": [{"at": start * whole, "name": "exception",
                         "attributes": {"exception.type": row["error"]}}] if row["error"] else []}
            for key, parent, name, start, length, outcome in names
        ]  # fmt: skip
        return {"row": row, "spans": spans, "dropped": 0}

    def _health(self, _: Request) -> Any:
        return {
            "status": "degraded",
            "version": "0.2.0",
            "chainlit": "2.9.0",
            "python": "3.11.4",
            "opentelemetry": "1.38.0",
            "service": {"name": "support-desk", "version": "1.4.2", "instance": "desk-7f9c"},
            "started": self._started - 90_000,
            "probes": {
                **{name: {"state": "on", "reason": ""} for name in ("sessions", "turns", "steps")},
                "bots": {"state": "off", "reason": "slack_bolt is not installed"},
                "files": {"state": "failing", "reason": "2 errors, the last: KeyError"},
            },
            "exporters": [
                {"signal": "traces", "destination": "http://collector:4318/v1/traces",
                 "lost": 12, "reasons": {"queue full": 12}},
                {"signal": "metrics", "destination": "scraped", "lost": 0, "reasons": {}},
            ],
            "settings": [
                {"name": "metrics_port", "env": "CHAINLIT_OTEL_METRICS_PORT", "value": 9464,
                 "is_default": True},
                {"name": "page_token", "env": "CHAINLIT_OTEL_PAGE_TOKEN", "value": "********",
                 "is_default": False},
            ],
            "series": 412,
            "links": [{"title": "Metrics", "url": "metrics"},
                      {"title": "Runbook", "url": "https://example.com/runbook"}],
            "memory": {"history": 1_482_752, "sessions": 240_000, "turns": 312_000},
        }  # fmt: skip

    async def _stream(self, _: Request) -> Response:
        self.requests.append("/live/data/stream")
        if self.denied:
            return JSONResponse({"error": self.denied}, 403)
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        self._streams[queue] = None
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                if loop.time() >= due:
                    due += 1 / self._speed
                    if not self.silent:
                        for name, event in (("tick", self._tick()), *self._changes()):
                            yield _event(name, event)
                try:
                    told = await asyncio.wait_for(queue.get(), max(0.0, due - loop.time()))
                except asyncio.TimeoutError:
                    continue
                if told is None:
                    return
                yield _event(*told)
        finally:
            del self._streams[queue]

    def _changes(self) -> Iterator[tuple[str, Any]]:
        if not self._churn or not self.rows:
            return
        changed = []
        for row in self._dice.choices(list(self.rows.values()), k=self._churn):
            row["turns"] += 1
            row["doing"] = None if row["doing"] else {
                "since": self.now(), "callback": "on_message", "step": "tool search"}  # fmt: skip
            changed.append(row)
        yield "sessions", {"rows": changed}

    def _tell(self, name: str, data: Any) -> None:
        self._put((name, data))

    def _put(self, message: Any) -> None:
        def put() -> None:
            for queue in self._streams:
                queue.put_nowait(message)

        self._call(put)

    def _call(self, function: Callable[[], Any]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function)


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _models(n: int, outcome: str) -> list[dict[str, Any]]:
    """What a turn used: most of two models, some without counts, those that failed of none."""
    if outcome == "error":
        return []
    sent, got = 900 + n * 37 % 5000, 40 + n * 13 % 700
    large = {
        "name": "gpt-4o",
        "inferences": 2,
        "uncounted": int(n % 7 == 0),
        "unpriced": 0,
        "input_tokens": sent,
        "output_tokens": got,
        "cost": (sent * 2.5 + got * 10) / 1e6,
    }
    small = {
        "name": "reranker",
        "inferences": 1,
        "uncounted": 0,
        "unpriced": 1,
        "input_tokens": sent // 3,
        "output_tokens": 1,
    }
    return [large] if n % 3 else [large, small]
