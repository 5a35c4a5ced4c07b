"""The history of the live page, against a model that keeps everything."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chainlit_otel.live.history import MINUTES, SECONDS, Aggregate, History

FIGURES: dict[str, Aggregate] = {"starts": "sum", "peak": "max", "active": "last"}

gaps = st.lists(st.integers(1, 5) | st.sampled_from([60, 899, 900, 901, 3600]), max_size=60)
numbers = st.integers(0, 1000)


class Model:
    """Keeps all samples, and computes from them."""

    def __init__(self) -> None:
        self.samples: dict[int, dict[str, float]] = {}

    def seconds(self, name: str) -> tuple[int, list[float | None]]:
        last = max(self.samples)
        kept = range(max(last - SECONDS + 1, 0), last + 1)
        return kept.start, [self.samples.get(s, {}).get(name) for s in kept]

    def minutes(self, name: str, aggregate: str) -> tuple[int, list[float | None]]:
        last = max(self.samples) // 60
        kept = range(max(last - MINUTES + 1, 0), last + 1)
        found: list[float | None] = []
        for minute in kept:
            values = [v[name] for s, v in sorted(self.samples.items()) if s // 60 == minute]
            of = {"sum": sum, "max": lambda v: max(v), "last": lambda v: v[-1]}[aggregate]
            found.append(of(values) if values else None)
        return kept.start * 60, found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), gaps, st.data())
def test_it_has_what_was_sampled_and_gaps_where_nothing_was(
    first: int, steps: list[int], data: st.DataObject
) -> None:
    history, model, second = History(FIGURES), Model(), first
    for step in [0, *steps]:
        second += step
        sample = {name: float(data.draw(numbers)) for name in FIGURES}
        model.samples[second] = sample
        history.add(second, sample)
    seconds, minutes = history.read(1), history.read(60)
    for name, aggregate in FIGURES.items():
        start, values = model.seconds(name)
        assert (seconds.start, list(seconds.values[name])) == (start, values)
        start, values = model.minutes(name, aggregate)
        assert (minutes.start, list(minutes.values[name])) == (start, values)


def test_since_leaves_out_what_is_known() -> None:
    history = History(FIGURES)
    for second in range(100, 110):
        history.add(second, {"active": second})
    found = history.read(1, since=107)
    assert (found.start, found.step) == (107, 1)
    assert found.values["active"] == [107, 108, 109]
    assert found.values["peak"] == [None, None, None]
    assert history.read(60, since=120).values["active"] == []


def test_memory_does_not_grow_and_is_below_two_mebibytes() -> None:
    figures: dict[str, Aggregate] = {f"figure {n}": "last" for n in range(40)}
    history = History(figures)
    before = history.size
    for second in range(0, 200_000, 37):
        history.add(second, dict.fromkeys(figures, 1.0))
    assert history.size == before < 2 * 2**20


def test_a_history_without_samples_is_empty() -> None:
    history = History(FIGURES)
    assert history.read(1).values["active"] == []
