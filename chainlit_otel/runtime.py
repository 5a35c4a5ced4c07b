"""Puts the parts together and holds the one active instance."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
from collections.abc import Callable
from functools import cached_property, partial
from threading import RLock, Thread
from typing import Any

import wrapt
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from chainlit_otel import catalog, patching
from chainlit_otel.announcement import announce, sent, served
from chainlit_otel.core.connections import ConnectionLedger
from chainlit_otel.core.labels import ClosedSet, LearnedSet
from chainlit_otel.core.sessions import Session, SessionLedger
from chainlit_otel.core.turns import Turn, TurnLedger
from chainlit_otel.guard import Guard, log
from chainlit_otel.patching import Patches, SeamMissing, Unavailable
from chainlit_otel.pipeline.forks import renew_locks
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.pipeline.providers import Pipeline, build_pipeline, losses
from chainlit_otel.pipeline.spans import Tracing
from chainlit_otel.probes import access as access_probe
from chainlit_otel.probes import bots as bots_probe
from chainlit_otel.probes import callbacks as callbacks_probe
from chainlit_otel.probes import event_loop as event_loop_probe
from chainlit_otel.probes import files as files_probe
from chainlit_otel.probes import http as http_probe
from chainlit_otel.probes import lifecycle, processes
from chainlit_otel.probes import mcp as mcp_probe
from chainlit_otel.probes import messages as messages_probe
from chainlit_otel.probes import sessions as sessions_probe
from chainlit_otel.probes import sockets as sockets_probe
from chainlit_otel.probes import steps as steps_probe
from chainlit_otel.probes.data_layer import feedback as feedback_probe
from chainlit_otel.probes.data_layer import operations as data_layer_probe
from chainlit_otel.resources import caches as caches_probe
from chainlit_otel.resources import pools as pools_probe
from chainlit_otel.resources import registry
from chainlit_otel.server.admin import AdminServer
from chainlit_otel.server.endpoints import MetricsEndpoint, admin_app
from chainlit_otel.settings import Settings
from chainlit_otel.version import __version__

# The last module that Chainlit's server imports: once it is there, every seam is.
_LAST_MODULE = "chainlit.socket"

# Chainlit before 2.11 keeps its MCP connections where nothing can be hooked.
OPTIONAL = ("mcp",)
# The state of a probe that could not be installed, and nobody knows why.
FAILED = "off: it failed"

_lock = RLock()
_active: Runtime | None = None
_dormant: Runtime | None = None
# In a forked child, what the parent had, until the child serves Chainlit itself; and what with.
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
    global _active, _dormant
    asked, settings = settings, settings or Settings()
    with _lock:
        _active = _active or _surviving()
        if _active is not None:
            with Guard("server"):
                _active.warn_of_others(asked, tracer_provider, meter_provider)
        if _active is not None or _inherited is not None:
            return
        if settings.disabled:
            log(logging.INFO, "chainlit-otel is off (OTEL_SDK_DISABLED)")
            return
        pipeline = build_pipeline(settings, meter_provider, tracer_provider)
        # The histograms of a provider go on counting, so the books behind them do, too.
        reusable = _dormant is not None and _dormant.suits(settings, pipeline)
        dormant, _dormant = _dormant if reusable else None, None
        with Guard("server"):
            runtime = dormant or Runtime(settings, pipeline)
            runtime.start()
            _active = runtime


def disable() -> None:
    """Undo every patch and stop serving. Without `enable()` before, it does nothing.

    Sessions that are open end as `other` in the books, since nobody will see their end, and
    what has been recorded is exported. A wrapper that somebody has wrapped in turn cannot be
    taken out; it goes inert.

    It may be called anywhere, in a signal handler, too. There it may have interrupted what holds
    a lock that it needs: then it returns after twice the `shutdown_timeout`, and the rest is done
    when that goes on.
    """
    global _active, _dormant, _inherited
    with _lock:
        if _inherited is not None:
            _inherited.abandon()
            _inherited = None
        runtime, _active = _active or _surviving(), None
        if runtime is not None:
            _dormant = runtime if runtime.close() else None


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
    runtime = _active or _surviving()
    if runtime is not None:
        runtime.access_denied(scope, reason)


def active() -> Runtime | None:
    """Return the instance that observes; None if there is none."""
    with _lock:
        return _active or _surviving()


def _forked() -> None:
    """Leave to the parent what is the parent's; called in every forked child."""
    global _lock, _active, _dormant, _inherited
    _lock = RLock()
    runtime, _active, _dormant = _active, None, None
    if runtime is not None:
        renew_locks([runtime, registry.pools, registry.caches, losses])
        _inherited = runtime
        runtime.fall_silent(_observe_child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _observe_child() -> None:
    """Observe this process, a forked child that begins to serve Chainlit."""
    global _active, _inherited
    with _lock:
        parents, _inherited = _inherited, None
        if parents is None:
            return
        guard = Guard("server")
        with guard:
            parents.abandon()
        with guard:
            registry.pools.renew()
            registry.caches.renew(guard)
        with guard:
            meters, tracers = parents.pipeline.given()
            pipeline = build_pipeline(parents.settings, meters, tracers)
            runtime = Runtime(parents.settings, pipeline, adopt=False)
            runtime.start()
            _active = runtime


def _surviving() -> Runtime | None:
    """Return the instance of an earlier import of this package, if it still observes."""
    session = sys.modules.get("chainlit.session")
    if session is None or not hasattr(session, "WebsocketSession"):
        return None
    owner: Runtime | None = patching.owner_of(session.WebsocketSession, "__init__")
    return owner


class Runtime:
    """One instance: the books, the probes that fill them and the server that shows them.

    Args:
        settings: The settings.
        pipeline: Where metrics and spans go.
        adopt: Whether the sessions that are open when the probes are installed are this process's.
    """

    def __init__(self, settings: Settings, pipeline: Pipeline, adopt: bool = True) -> None:
        self._settings = settings
        self._adopt = adopt
        self._pipeline = pipeline
        self._guards = guards = {name: Guard(name) for name in catalog.PROBE.values}
        self._telemetry = telemetry = Telemetry(
            pipeline.meter_providers, guards["server"], pipeline.histograms
        )
        self._tracing = tracing = Tracing(
            pipeline.tracer(), settings.capture_exception_messages, guards["tracing"]
        )
        self._sessions = sessions = sessions_probe.Sessions(
            SessionLedger(self._session_ended), telemetry.session_started, settings.capture_user
        )
        self._sockets = sockets = sockets_probe.Sockets(
            ConnectionLedger(self._connection_closed), sessions, tracing
        )
        self._messages = messages = messages_probe.Messages(
            TurnLedger(self._turn_ended), sessions, sockets, tracing, settings.capture_messages
        )
        self._bots = bots_probe.Bots(messages)
        self._access = access = access_probe.Access()
        self._callbacks = callbacks_probe.Callbacks(
            guards["callbacks"], telemetry, tracing, sockets, messages, access
        )
        self._pulse = event_loop_probe.Pulse(
            guards["event_loop"], telemetry, self._callbacks.name_of, messages.stalled
        )
        self._steps = steps_probe.Steps(
            telemetry, tracing, sockets, messages, settings.capture_steps
        )
        self._mcp = mcp_probe.Connections()
        self._data_layers = data_layer_probe.DataLayers(
            guards["data_layer"], telemetry, tracing, sockets, registry.pools.found
        )
        self._feedback = feedback_probe.Feedback()
        self._patches: list[Patches] = []
        self._probes: dict[str, str] = {}
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
            self._access.denied_by_app(scope, reason)

    def suits(self, settings: Settings, pipeline: Pipeline) -> bool:
        """Tell whether an instance with these would do the very same."""
        return (self._settings, self._pipeline) == (settings, pipeline)

    def start(self) -> None:
        """Serve the metrics, and observe Chainlit as soon as it is imported."""
        self._probes = dict.fromkeys(catalog.PROBES, "waiting for Chainlit")
        self._running, self._exported = True, False
        atexit.register(self.stop)
        with self._guards["server"]:
            self._observe_ourselves()
        for name, observe in (
            ("pools", partial(pools_probe.observe, pools=registry.pools)),
            ("caches", partial(caches_probe.observe, caches=registry.caches)),
        ):
            with self._guards[name]:
                observe(self._telemetry, self._guards[name])
        with self._guards["server"]:
            self._serve()
        wrapt.register_post_import_hook(self._chainlit_imported, _LAST_MODULE)

    def health(self) -> dict[str, Any]:
        """Return the state of our own parts, for `/healthz`."""
        degraded = any(s != "on" for name, s in self._probes.items() if name not in OPTIONAL)
        return {
            "status": "degraded" if degraded else "ok",
            "version": __version__,
            "probes": dict(self._probes),
            "off": self.off(),
            "internal_errors": {name: g.errors for name, g in self._guards.items()},
        }

    def off(self) -> dict[str, str]:
        """Return what is off, not to be had here, or failing, each with the reason."""
        settings = self._settings
        off = {
            name: f"it failed {guard.errors} times, which the log tells of"
            for name, guard in self._guards.items()
            if guard.errors
        }
        off |= {n: s.removeprefix("off: ") for n, s in self._probes.items() if s != "on"}
        if not settings.admin_server:
            off["admin server"] = "CHAINLIT_OTEL_ADMIN_SERVER is false"
        elif self._admin is None:
            off["admin server"] = f"{settings.host} has no port for it near {settings.port}"
        if self._pipeline.reader is None:
            off["/metrics"] = (
                "the metrics go to the MeterProvider of the application; "
                "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS=true serves them here, too"
            )
        if self._tracing.idle:
            off["traces"] = (
                "there is no TracerProvider, and OTEL_EXPORTER_OTLP_ENDPOINT names no endpoint"
            )
        return off

    def fall_silent(self, on_serving: Callable[[], None]) -> None:
        """In a forked child, neither observe nor say anything any more, for good.

        Args:
            on_serving: Called when the child begins to serve Chainlit.
        """
        self._running = False
        self._on_serving = on_serving
        atexit.unregister(self.stop)
        # Most children serve nothing, and may do without the time that it takes to undo them.
        for patches in self._patches:
            patches.active = False
        self._telemetry.silence()
        if self._admin is not None:
            with self._guards["server"]:
                self._admin.abandon()
            self._admin = None
        if _LAST_MODULE in sys.modules:
            self._await_serving(on_serving)

    def _await_serving(self, on_serving: Callable[[], None]) -> None:
        # On behalf of nobody: it does not observe.
        patches = Patches(None)
        with self._guards["server"]:
            processes.install(patches, self._guards["server"], on_serving)
        self._patches.append(patches)

    def abandon(self) -> None:
        """Undo every patch, and no more: what was observed is the parent's."""
        self._on_serving = None
        while self._patches:
            with self._guards["server"]:
                self._patches.pop().undo()

    def warn_of_others(
        self,
        settings: Settings | None,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        """Say it if somebody asks for other settings or providers than those in force.

        Args:
            settings: The settings; None if nobody asks for any.
            tracer_provider: Where spans would go; None if nobody says.
            meter_provider: Where metrics would go; None if nobody says.
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
        """Undo every patch, close the books, export them and stop serving.

        What has called it may be a signal handler that has interrupted any of our ledgers, or the
        SDK, while it held a lock. To take that again would be to wait for ever, and a lock that
        lets its owner in again would show a ledger that is half updated. So all that takes locks
        is done by a thread, and this one waits for it no longer than is reasonable.

        Returns:
            Whether all is done.
        """
        self._running = False
        atexit.unregister(self.stop)
        self.abandon()
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
        self._finish(catalog.OTHER)
        with self._guards["server"]:
            self._telemetry.close()
        if self._admin is not None:
            with self._guards["server"]:
                self._admin.stop()
            self._admin = None

    def stop(self) -> None:
        """The process stops: end what is open and export it all, within a bounded time."""
        if not self._exported:
            self._exported = True
            self._finish("shutdown")

    def _finish(self, reason: str) -> None:
        guard, timeout = self._guards["server"], self._settings.shutdown_timeout
        # Each of them whatever the others do.
        for part in (
            self._pulse.stop,
            self._messages.end_all,
            partial(self._sessions.ledger.end_all, reason),
            partial(self._sockets.ledger.close_all, reason),
        ):
            with guard:
                part()
        if not self._pipeline.flush(timeout, guard):
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
            app = admin_app(self._metrics, self.health)
            allowed = (settings.allowed_hosts or "").split(",")
            self._admin = AdminServer(app, settings.host, settings.port, allowed)
        except OSError as error:
            log(
                logging.WARNING,
                "no admin server on %s:%s (OTEL_EXPORTER_PROMETHEUS_HOST, _PORT): %s",
                settings.host,
                settings.port,
                error,
            )

    def _chainlit_imported(self, _: Any) -> None:
        """Install the probes. It runs inside the application's import, so it must not raise."""
        if self._on_serving is not None:
            self._await_serving(self._on_serving)
        if not self._running or self._patches:
            return
        self._probe(
            "sessions", partial(sessions_probe.install, sessions=self._sessions, adopt=self._adopt)
        )
        self._probe("sockets", partial(sockets_probe.install, sockets=self._sockets))
        self._probe("messages", partial(messages_probe.install, messages=self._messages))
        self._probe("bots", partial(bots_probe.install, bots=self._bots))
        self._probe("callbacks", partial(callbacks_probe.install, callbacks=self._callbacks))
        self._probe("steps", partial(steps_probe.install, steps=self._steps))
        self._probe("mcp", partial(mcp_probe.install, connections=self._mcp))
        self._probe("data_layer", partial(data_layer_probe.install, data_layers=self._data_layers))
        self._probe("access", partial(access_probe.install, access=self._access))
        self._probe("feedback", partial(feedback_probe.install, feedback=self._feedback))
        self._probe("files", files_probe.install)
        self._probe(
            "http",
            partial(
                http_probe.install,
                meter_provider=self._pipeline.meter_providers[0],
                tracer_provider=self._pipeline.tracer_provider,
                metrics_path=self._settings.metrics_path,
                exception_messages=self._settings.capture_exception_messages,
            ),
        )
        self._probe("event_loop", partial(event_loop_probe.install, pulse=self._pulse))
        self._probe(
            "lifecycle",
            partial(
                lifecycle.install,
                starting=self._starting,
                started=self._pulse.start,
                stopping=self._stopping,
                stop=self._stop,
            ),
        )
        with self._guards["server"]:
            if self._settings.metrics_path:
                self._serve_in_app(self._settings.metrics_path)

    def _probe(self, name: str, install: Callable[..., None]) -> None:
        """Install one probe; without its seam it alone stays off."""
        patches = Patches(self)
        guard = self._guards[name]
        state = FAILED
        with guard:
            try:
                install(patches, guard, self._telemetry)
                state = "on"
            except SeamMissing as missing:
                state = f"off: no {missing}"
                log(logging.WARNING, "the %s probe is off: this Chainlit has no %s", name, missing)
            except Unavailable as reason:
                state = f"off: {reason}"
                log(logging.WARNING, "the %s probe is off: %s", name, reason)
        self._probes[name] = state
        if state == "on":
            self._patches.append(patches)
        else:
            with guard:
                patches.undo()

    def _serve_in_app(self, path: str) -> None:
        from starlette.routing import Route

        server = sys.modules["chainlit.server"]
        prefix = server.config.run.root_path.rstrip("/")
        patches = Patches(self)
        # Ahead of Chainlit's catch-all route, which answers anything with the web page.
        patches.insert(server.app.router.routes, Route(prefix + path, self._metrics))
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
        self._telemetry.observe(
            catalog.INTERNAL_ERRORS, lambda: {(n,): g.errors for n, g in self._guards.items()}
        )
        overflows: dict[catalog.Attribute, ClosedSet | LearnedSet] = {
            catalog.CLIENT_TYPE: self._sessions.client_type,
            catalog.CHAT_PROFILE: self._messages.profiles,
            catalog.CALLBACK_NAME: self._callbacks.name,
            catalog.ACTION_NAME: self._callbacks.action,
            catalog.STEP_TYPE: self._steps.type,
            catalog.STEP_NAME: self._steps.name,
            catalog.CACHE_NAME: registry.caches.names,
            catalog.POOL_NAME: registry.pools.names,
            catalog.OPERATION: self._data_layers.operation,
            catalog.DATA_LAYER_NAME: self._data_layers.names,
            catalog.ACCESS_METHOD: self._access.method,
            catalog.DENIAL_REASON: self._access.reason,
        }
        self._telemetry.observe(
            catalog.LABEL_OVERFLOW,
            lambda: {(attribute.key,): values.folded for attribute, values in overflows.items()},
        )
        self._telemetry.observe(catalog.EXPORT_DROPPED, losses.read)
        self._telemetry.observe(
            catalog.PROBE_ENABLED, lambda: {(n,): int(s == "on") for n, s in self._probes.items()}
        )
        if self._pipeline.reader is not None:
            self._telemetry.observe(
                catalog.EXPOSITION_DROPPED, self._pipeline.reader.dropped.counts
            )

    def _session_ended(self, session: Session, reason: str, seconds: float) -> None:
        with self._guards["sessions"]:
            telemetry = self._telemetry
            telemetry.record(
                catalog.SESSION_DURATION, seconds, session.type, session.client, reason
            )
            if session.type == "websocket":
                telemetry.record(catalog.SESSION_TURNS, session.turns, reason)
            telemetry.session_ended(session.hash, reason)

    def _turn_ended(self, turn: Turn, seconds: float) -> None:
        with self._guards["messages"]:
            telemetry, profile = self._telemetry, turn.profile
            telemetry.record(catalog.TURN_DURATION, seconds, turn.outcome, profile)
            if (first := turn.time_to_first_token) is not None:
                telemetry.record(catalog.TIME_TO_FIRST_TOKEN, first, profile)
            if (gap := turn.time_per_output_chunk) is not None:
                telemetry.record(catalog.TIME_PER_OUTPUT_CHUNK, gap)

    def _connection_closed(self, reason: str, seconds: float) -> None:
        with self._guards["sockets"]:
            self._telemetry.record(catalog.CONNECTION_DURATION, seconds, reason)

    def _starting(self, router: Any) -> None:
        self._sockets.stopping = False
        # An app may have imported what wraps callbacks before we were there.
        self._callbacks.observe_all()
        sessions_probe.expect_bots(self._telemetry)
        with self._guards["server"]:
            self._announce(router)

    def _announce(self, router: Any) -> None:
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
        announce(logging.INFO, sent(self._pipeline.destinations()))

    def _stopping(self, server: Any) -> None:
        if self._admin is not None and self._admin.is_served_by(server):
            return
        # The app may run others in this process, and stop them.
        if lifecycle.is_server_of(server, sys.modules["chainlit.server"].app):
            self._sockets.stopping = True

    async def _stop(self) -> None:
        await asyncio.to_thread(self.stop)
