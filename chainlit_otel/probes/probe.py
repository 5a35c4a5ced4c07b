"""What a probe is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from chainlit_otel.catalog import Attribute
from chainlit_otel.core.journal import Journal
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.guard import Guard
from chainlit_otel.live.page import Live
from chainlit_otel.patching import Patches
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.pipeline.providers import Pipeline
from chainlit_otel.pipeline.spans import Tracing
from chainlit_otel.records.recorder import Recorder
from chainlit_otel.settings import Settings

T = TypeVar("T")


class ProbeContext:
    """What all probes of one instance share.

    Args:
        settings: The settings in force.
        pipeline: Where metrics and spans go.
        guards: A guard for each probe, by its name.
        telemetry: Records histograms, and reads counters and gauges.
        tracing: Starts and ends spans.
        recorder: Keeps records of what is over.
        live: What the live page shows; None without one.
        announce: Called with the router of the application that a server is about to serve.
        stop: Called when that server has stopped; ends what is open, and exports it.
        resync: Whether the sessions that are open when the probes are installed are this process's.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        guards: Mapping[str, Guard],
        telemetry: Telemetry,
        tracing: Tracing,
        recorder: Recorder,
        live: Live | None,
        announce: Callable[[Any], None],
        stop: Callable[[], None],
        resync: bool = True,
    ) -> None:
        self.settings = settings
        self.pipeline = pipeline
        self.guards = guards
        self.telemetry = telemetry
        self.tracing = tracing
        self.recorder = recorder
        self.live = live
        self.announce = announce
        self.stop = stop
        self.resync = resync
        self._made: dict[type[Any], Any] = {}

    def get(self, kind: type[T]) -> T:
        """Return the one object of a kind, which is made from this when it is first asked for."""
        if kind not in self._made:
            self._made[kind] = kind(self)  # type: ignore[call-arg]
        made: T = self._made[kind]
        return made

    @property
    def journal(self) -> Journal | None:
        """What keeps the events of sessions; None if nobody is shown them."""
        return None if self.live is None else self.live.journal

    @property
    def probes(self) -> list[Probe]:
        """The probes that have been made, each after those that it uses."""
        return [made for made in self._made.values() if isinstance(made, Probe)]


class Probe:
    """Observes one seam of Chainlit.

    Args:
        context: What all probes share. Another probe is had from it by its class.

    Attributes:
        name: Its name in lines of the log, in `/healthz` and in the metrics.
        is_optional: Whether some supported release of Chainlit lacks its seam.
        guard: Holds what goes wrong in it.
        telemetry: Takes what it measures.
    """

    name: ClassVar[str]
    is_optional: ClassVar[bool] = False

    def __init__(self, context: ProbeContext) -> None:
        self.guard = context.guards[self.name]
        self.telemetry = context.telemetry

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place, and register the observable instruments.

        Args:
            patches: Takes the changes.

        Raises:
            SeamMissing: This release of Chainlit does not have what the probe wraps.
            Unavailable: A package that the probe needs is missing or does not work.
        """
        raise NotImplementedError

    def overflows(self) -> Mapping[Attribute, EnumLabel | BoundedLabel]:
        """Return the attributes whose values come from outside, and what bounds them."""
        return {}

    def on_startup(self) -> None:
        """The server is about to serve; called on its event loop."""

    def on_serving(self) -> None:
        """The server serves; called on its event loop."""

    def on_server_shutdown(self) -> None:
        """The server begins to stop, and will close its sockets."""

    def end(self, reason: str) -> None:
        """End what is open, because its own end will not be observed.

        Args:
            reason: Why, as a value of `chainlit.session.end_reason`.
        """
