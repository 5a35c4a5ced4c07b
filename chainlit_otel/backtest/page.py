"""The page of a backtest: each alert that fired, with what it looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import altair as alt
import numpy as np
from markupsafe import Markup

from chainlit_otel.backtest.curves import Curve
from chainlit_otel.backtest.replay import Firing, in_words
from chainlit_otel.backtest.trial import Alternative
from chainlit_otel.document import rendered
from chainlit_otel.document.pictures import BEFORE, NOW, WIDTH, styled, svg

# Of what is below a thousand as it is: milli is no unit of a share.
_LABEL = "format(datum.value, datum.value < 1000 ? '.3~f' : '~s')"


@dataclass(frozen=True)
class Backtest:
    """What a backtest found.

    Attributes:
        since: Start of the period, in seconds since 1970.
        until: End of the period, in seconds since 1970.
        firings: Everything that fired in it, by time.
        curves: What the alerts that fired looked at.
        alternatives: What other values of the thresholds would have done.
        source: Who was asked, and for how much.
    """

    since: float
    until: float
    firings: Sequence[Firing]
    curves: Sequence[Curve]
    alternatives: Sequence[Alternative]
    source: str

    @property
    def weeks(self) -> float:
        """How many weeks the period has."""
        return (self.until - self.since) / (7 * 86_400)

    def of(self, alert: str) -> list[Firing]:
        """Return the firings of an alert."""
        return [one for one in self.firings if one.alert == alert]

    def seconds_of(self, alert: str) -> float:
        """Return the seconds of the period in which an alert fired, those of each firing added."""
        return sum(to - start for start, to in map(self.within, self.of(alert)))

    def within(self, one: Firing) -> tuple[float, float]:
        """Return from when to when an alert fired within the period."""
        return max(one.start, self.since), min(one.end or self.until, self.until)


def as_html(backtest: Backtest) -> str:
    """Return a page that needs neither a script nor a network."""
    curves = {one.alert: one for one in backtest.curves}
    pictures = {
        alert: Markup(svg(_drawn(one, backtest), number))
        for number, (alert, one) in enumerate(curves.items(), 2)
    }
    overview = Markup(svg(_lanes(backtest), 1)) if backtest.firings else None
    return rendered(
        "chainlit_otel.backtest",
        "page.html",
        {"time": _time, "lasting": in_words, "labels": _labels},
        backtest=backtest,
        alerts=sorted({one.alert for one in backtest.firings}),
        curves=curves,
        pictures=pictures,
        overview=overview,
    )


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M}"


def _labels(one: Firing | Curve) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(one.labels))


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _axis(backtest: Backtest) -> alt.X:
    ends = [_at(backtest.since), _at(backtest.until)]
    is_long = backtest.until - backtest.since > 3 * 86_400
    form = "%d %b" if is_long else "%H:%M"
    # Vega would write the times of where the page is made.
    return alt.X(
        "from:T",
        title=None,
        scale=alt.Scale(type="utc", domain=ends),
        axis=alt.Axis(grid=False, tickCount=6, formatType="utc", format=form),
    )


def _spans(backtest: Backtest, firings: Sequence[Firing]) -> list[dict[str, Any]]:
    found = []
    for one in firings:
        start, to = backtest.within(one)
        found.append({"alert": one.alert, "from": _at(start), "to": _at(to)})
    return found


def _bars(rows: Sequence[dict[str, Any]], opacity: float) -> alt.Chart:
    chart = alt.Chart(alt.InlineData(values=list(rows)))
    # The outline shows what is too short to have a width.
    drawn: alt.Chart = chart.mark_rect(color=NOW, opacity=opacity, stroke=NOW, strokeWidth=1.5)
    return drawn


def _lanes(backtest: Backtest) -> alt.TopLevelMixin:
    """Draw when each alert fired."""
    return styled(
        _bars(_spans(backtest, backtest.firings), 0.7)
        .encode(x=_axis(backtest), x2="to:T", y=alt.Y("alert:N", title=None))
        .properties(width=WIDTH, height={"step": 22})
    )


def _drawn(curve: Curve, backtest: Backtest) -> alt.TopLevelMixin:
    """Draw what an alert looked at over its limit, and when it fired."""
    named = (("value", curve.values), ("limit", curve.limits))
    rows = [
        {"from": _at(time), "what": what, "value": float(value) if np.isfinite(value) else None}
        for what, values in named
        for time, value in zip(curve.times, values, strict=True)
    ]
    what = ["value", "limit"]
    lines = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(strokeWidth=1.5, invalid="break-paths-show-domains")
        .encode(
            x=_axis(backtest),
            y=alt.Y("value:Q", title=None, axis=alt.Axis(tickCount=5, labelExpr=_LABEL)),
            color=alt.Color(
                "what:N",
                scale=alt.Scale(domain=what, range=["var(--ink)", BEFORE]),
                legend=alt.Legend(orient="top", title=None),
            ),
            strokeDash=alt.StrokeDash(
                "what:N", scale=alt.Scale(domain=what, range=[[1, 0], [4, 3]]), legend=None
            ),
        )
    )
    fired = [one for one in backtest.of(curve.alert) if one.labels == curve.labels]
    bands = _bars(_spans(backtest, fired), 0.25).encode(x=_axis(backtest), x2="to:T")
    return styled((bands + lines).properties(width=WIDTH, height=180))
