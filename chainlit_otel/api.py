"""What an app calls, and the one instance that observes."""

from __future__ import annotations

import logging
import os
import sys
from threading import RLock

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from chainlit_otel import patching
from chainlit_otel.guard import Guard, log
from chainlit_otel.pipeline.forks import renew_locks
from chainlit_otel.pipeline.providers import build_pipeline, keeper, losses
from chainlit_otel.resources import registry
from chainlit_otel.runtime import Runtime
from chainlit_otel.settings import Settings

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


def record_score(
    name: str, value: float, label: str | None = None, *, message_id: str | None = None
) -> None:
    """Say how good a turn is, such as by the verdict of an evaluator.

    It counts in `chainlit.score`, adds an event `gen_ai.evaluation.result` to the trace of the
    turn, and a record of kind `score` where records are kept. A call with what cannot be a score
    keeps nothing, which the log has once. It never raises, and without `enable()` it does nothing.

    Args:
        name: What was judged, such as `relevance`, in a few words that do not name anybody. In
            metrics the first 16 names of up to 64 characters are told apart; the rest is `other`.
        value: The score, a number that is finite; by its name users know its scale. One below zero
            is in events and records, not in the metric.
        label: The score in a word, such as `good`.
        message_id: Id of the message of the user, or of an answer or a step, in the turn that was
            judged, among the last 10,000 of this process: an evaluator may run when the turn is
            over. Of any other message the score is of no turn. By default the score is of the turn
            under way; outside of turns, as in `on_chat_start` or an action, of the session.
    """
    runtime = _active or _runtime_of_earlier_import()
    if runtime is not None:
        runtime.record_score(name, value, label, message_id)


def record_usage(
    *,
    model: str | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    cache_read_tokens: int | None = None,
    cache_write_tokens: int | None = None,
    reasoning_tokens: int | None = None,
    provider: str | None = None,
    cost: float | None = None,
) -> None:
    """Count a model call of the turn under way, where no instrumentation shows it.

    If one does, or an integration of Chainlit, it is still one call, and what is said here holds;
    so name the model as it was asked for. Without `input_tokens` and `output_tokens` the call
    counts as uncounted. It never raises, and without `enable()` it does nothing.

    Args:
        model: Name of the model that was asked for.
        input_tokens: Tokens that were sent, those from and to a cache included.
        output_tokens: Tokens of the answer, those of reasoning included.
        cache_read_tokens: Tokens of the input that came from the provider's cache.
        cache_write_tokens: Tokens of the input that were put into it.
        reasoning_tokens: Tokens of the output that were reasoning.
        provider: Who serves the model, such as `openai`.
        cost: What it has cost in US dollars, if that is known; else it is computed from prices.
    """
    runtime = _active or _runtime_of_earlier_import()
    if runtime is not None:
        tokens = {
            "input": input_tokens,
            "output": output_tokens,
            "cache_read": cache_read_tokens,
            "cache_write": cache_write_tokens,
            "reasoning": reasoning_tokens,
        }
        runtime.record_usage(model, provider, tokens, cost)


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
        renew_locks([runtime, registry.pools, registry.caches, losses, keeper])
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
