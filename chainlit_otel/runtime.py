"""Puts the parts together and holds the one active instance."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from threading import RLock, Thread
from time import monotonic
from typing import Any

import wrapt
from opentelemetry import trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from starlette.types import ASGIApp

from chainlit_otel import catalog, patching
from chainlit_otel.announcement import announce, sent, served, shown
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.guard import Guard, log
from chainlit_otel.live import traces
from chainlit_otel.live.figures import WATCHED
from chainlit_otel.live.health import describe_health, describe_process
from chainlit_otel.live.page import Live
from chainlit_otel.live.traces import TraceStore
from chainlit_otel.patching import Patches, SeamMissing, Unavailable
from chainlit_otel.pipeline.forks import renew_locks
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.pipeline.providers import Pipeline, build_pipeline, losses
from chainlit_otel.pipeline.spans import Tracing
from chainlit_otel.probes import PROBES, lifecycle
from chainlit_otel.probes.access import Access
from chainlit_otel.probes.data_layer.discovery import Discovery
from chainlit_otel.probes.event_loop import EventLoop
from chainlit_otel.probes.messages import Messages, current_turn
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.sessions import Sessions, current_session
from chainlit_otel.records.recorder import build_recorder
from chainlit_otel.resources import caches, pools, registry
from chainlit_otel.server.access import BelowPath, PageAccess, is_loopback
from chainlit_otel.server.admin import AdminServer
from chainlit_otel.server.app import admin_app
from chainlit_otel.server.live_page import LivePage
from chainlit_otel.server.metrics import MetricsEndpoint
from chainlit_otel.settings import Settings
from chainlit_otel.version import __version__

# The last module that Chainlit's server imports: once it is there, every seam is.
_LAST_MODULE = "chainlit.socket"

OPTIONAL_PROBES = tuple(probe.name for probe in PROBES if probe.is_optional)
# The state of a probe whose installation failed for an unknown reason.
FAILED = "off: it failed"

_lock = RLock()
_active: Runtime | None = None
_last_runtime: Runtime | None = None
# In a forked child: the parent's instance, until the child serves Chainlit itself.
_inherited: Runtime | None = None


def enable(
    settings: Settings | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Observe Chainlit from now on. Calling it again changes nothing.

    Other settings than those in force are named in a warning then.

    It may stand anywhere in the app, above or below the callbacks, and before or after
    `mount_chainlit`; Chainlit itself is not imported by it.

    Args:
        settings: The settings; by default those of the environment.
        tracer_provider: Where spans go; by default the global provider, which is one of ours
            if nobody has set one and the standard variables name an endpoint.
        meter_provider: Where the metrics go; by default the global provider if the
            application has set one, else one of ours, which becomes the global one.

    Raises:
        ValueError: A setting is unknown or out of its range.
    """
    global _active, _last_runtime
    asked, settings = settings, settings or Settings()
    with _lock:
        _active = _active or _runtime_of_earlier_import()
        if _active is not None:
            with Guard("server"):
                _active.warn_of_differences(asked, tracer_provider, meter_provider)
        if _active is not None or _inherited is not None:
            return
        if settings.disabled:
            log(logging.INFO, "chainlit-otel is off (OTEL_SDK_DISABLED)")
            return
        pipeline = build_pipeline(settings, meter_provider, tracer_provider)
        # The histograms of a provider go on counting, so the ledgers behind them do, too.
        is_reusable = _last_runtime is not None and _last_runtime.same_config(settings, pipeline)
        last, _last_runtime = _last_runtime if is_reusable else None, None
        with Guard("server"):
            runtime = last or Runtime(settings, pipeline)
            runtime.start()
            _active = runtime


def disable() -> None:
    """Undo every patch and stop serving. Without `enable()` before, it does nothing.

    Sessions that are open end as `other` in the ledger, since nobody will see their end, and
    what has been recorded is exported. A wrapper that somebody has wrapped in turn cannot be
    taken out; it goes inert.

    It may be called anywhere, in a signal handler, too. If that has interrupted code that holds a
    lock that is needed here, it returns after twice the `shutdown_timeout`, and the rest is done
    in the background once that lock is free.
    """
    global _active, _last_runtime, _inherited
    with _lock:
        if _inherited is not None:
            _inherited.undo_patches()
            _inherited = None
        runtime, _active = _active or _runtime_of_earlier_import(), None
        if runtime is not None:
            _last_runtime = runtime if runtime.close() else None


def access_denied(scope: str, reason: str) -> None:
    """Count something that the app denied, such as a request over a limit.

    It adds one denied attempt, one denial with its reason, and an event on the current span.
    What the app grants needs no call: read the denials as a rate, or against the turns. It never
    raises, and without `enable()` it does nothing.

    Args:
        scope: What was denied, by the access methods of the metrics: `thread`, `rate_limit` and
            so on; anything else counts as `other`.
        reason: Why, in a few words that do not name anybody. The first 32 reasons of up to 64
            characters are told apart; the rest counts as `other`.
    """
    runtime = _active or _runtime_of_earlier_import()
    if runtime is not None:
        runtime.access_denied(scope, reason)


def record_score(name: str, value: float, label: str | None = None) -> None:
    """Keep what the app thinks of the turn under way, such as the verdict of an evaluation.

    Outside of turns, as in `on_chat_start` or an action, it is of the session.

    It adds a record of kind `score`, where records are kept. It never raises, and without
    `enable()` it does nothing.

    Args:
        name: What was judged, such as `relevance`, in a few words that do not name anybody.
        value: The score, a number that is finite; by its name users know its scale.
        label: The score in a word, such as `good`.
    """
    runtime = _active or _runtime_of_earlier_import()
    if runtime is not None:
        runtime.record_score(name, value, label)


def active() -> Runtime | None:
    """Return the instance that observes; None if there is none."""
    with _lock:
        return _active or _runtime_of_earlier_import()


def _forked() -> None:
    """Stop observing: the ledgers and the admin server are the parent's. Runs in each child."""
    global _lock, _active, _last_runtime, _inherited
    _lock = RLock()
    runtime, _active, _last_runtime = _active, None, None
    if runtime is not None:
        renew_locks([runtime, registry.pools, registry.caches, losses])
        _inherited = runtime
        runtime.deactivate_child(_observe_child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _observe_child() -> None:
    """Observe this process, a forked child that begins to serve Chainlit."""
    global _active, _inherited
    with _lock:
        inherited, _inherited = _inherited, None
        if inherited is None:
            return
        guard = Guard("server")
        with guard:
            inherited.undo_patches()
        with guard:
            registry.pools.renew()
            registry.caches.renew(guard)
        with guard:
            meters, tracers = inherited.pipeline.host_providers()
            pipeline = build_pipeline(inherited.settings, meters, tracers)
            runtime = Runtime(inherited.settings, pipeline, resync=False)
            runtime.start()
            _active = runtime


def _runtime_of_earlier_import() -> Runtime | None:
    """Return the instance of an earlier import of this package, if it still observes."""
    session = sys.modules.get("chainlit.session")
    if session is None or not hasattr(session, "WebsocketSession"):
        return None
    runtime: Runtime | None = patching.installed_by(session.WebsocketSession, "__init__")
    return runtime


class Runtime:
    """One instance: the ledgers, the probes that fill them and the server that shows them.

    Args:
        settings: The settings.
        pipeline: Where metrics and spans go.
        resync: Whether the sessions that are open when the probes are installed are this process's.
    """

    def __init__(self, settings: Settings, pipeline: Pipeline, resync: bool = True) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._guards = guards = {name: Guard(name) for name in catalog.PROBE.values}
        has_page = settings.admin_server and settings.live_page
        self._live = live = Live(trace_url=settings.trace_url or "") if has_page else None
        self._telemetry = telemetry = Telemetry(
            pipeline.meter_providers,
            guards["server"],
            pipeline.histograms,
            WATCHED if has_page else (),
        )
        self._tracing = tracing = Tracing(
            pipeline.tracer(),
            settings.capture_exception_messages,
            guards["tracing"],
            None if live is None else live.traces,
        )
        self._recorder = recorder = build_recorder(settings, pipeline, guards["records"])
        self.context = context = ProbeContext(
            settings,
            pipeline,
            guards,
            telemetry,
            tracing,
            recorder,
            live,
            self._announce,
            self.stop,
            resync,
        )
        self._probes: list[Probe] = [context.get(kind) for kind in PROBES]
        self._patches: list[Patches] = []
        self._states: dict[str, str] = {}
        self._admin: AdminServer | None = None
        self._in_app: str | None = None
        self._running = False
        self._exported = False
        self._on_serving: Callable[[], None] | None = None

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @property
    def pipeline(self) -> Pipeline:
        """Where metrics and spans go."""
        return self._pipeline

    @property
    def admin_url(self) -> str | None:
        """Where the admin server answers; None if it does not run."""
        return self._admin.url if self._admin is not None else None

    def access_denied(self, scope: str, reason: str) -> None:
        """Count something that the app denied."""
        with self._guards["access"]:
            self.context.get(Access).record_denial(scope, reason)

    def record_score(self, name: str, value: float, label: str | None) -> None:
        """Keep a score of the current turn, or else of the current session."""
        with self._recorder.guard:
            session = self.context.get(Sessions).handle(current_session())
            self._recorder.score_given(current_turn.get(), session, name, value, label)

    def same_config(self, settings: Settings, pipeline: Pipeline) -> bool:
        """Tell whether it was made with these settings and this pipeline."""
        return (self._settings, self._pipeline) == (settings, pipeline)

    def start(self) -> None:
        """Serve the metrics, and observe Chainlit as soon as it is imported."""
        self._states = dict.fromkeys(catalog.INSTALLED_PROBE.values, "waiting for Chainlit")
        self._running, self._exported = True, False
        atexit.register(self.stop)
        with self._guards["server"]:
            self._observe_ourselves()
        for name, observe in (
            ("pools", partial(pools.register_observables, pools=registry.pools)),
            ("caches", partial(caches.register_observables, caches=registry.caches)),
        ):
            with self._guards[name]:
                observe(self._telemetry, self._guards[name])
        self._show_traces(None if self._live is None else self._live.traces)
        with self._guards["server"]:
            self._serve()
        wrapt.register_post_import_hook(self._chainlit_imported, _LAST_MODULE)

    def health(self) -> dict[str, Any]:
        """Return the state of our own parts, for `/healthz`."""
        degraded = any(s != "on" for name, s in self._states.items() if name not in OPTIONAL_PROBES)
        return {
            "status": "degraded" if degraded else "ok",
            "version": __version__,
            "probes": dict(self._states),
            "off": self.off(),
            "internal_errors": {name: g.errors for name, g in self._guards.items()},
        }

    def off(self) -> dict[str, str]:
        """Return what is off, not to be had here, or failing, each with the reason."""
        settings = self._settings
        off = {
            name: f"it failed {guard.errors} times; see the log"
            for name, guard in self._guards.items()
            if guard.errors
        }
        off |= {n: s.removeprefix("off: ") for n, s in self._states.items() if s != "on"}
        if not settings.admin_server:
            off["admin server"] = "CHAINLIT_OTEL_ADMIN_SERVER is false"
        elif self._admin is None:
            off["admin server"] = f"{settings.host} has no port for it near {settings.port}"
        if self._pipeline.reader is None:
            off["/metrics"] = (
                "the metrics go to the MeterProvider of the application; "
                "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS=true serves them here, too"
            )
        if not self._tracing.has_provider:
            off["traces"] = (
                "there is no TracerProvider, and OTEL_EXPORTER_OTLP_ENDPOINT names no endpoint"
            )
        return off

    def deactivate_child(self, on_serving: Callable[[], None]) -> None:
        """In a forked child, observe nothing and serve nothing any more.

        Args:
            on_serving: Called when the child begins to serve Chainlit.
        """
        self._running = False
        self._on_serving = on_serving
        atexit.unregister(self.stop)
        # Inert and not undone, which takes time: most children exit soon and serve nothing.
        for patches in self._patches:
            patches.active = False
        self._telemetry.silence()
        if self._admin is not None:
            with self._guards["server"]:
                self._admin.close_in_child()
            self._admin = None
        if _LAST_MODULE in sys.modules:
            self._await_serving(on_serving)

    def _await_serving(self, on_serving: Callable[[], None]) -> None:
        # They belong to no instance, since they do not observe anything.
        patches = Patches(None)
        with self._guards["server"]:
            lifecycle.await_serving(patches, self._guards["server"], on_serving)
        self._patches.append(patches)

    def undo_patches(self) -> None:
        """Undo every patch, and leave the ledgers as they are."""
        self._on_serving = None
        while self._patches:
            with self._guards["server"]:
                self._patches.pop().undo()

    def warn_of_differences(
        self,
        settings: Settings | None,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        """Warn if `enable()` is given other settings or providers than those in force.

        Args:
            settings: The settings; None if none were given.
            tracer_provider: Where spans would go; None if none was given.
            meter_provider: Where metrics would go; None if none was given.
        """
        others = [] if settings is None else self._settings.differences(settings)
        if tracer_provider not in (None, self._pipeline.tracer_provider):
            others.append("tracer_provider is another one")
        if meter_provider is not None and meter_provider is not self._pipeline.meter_providers[0]:
            others.append("meter_provider is another one")
        if others:
            log(
                logging.WARNING,
                "enable() was called before, so these settings change nothing: %s; give them to "
                "the first call, or call disable() before this one",
                ", ".join(others),
            )

    def close(self) -> bool:
        """Undo every patch, close the ledgers, export them and stop serving.

        A signal handler may have called it, and interrupted a ledger or the SDK while it held a
        lock. To take that lock here would be a deadlock, and a reentrant lock would expose a
        ledger that is half updated. So everything that takes locks runs in a thread of its own,
        which is waited for with a timeout.

        Returns:
            Whether all is done.
        """
        self._running = False
        atexit.unregister(self.stop)
        self.undo_patches()
        timeout = 2 * self._settings.shutdown_timeout
        thread = Thread(target=self._shut_down, name="chainlit-otel-disable", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is about to end and starts no thread any more.
            self._shut_down()
            return True
        thread.join(timeout)
        if thread.is_alive():
            log(
                logging.WARNING,
                "disable() goes on in the background: what it needs was not free for %s s",
                timeout,
            )
        return not thread.is_alive()

    def _shut_down(self) -> None:
        self._end_probes(catalog.OTHER)
        self._show_traces(None)
        with self._guards["server"]:
            self._telemetry.close()
        with self._recorder.guard:
            self._recorder.queue.close(self._settings.shutdown_timeout)
        if self._admin is not None:
            with self._guards["server"]:
                self._admin.stop()
            self._admin = None

    def stop(self) -> None:
        """The process stops: end what is open and export it all, within a bounded time."""
        if not self._exported:
            self._exported = True
            self._end_probes("shutdown")

    def _end_probes(self, reason: str) -> None:
        guard, timeout = self._guards["server"], self._settings.shutdown_timeout
        for probe in reversed(self._probes):
            with probe.guard:
                probe.end(reason)
        deadline = monotonic() + timeout
        # First: what goes out as log events is exported with the rest.
        with self._recorder.guard:
            if left := self._recorder.queue.flush(timeout):
                log(logging.WARNING, "%d records were not written within %s s", left, timeout)
        if not self._pipeline.flush(max(0.1, deadline - monotonic()), guard):
            log(
                logging.WARNING,
                "the last export did not end within %s s (CHAINLIT_OTEL_SHUTDOWN_TIMEOUT)",
                timeout,
            )

    def _serve(self) -> None:
        settings = self._settings
        if not settings.admin_server:
            return
        try:
            allowed = (settings.allowed_hosts or "").split(",")
            page = self._build_page(allowed)
            app: ASGIApp = admin_app(self._metrics, self.health, self._guarded(page, allowed))
            if settings.page_base_path:
                app = BelowPath(app, settings.page_base_path)
            background = None if page is None else page.run
            self._admin = AdminServer(app, settings.host, settings.port, allowed, background)
        except OSError as error:
            log(
                logging.WARNING,
                "no admin server on %s:%s (OTEL_EXPORTER_PROMETHEUS_HOST, _PORT): %s",
                settings.host,
                settings.port,
                error,
            )

    def _build_page(self, allowed: list[str]) -> LivePage | None:
        live, get = self._live, self.context.get
        if live is None:
            return None
        # The metrics are served without a page, too.
        with self._guards["server"]:
            live.observe(
                self._telemetry,
                get(Sessions).ledger.open,
                get(Messages).ledger.open,
                get(EventLoop).monitor.state,
            )
            process = describe_process(self._settings)
            health = partial(self._describe_health, process)
            return LivePage(live, health, self._guards["server"])
        return None

    def _guarded(self, page: LivePage | None, allowed: list[str]) -> PageAccess | None:
        settings = self._settings
        if page is None:
            return None
        return PageAccess(page.app, settings.host, settings.page_token, allowed)

    async def _describe_health(self, process: dict[str, Any]) -> dict[str, Any]:
        described = describe_health(self.health(), self._pipeline, losses)
        memory = {} if self._live is None else {"history": self._live.history.size}
        series = await self._metrics.count_series()
        return {**process, **described, "series": series, "memory": memory}

    def _chainlit_imported(self, _: Any) -> None:
        """Install the probes. It runs inside the application's import, so it must not raise."""
        if self._on_serving is not None:
            self._await_serving(self._on_serving)
        if not self._running or self._patches:
            return
        for probe in self._probes:
            self._install(probe)
        self._find_pools()
        with self._guards["server"]:
            if self._settings.metrics_path:
                self._serve_in_app(self._settings.metrics_path)

    def _install(self, probe: Probe) -> None:
        """Install one probe; without its seam it alone stays off."""
        name, patches = probe.name, Patches(self)
        state = FAILED
        with probe.guard:
            try:
                probe.install(patches)
                state = "on"
            except SeamMissing as missing:
                state = f"off: no {missing}"
                log(logging.WARNING, "the %s probe is off: this Chainlit has no %s", name, missing)
            except Unavailable as reason:
                state = f"off: {reason}"
                log(logging.WARNING, "the %s probe is off: %s", name, reason)
        self._states[name] = state
        if state == "on":
            self._patches.append(patches)
        else:
            with probe.guard:
                patches.undo()

    def _find_pools(self) -> None:
        """Have the pools of the data layer observed, as soon as there is one."""
        patches = Patches(self)
        guard = self._guards["pools"]
        with guard, suppress(SeamMissing):
            self.context.get(Discovery).listen(patches, guard, registry.pools.found)
        self._patches.append(patches)

    def _serve_in_app(self, path: str) -> None:
        from starlette.routing import Route

        server = sys.modules["chainlit.server"]
        prefix = server.config.run.root_path.rstrip("/")
        patches = Patches(self)
        # Ahead of Chainlit's catch-all route, which answers anything with the web page.
        patches.insert_first(server.app.router.routes, Route(prefix + path, self._metrics))
        self._patches.append(patches)
        self._in_app = prefix + path
        if self._settings.metrics_token is None:
            log(
                logging.WARNING,
                "the metrics at %s are for whoever reaches the app; CHAINLIT_OTEL_METRICS_TOKEN=… "
                "keeps them for those who send it",
                prefix + path,
            )

    @cached_property
    def _metrics(self) -> MetricsEndpoint:
        return MetricsEndpoint(
            self._pipeline.reader,
            self._settings.metrics_token,
            self._guards["server"],
            self._telemetry.label_sets,
        )

    def _observe_ourselves(self) -> None:
        self._telemetry.register_observable(
            catalog.INTERNAL_ERRORS, lambda: {(n,): g.errors for n, g in self._guards.items()}
        )
        overflows: dict[catalog.Attribute, EnumLabel | BoundedLabel] = {
            catalog.CACHE_NAME: registry.caches.names,
            catalog.POOL_NAME: registry.pools.names,
        }
        for probe in self._probes:
            with probe.guard:
                overflows |= probe.overflows()
        self._telemetry.register_observable(
            catalog.LABEL_OVERFLOW,
            lambda: {
                (attribute.key,): values.overflowed for attribute, values in overflows.items()
            },
        )
        self._telemetry.register_observable(catalog.EXPORT_DROPPED, losses.read)
        if self._recorder.is_enabled:
            queue = self._recorder.queue
            self._telemetry.register_observable(catalog.RECORDS_WRITTEN, queue.written)
            self._telemetry.register_observable(catalog.RECORDS_DROPPED, queue.dropped)
        self._telemetry.register_observable(
            catalog.PROBE_ENABLED, lambda: {(n,): int(s == "on") for n, s in self._states.items()}
        )
        if self._pipeline.reader is not None:
            self._telemetry.register_observable(
                catalog.EXPOSITION_DROPPED, self._pipeline.reader.dropped.counts
            )

    def _show_traces(self, store: TraceStore | None) -> None:
        """Have the live page shown the spans of the provider there is, or of none any more."""
        with self._guards["tracing"]:
            traces.attach(self._pipeline.tracer_provider or trace.get_tracer_provider(), store)

    def _announce(self, router: Any) -> None:
        # By now the app has set its own provider, if it has one.
        self._show_traces(None if self._live is None else self._live.traces)
        with self._guards["server"]:
            admin, in_app = self._admin, self._in_app
            if in_app is not None:
                in_app = lifecycle.path_of_chainlit(router) + in_app
            announce(
                *served(
                    admin.host if admin else None,
                    admin.port if admin else 0,
                    self._settings.port,
                    in_app,
                )
            )
            if admin is not None and self._live is not None:
                needs_token = not is_loopback(admin.host)
                has_token = self._settings.page_token is not None
                announce(logging.INFO, shown(admin.host, admin.port, needs_token, has_token))
            announce(logging.INFO, sent(self._pipeline.destinations()))
            if self._settings.records_dir is not None:
                announce(logging.INFO, f"records in {Path(self._settings.records_dir).absolute()}")
