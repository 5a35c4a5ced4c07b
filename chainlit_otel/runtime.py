"""One instance: puts the parts together, starts them and ends them."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

import wrapt
from opentelemetry import trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from chainlit_otel import catalog
from chainlit_otel.announcement import announce, sent, served, shown
from chainlit_otel.guard import Guard, log
from chainlit_otel.internal_metrics import register_internal_metrics
from chainlit_otel.live import traces
from chainlit_otel.live.figures import WATCHED
from chainlit_otel.live.health import describe_health, describe_process
from chainlit_otel.live.page import Live
from chainlit_otel.live.traces import TraceStore
from chainlit_otel.patching import Patches, SeamMissing
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.pipeline.providers import Pipeline, losses
from chainlit_otel.pipeline.spans import Tracing
from chainlit_otel.probes import PROBES, lifecycle
from chainlit_otel.probes.access import Access
from chainlit_otel.probes.data_layer.discovery import Discovery
from chainlit_otel.probes.evaluations import Evaluations
from chainlit_otel.probes.event_loop import EventLoop
from chainlit_otel.probes.installation import Installation
from chainlit_otel.probes.messages import Messages
from chainlit_otel.probes.model_calls import ModelCalls
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.sessions import Sessions
from chainlit_otel.records.recorder import build_recorder
from chainlit_otel.resources import caches, pools, registry
from chainlit_otel.server.access import is_loopback
from chainlit_otel.server.admin import AdminServer
from chainlit_otel.server.live_page import LivePage
from chainlit_otel.server.metrics import MetricsEndpoint
from chainlit_otel.server.start import start_admin_server
from chainlit_otel.settings import Settings
from chainlit_otel.version import __version__

# The last module that Chainlit's server imports: once it is there, every seam is.
_LAST_MODULE = "chainlit.socket"

OPTIONAL_PROBES = tuple(probe.name for probe in PROBES if probe.is_optional)


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
            None if pipeline.keeper is None else pipeline.keeper.is_kept,
        )
        self._tracing = tracing = Tracing(
            pipeline.tracer(),
            settings.capture_exception_messages,
            guards["tracing"],
            None if live is None else live.traces,
            pipeline.keeper,
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
        self._installation = Installation(self, guards["server"])
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

    def record_score(
        self, name: str, value: float, label: str | None, message_id: str | None
    ) -> None:
        """Count a score, and have its turn show it."""
        with self._guards["feedback"]:
            self.context.get(Evaluations).on_score(name, value, label, message_id)

    def record_usage(
        self,
        model: str | None,
        provider: str | None,
        tokens: Mapping[str, int | None],
        cost: float | None,
    ) -> None:
        """Count a model call of the current turn."""
        model_calls = self.context.get(ModelCalls)
        with model_calls.guard:
            model_calls.record_usage(model, provider, tokens, cost)

    def same_config(self, settings: Settings, pipeline: Pipeline) -> bool:
        """Tell whether it was made with these settings and this pipeline."""
        return (self._settings, self._pipeline) == (settings, pipeline)

    def start(self) -> None:
        """Serve the metrics, and observe Chainlit as soon as it is imported."""
        self._installation.expect(catalog.INSTALLED_PROBE.values)
        self._running, self._exported = True, False
        atexit.register(self.stop)
        with self._guards["server"]:
            register_internal_metrics(
                self._telemetry,
                self._guards,
                self._probes,
                self._installation,
                self._recorder,
                self._pipeline,
            )
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
        states = self._installation.states
        degraded = any(s != "on" for name, s in states.items() if name not in OPTIONAL_PROBES)
        return {
            "status": "degraded" if degraded else "ok",
            "version": __version__,
            "probes": dict(states),
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
        states = self._installation.states
        off |= {n: s.removeprefix("off: ") for n, s in states.items() if s != "on"}
        if not settings.admin_server:
            off["admin server"] = "CHAINLIT_OTEL_ADMIN_SERVER is false"
        elif self._admin is None:
            off["admin server"] = f"{settings.host} has no port for it near {settings.port}"
        if self._pipeline.reader is None:
            off["/metrics"] = (
                "the metrics go to the MeterProvider of the application; "
                "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS=true serves them here, too"
            )
        if not self._tracing.has_provider():
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
        self._installation.deactivate()
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
        self._installation.add(patches)

    def undo_patches(self) -> None:
        """Undo every patch, and leave the ledgers as they are."""
        self._on_serving = None
        self._installation.undo()

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
        with self._guards["server"]:
            self._telemetry.close()
        with self._recorder.guard:
            self._recorder.queue.close(self._settings.shutdown_timeout)
        if self._admin is not None:
            with self._guards["server"]:
                self._admin.stop()
            self._admin = None
        # Now, since the page has it shown them each second.
        self._show_traces(None)

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
        page = self._build_page()
        self._admin = start_admin_server(
            self._settings, self._metrics, self.health, page, self._guards["server"]
        )

    def _build_page(self) -> LivePage | None:
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
                partial(self._show_traces, live.traces),
            )
            process = describe_process(self._settings)
            health = partial(self._describe_health, process)
            return LivePage(live, health, self._guards["server"])
        return None

    async def _describe_health(self, process: dict[str, Any]) -> dict[str, Any]:
        described = describe_health(self.health(), self._pipeline, losses)
        memory = {} if self._live is None else {"history": self._live.history.size}
        series = await self._metrics.count_series()
        return {**process, **described, "series": series, "memory": memory}

    def _chainlit_imported(self, _: Any) -> None:
        """Install the probes. It runs inside the application's import, so it must not raise."""
        if self._on_serving is not None:
            self._await_serving(self._on_serving)
        if not self._running or not self._installation.is_empty:
            return
        for probe in self._probes:
            self._installation.install(probe)
        self._find_pools()
        with self._guards["server"]:
            if self._settings.metrics_path:
                self._serve_in_app(self._settings.metrics_path)

    def _find_pools(self) -> None:
        """Have the pools of the data layer observed, as soon as there is one."""
        patches = Patches(self)
        guard = self._guards["pools"]
        with guard, suppress(SeamMissing):
            self.context.get(Discovery).listen(patches, guard, registry.pools.found)
        self._installation.add(patches)

    def _serve_in_app(self, path: str) -> None:
        from starlette.routing import Route

        server = sys.modules["chainlit.server"]
        prefix = server.config.run.root_path.rstrip("/")
        patches = Patches(self)
        # Ahead of Chainlit's catch-all route, which answers anything with the web page.
        patches.insert_first(server.app.router.routes, Route(prefix + path, self._metrics))
        self._installation.add(patches)
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

    def _show_traces(self, store: TraceStore | None) -> None:
        """Have the live page shown the spans of the provider there is, or of none any more."""
        with (guard := self._guards["tracing"]):
            provider = self._pipeline.tracer_provider or trace.get_tracer_provider()
            traces.attach(provider, store, guard)

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
            if self._settings.live_page:
                host, port = (admin.host, admin.port) if admin else (None, 0)
                needs_token = host is not None and not is_loopback(host)
                has_token = self._settings.page_token is not None
                announce(logging.INFO, shown(host, port, needs_token, has_token))
            announce(logging.INFO, sent(self._pipeline.destinations()))
            if self._settings.records_dir is not None:
                announce(logging.INFO, f"records in {Path(self._settings.records_dir).absolute()}")
