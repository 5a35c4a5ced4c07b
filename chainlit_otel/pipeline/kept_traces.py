"""Which turns keep their spans, decided when a turn is over.

A sampler decides when a trace begins, and cannot know whether the turn will fail. Here the spans of
a turn wait in memory until it has ended, which is tail sampling in the process itself:
https://opentelemetry.io/docs/concepts/sampling/#tail-sampling
"""

from __future__ import annotations

from threading import Lock

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

MAX_WAITING = 4096
"""How many spans wait at most, for the end of their turns and for what people say of them."""

MAX_DECIDED = 4096
"""How many turns that have ended are remembered, for spans that end later."""

_LAST_56_BITS = (1 << 56) - 1


class TraceKeeper(SpanProcessor):
    """Passes spans on to processors: at once, or when it is known that their turn is kept.

    Spans of other traces than those of turns are passed on at once. Thread-safe.

    Attributes:
        processors: Get the spans.
        share: The share of turns that are kept whatever becomes of them, from 0 to 1; None to keep
            all and wait for nothing.
    """

    takes_light_spans = True

    def __init__(self) -> None:
        self.processors: list[SpanProcessor] = []
        self.share: float | None = None
        self.renew()

    def renew(self) -> None:
        """Forget all spans and turns, in a forked child that has inherited this."""
        self._lock = Lock()
        # Both by the ids of traces, the oldest first.
        self._waiting: dict[int, list[ReadableSpan]] = {}
        self._decided: dict[int, bool] = {}
        self._size = 0

    def begin(self, trace_id: int) -> None:
        """A turn has begun: its spans wait, unless it is one of the share."""
        if self.share is not None and not self._is_of_share(trace_id):
            with self._lock:
                self._waiting[trace_id] = []

    def decide(self, trace_id: int, is_notable: bool) -> bool:
        """A turn is about to end.

        Args:
            trace_id: Its trace.
            is_notable: Whether it is kept. Otherwise its spans still wait for a while, so that
                `keep` may have them.

        Returns:
            Whether its spans are passed on.
        """
        with self._lock:
            if trace_id not in self._waiting:
                return self._decided.get(trace_id, True)
            self._decided[trace_id] = is_notable
            while len(self._decided) > MAX_DECIDED:
                # Nobody asks for it any more, so it must not wait either.
                self._drop(oldest := next(iter(self._decided)))
                del self._decided[oldest]
        if is_notable:
            self._pass(trace_id)
        return is_notable

    def keep(self, trace_id: int) -> bool:
        """Keep a turn after all; return whether its spans still waited."""
        with self._lock:
            if trace_id not in self._waiting:
                return False
            self._decided[trace_id] = True
        self._pass(trace_id)
        return True

    def is_kept(self, trace_id: int) -> bool:
        """Tell whether it is certain by now that a trace is kept."""
        if self.share is None:
            return True
        # Without the lock, as it is asked for every value that is recorded: a turn that is decided
        # is so before it waits no longer, and whether it waits is looked up first.
        return self._decided.get(trace_id, trace_id not in self._waiting)

    def on_end(self, span: ReadableSpan) -> None:
        """A span has ended: pass it on, have it wait, or drop it."""
        if self.share is not None and span.context is not None and self._waits(span):
            return
        for processor in self.processors:
            processor.on_end(span)

    def _waits(self, span: ReadableSpan) -> bool:
        trace_id = span.context.trace_id
        with self._lock:
            spans = self._waiting.get(trace_id)
            if spans is None:
                return not self._decided.get(trace_id, True)
            if self._decided.get(trace_id):
                # Those before it are on their way, in another thread.
                return False
            spans.append(span)
            self._size += 1
            if self._size <= MAX_WAITING:
                return True
            if (over := next((t for t in self._waiting if t in self._decided), None)) is not None:
                self._drop(over)
                return True
            # All are of turns under way. One with so many spans is worth to be looked at.
            largest = max(self._waiting, key=lambda each: len(self._waiting[each]))
        self.keep(largest)
        return True

    def _drop(self, trace_id: int) -> None:
        self._size -= len(self._waiting.pop(trace_id, ()))

    def _pass(self, trace_id: int) -> None:
        with self._lock:
            spans = self._waiting.pop(trace_id, [])
            self._size -= len(spans)
        for span in spans:
            for processor in self.processors:
                processor.on_end(span)

    def _is_of_share(self, trace_id: int) -> bool:
        # https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling
        return trace_id & _LAST_56_BITS >= (1 - (self.share or 0.0)) * (_LAST_56_BITS + 1)

    def shutdown(self) -> None:
        """Shut the processors down."""
        for processor in self.processors:
            processor.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have the processors export what was passed on."""
        flushed = [processor.force_flush(timeout_millis) for processor in self.processors]
        return all(flushed)
