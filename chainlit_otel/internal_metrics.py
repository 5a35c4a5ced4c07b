"""What we say of ourselves: our errors, which probes are on, and what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chainlit_otel import catalog
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.pipeline.providers import Pipeline, losses
from chainlit_otel.probes.installation import Installation
from chainlit_otel.probes.probe import Probe
from chainlit_otel.records.recorder import Recorder
from chainlit_otel.resources import registry


def register_internal_metrics(
    telemetry: Telemetry,
    guards: Mapping[str, Guard],
    probes: Sequence[Probe],
    installation: Installation,
    recorder: Recorder,
    pipeline: Pipeline,
) -> None:
    """Register the observable instruments that are about this package.

    Args:
        telemetry: Takes them.
        guards: Count our errors.
        probes: Have labels whose values may overflow.
        installation: Knows which probes are on.
        recorder: Counts records.
        pipeline: Counts what is left out of `/metrics`.
    """
    overflows: dict[catalog.Attribute, EnumLabel | BoundedLabel] = {
        catalog.CACHE_NAME: registry.caches.names,
        catalog.POOL_NAME: registry.pools.names,
    }
    for probe in probes:
        with probe.guard:
            overflows |= probe.overflows()
    register = telemetry.register_observable
    register(catalog.INTERNAL_ERRORS, lambda: {(n,): g.errors for n, g in guards.items()})
    register(
        catalog.LABEL_OVERFLOW,
        lambda: {(attribute.key,): values.overflowed for attribute, values in overflows.items()},
    )
    register(catalog.EXPORT_DROPPED, losses.read)
    register(
        catalog.PROBE_ENABLED,
        lambda: {(name,): int(state == "on") for name, state in installation.states.items()},
    )
    if recorder.is_enabled:
        register(catalog.RECORDS_WRITTEN, recorder.queue.written)
        register(catalog.RECORDS_DROPPED, recorder.queue.dropped)
    if pipeline.reader is not None:
        register(catalog.EXPOSITION_DROPPED, pipeline.reader.dropped.counts)
