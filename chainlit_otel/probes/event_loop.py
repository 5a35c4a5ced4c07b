"""The event loop that serves Chainlit: its heartbeat, and a watchdog thread that checks for it.

A blocked loop serves nobody, and connections are lost over it. Nothing in Chainlit reports it, so
the loop itself is measured: the one on which the server has started; or the one on which a session
is made (`BaseSession.__init__`), for hosts without a lifespan and for a later `enable()`.

The watchdog does not use the thread of the admin server. That server may be off, or have found no
port; and the log record of a stall goes through handlers whose lock the blocked thread may hold,
for which `/metrics` must not wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import sys
import sysconfig
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from threading import Event, Lock, Thread, current_thread, get_ident
from types import CodeType
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.core.stalls import INTERVAL, THRESHOLD, Heartbeat, Source, Stall
from chainlit_otel.guard import Guard, log
from chainlit_otel.live.figures import LoopState
from chainlit_otel.patching import Patches, SeamMissing
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.probes.callbacks import Callbacks
from chainlit_otel.probes.chainlit_types import ChainlitSession
from chainlit_otel.probes.messages import Messages
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.steps import Steps

CallbackOf = Callable[[CodeType], "str | None"]
"""Returns the name of the callback whose function has this code object, or None."""

OnStall = Callable[[Stall, "asyncio.Task[Any] | None"], None]
"""Called in the watchdog's thread, with the task that was running on the blocked loop."""

StepOf = Callable[["asyncio.Task[Any] | None"], "tuple[str, str] | None"]
"""Returns type and name of the step that a task is in, or None; called in the watchdog's thread."""

Line = tuple[CodeType, int]

SAMPLED = 2
"""Beats that are recorded as one, by the largest lag: a record costs more than a beat."""

LATE = 0.05
"""Seconds after which a watchdog that should have woken was kept from it. A thread asks for the
interpreter every 5 ms (`sys.getswitchinterval`) and gets it, unless a call in C holds it."""

_STDLIB = tuple({os.path.join(sysconfig.get_path(n), "") for n in ("stdlib", "platstdlib")})
_PACKAGE_DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_NOT_CODE = ("<", _PACKAGE_DIRECTORY)
_INSTALLED = ("site-packages", "dist-packages")


def describe(lines: Iterable[Line], callback_of: CallbackOf, seen_late: bool = False) -> Stall:
    """Describe a stall.

    Args:
        lines: What was being executed, innermost first.
        callback_of: Names callbacks.
        seen_late: Whether the watchdog was kept from looking before.
    """
    callback: str | None = None
    innermost: Source | None = None
    best: dict[int, Source] = {}
    for code, line in lines:
        if innermost is None and not code.co_filename.startswith(_NOT_CODE):
            innermost = _source(code, line)
        name = callback_of(code)
        callback = callback or name
        rank = _rank(code.co_filename, name is not None)
        if rank is not None and rank not in best:
            best[rank] = _source(code, line)
    source = best[min(best)] if best else None
    inside = None if innermost == source else innermost
    return Stall(callback, source, seen_late, innermost=inside)


def _source(code: CodeType, line: int) -> Source:
    return Source(_shown(code.co_filename), line, code.co_name)


def _rank(file: str, is_callback: bool) -> int | None:
    """Return how good a file is as the source of a stall, 0 the best; None if it is none.

    The app's own files are best. An app may be installed like any package: then the file of its
    callback is the one that is known to be its own.
    """
    if file.startswith(_NOT_CODE):
        return None
    chainlit = os.path.dirname(import_module("chainlit").__file__ or "")
    is_chainlit = file.startswith(os.path.join(chainlit, ""))
    is_installed = not set(_INSTALLED).isdisjoint(file.split(os.sep))
    if not (is_chainlit or is_installed or file.startswith(_STDLIB)):
        return 0
    if is_chainlit or is_callback:
        return 1
    return 2 if is_installed else None


def _shown(file: str) -> str:
    """Return a path relative to the app or to `sys.path`, without directories of the machine."""
    if not os.path.isabs(file):
        return file
    app_root = import_module("chainlit.config").APP_ROOT
    for root in (app_root, *sorted(filter(None, sys.path), key=len, reverse=True)):
        directory = os.path.join(os.path.abspath(root), "")
        if file.startswith(directory):
            return file[len(directory) :]
    return os.path.basename(file)


class LoopMonitor:
    """Monitors the loop of the application.

    Args:
        guard: Holds what goes wrong in this probe.
        telemetry: Takes the lags.
        callback_of: Names callbacks.
        step_of: Names the step that a task is in.
        on_stall: Called with each stall that is detected while it lasts.

    Attributes:
        heartbeat: Counts the stalls of all loops, one after the other.
        patches: What was installed; nothing is monitored without.
    """

    def __init__(
        self,
        guard: Guard,
        telemetry: Telemetry,
        callback_of: CallbackOf,
        step_of: StepOf,
        on_stall: OnStall,
    ) -> None:
        self.guard = guard
        self.heartbeat = Heartbeat()
        self.patches: Patches | None = None
        self._telemetry = telemetry
        self._callback_of = callback_of
        self._step_of = step_of
        self._on_stall = on_stall
        self._beats = 0
        self._lag = 0.0
        self._stall = Stall()
        self._lock = Lock()
        self._watchdog: _Watchdog | None = None

    def start(self) -> None:
        """Monitor the loop of this thread, unless a loop that runs is monitored already."""
        if self.patches is None or not self.patches.active:
            return
        if self._watchdog is not None and self._watchdog.is_alive():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # An endpoint that is no coroutine makes its session in a worker thread.
            return
        with self._lock:
            if self._watchdog is None or not self._watchdog.is_alive():
                self._stop()
                self._watchdog = _Watchdog(loop, self)

    def stop(self) -> None:
        """Stop monitoring."""
        with self._lock:
            self._stop()

    def state(self) -> LoopState:
        """Return how the loop is, for the live page."""
        heartbeat, seconds = self.heartbeat, self.heartbeat.blocked_for()
        where = str(self._stall.source or "") if seconds else ""
        return LoopState(seconds > 0, seconds, where, heartbeat.take_worst())

    def beat(self) -> None:
        """The loop has run a beat."""
        beat = self.heartbeat.beat()
        if beat is None:
            return
        self._beats += 1
        self._lag = max(self._lag, beat.lag)
        if self._beats >= SAMPLED or beat.lag >= THRESHOLD:
            self._telemetry.record(catalog.EVENT_LOOP_LAG, self._lag)
            self._beats, self._lag = 0, 0.0
        if beat.late_detection:
            _log_stall(Stall())

    def stalled(self, lines: list[Line], task: asyncio.Task[Any] | None, seen_late: bool) -> None:
        """A stall began.

        Args:
            lines: What was being executed, innermost first.
            task: The task in which it was.
            seen_late: Whether the watchdog was kept from looking before.
        """
        if not self.heartbeat.stalled:
            # It has ended meanwhile, and these lines may be those of what ran next.
            lines, task = [], None
        stall = describe(lines, self._callback_of, seen_late)
        self._stall = stall = replace(stall, step=self._step_of(task))
        _log_stall(stall)
        self._on_stall(stall, task)

    def _stop(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        self.heartbeat.pause()


class _Watchdog:
    """The beats of one loop, and the thread that checks for them. It keeps no loop alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monitor: LoopMonitor) -> None:
        self._loop = weakref.ref(loop)
        self._monitor = monitor
        self._thread_id = 0
        self._caller: CodeType | None = None
        self._done = Event()
        self._thread = Thread(target=self._run, name="chainlit-otel-watchdog", daemon=True)
        self._thread.start()
        # In an empty context, since the current one may hold a session and would live on.
        loop.call_soon(self._beat, context=contextvars.Context())

    def is_alive(self) -> bool:
        loop = self._loop()
        return loop is not None and loop.is_running() and not self._done.is_set()

    def stop(self) -> None:
        self._done.set()
        if self._thread is not current_thread():
            self._thread.join(timeout=1)

    def _beat(self) -> None:
        loop = self._loop()
        if loop is None or self._done.is_set():
            return
        # The function that runs callbacks in this kind of loop: all frames inside it are of one.
        self._thread_id, self._caller = get_ident(), sys._getframe(1).f_code
        with self._monitor.guard:
            self._monitor.beat()
        loop.call_later(INTERVAL, self._beat)

    def _run(self) -> None:
        wait: float | None = THRESHOLD
        while wait is not None:
            wakes = time.monotonic() + wait
            if self._done.wait(wait):
                return
            wait = self._check(late=time.monotonic() - wakes > LATE)

    def _check(self, late: bool) -> float | None:
        """Check once; return the seconds until the next check, or None if the loop is gone."""
        loop = self._loop()
        if loop is None or loop.is_closed():
            return None
        with self._monitor.guard:
            if not loop.is_running():
                self._monitor.heartbeat.pause()
                return THRESHOLD
            check = self._monitor.heartbeat.check()
            if check.began:
                self._monitor.stalled(self._lines(), asyncio.current_task(loop), late)
            return check.wait
        return THRESHOLD

    def _lines(self) -> list[Line]:
        """Return what the loop executes now, innermost first; nothing if it waits for events."""
        lines: list[Line] = []
        frame = sys._current_frames().get(self._thread_id)
        try:
            while frame is not None:
                if frame.f_code is self._caller:
                    return lines
                lines.append((frame.f_code, frame.f_lineno))
                frame = frame.f_back
            return []
        finally:
            # A frame keeps its locals alive, and a traceback would keep the frame.
            del frame


def _log_stall(stall: Stall) -> None:
    is_, wait = ("is", "wait") if stall.source else ("was", "waited")
    log(
        logging.WARNING,
        "the event loop %s blocked for more than %g s %s; all users %s",
        is_,
        THRESHOLD,
        stall,
        wait,
    )


class EventLoop(Probe):
    """Monitors the loop that serves Chainlit.

    Attributes:
        monitor: What monitors it.
    """

    name = "event_loop"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self.monitor = LoopMonitor(
            self.guard,
            self.telemetry,
            context.get(Callbacks).name_of,
            context.get(Steps).running,
            context.get(Messages).on_stall,
        )

    def install(self, patches: Patches) -> None:
        """Start to monitor the loop as soon as it is known."""
        module = import_module("chainlit.session")
        if not hasattr(module, "BaseSession"):
            raise SeamMissing("chainlit.session.BaseSession")
        patches.wrap_attribute(module.BaseSession, "__init__", _wrap_session_init(self))
        self.telemetry.register_observable(
            catalog.EVENT_LOOP_BLOCKED, self.monitor.heartbeat.blocked, self.guard
        )
        self.telemetry.register_observable(
            catalog.EVENT_LOOP_BLOCKED_TIME, self.monitor.heartbeat.blocked_time, self.guard
        )
        self.monitor.patches = patches
        if module.ws_sessions_id:
            self.monitor.start()

    def on_serving(self) -> None:
        """Monitor the loop that the server has started on."""
        self.monitor.start()

    def end(self, reason: str) -> None:
        """Stop monitoring."""
        self.monitor.stop()


def _wrap_session_init(probe: EventLoop) -> Any:
    def wrapper(wrapped: Any, session: ChainlitSession, args: Any, kwargs: Any) -> None:
        with probe.guard:
            probe.monitor.start()
        wrapped(*args, **kwargs)

    return wrapper
