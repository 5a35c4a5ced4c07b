"""Pictures of a report."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from chainlit_otel.analysis.tables import Row
from chainlit_otel.document.pictures import BEFORE, NOW, WIDTH, styled

_HEAT = [f"var(--heat-{level})" for level in range(6)]
PERIODS = alt.Scale(domain=["this", "before"], range=[NOW, BEFORE])
_LEGEND = alt.Legend(
    orient="top",
    title=None,
    labelExpr="datum.label == 'this' ? 'this period' : 'the period before'",
)
_FEW = 8  # as many days have a label each


def _chart(rows: Sequence[Row]) -> alt.Chart:
    """Return an empty chart of rows; Vega knows no NaN."""
    values = [{k: None if v != v else v for k, v in row.items()} for row in rows]
    return alt.Chart(alt.InlineData(values=values))


def lines(rows: Sequence[Row], measures: Sequence[str]) -> alt.TopLevelMixin:
    """Draw measures over the days of a period, over those of the period before.

    Args:
        rows: With `period`, `date` (of this period), `measure` and `value`.
        measures: In their order.
    """
    is_short = len({row["date"] for row in rows}) <= _FEW
    ticks = alt.TimeIntervalStep(interval="day", step=1) if is_short else _FEW
    only_whole = {"condition": {"test": "datum.value % 1", "value": 0}, "value": 1}
    whole = alt.Axis(
        tickCount=4,
        format=",d",
        labelExpr="datum.value % 1 ? '' : datum.label",
        gridOpacity=only_whole,
        tickOpacity=only_whole,
    )
    base = _chart(rows).encode(
        x=alt.X("date:T", title=None, axis=alt.Axis(format="%d %b", grid=False, tickCount=ticks)),
        y=alt.Y("value:Q", title=None, axis=whole),
        color=alt.Color("period:N", scale=PERIODS, legend=_LEGEND),
        strokeDash=alt.StrokeDash(
            "period:N",
            scale=alt.Scale(domain=["this", "before"], range=[[1, 0], [4, 3]]),
            legend=None,
        ),
    )
    return styled(
        base.mark_line(strokeWidth=2, point={"size": 24, "filled": True})
        .properties(width=WIDTH, height=110)
        .facet(row=alt.Row("measure:N", sort=list(measures), header=alt.Header(labelOrient="top")))
        .resolve_scale(y="independent")
    )


def heat(
    rows: Sequence[Row], x: str, y: str, title: str, form: str, top: float
) -> alt.TopLevelMixin:
    """Draw a value by two things, the greater the stronger.

    Args:
        rows: With the two columns and `value`.
        x: Column from left to right.
        y: Column from top to bottom.
        title: Of what goes from left to right.
        form: How to write a value, as d3 has it; empty for not at all.
        top: The greatest value.
    """
    base = _chart(rows).encode(
        x=alt.X(f"{x}:O", title=title, sort=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y(f"{y}:O", title=None, sort=None),
    )
    cells = base.mark_rect(stroke="var(--paper)", strokeWidth=1).encode(
        color=alt.Color(
            "value:Q",
            scale=alt.Scale(type="quantize", domain=[0, top or 1], range=_HEAT),
            legend=None,
        )
    )
    if form:
        text = base.mark_text(fontSize=11, color="var(--ink)").encode(
            text=alt.Text("value:Q", format=form)
        )
        return styled((cells + text).properties(width=WIDTH, height={"step": 26}))
    return styled(cells.properties(width=WIDTH, height={"step": 24}))


def bars(rows: Sequence[Row], order: Sequence[str], title: str, form: str) -> alt.TopLevelMixin:
    """Draw a value by name, with that of the period before beside it.

    Args:
        rows: With `period`, `name` and `value`.
        order: Of the names.
        title: Of the values.
        form: How to write a value, as d3 has it.
    """
    return styled(
        _chart(rows)
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            y=alt.Y("name:N", sort=list(order), title=None),
            x=alt.X("value:Q", title=title, axis=alt.Axis(format=form, tickCount=6)),
            yOffset=alt.YOffset("period:N", sort=["this", "before"]),
            color=alt.Color("period:N", scale=PERIODS, legend=_LEGEND),
        )
        .properties(width=WIDTH, height={"step": 12})
    )


def dots(rows: Sequence[Row], order: Sequence[str], title: str, form: str) -> alt.TopLevelMixin:
    """Draw estimates with their intervals by name.

    Args:
        rows: With `period`, `name`, `value`, `low` and `high`.
        order: Of the names.
        title: Of the values.
        form: How to write a value, as d3 has it.
    """
    base = _chart(rows).encode(
        y=alt.Y("name:N", sort=list(order), title=None),
        yOffset=alt.YOffset("period:N", sort=["this", "before"]),
    )
    axis = alt.Axis(format=form, tickCount=6)
    interval = base.mark_rule(strokeWidth=2, opacity=0.55).encode(
        x=alt.X("low:Q", title=title, axis=axis),
        x2="high:Q",
        color=alt.Color("period:N", scale=PERIODS, legend=None),
    )
    middle = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X("value:Q", title=title, axis=axis),
        color=alt.Color("period:N", scale=PERIODS, legend=_LEGEND),
    )
    return styled(
        (interval + middle)
        .resolve_legend(color="independent")
        .properties(width=WIDTH, height={"step": 14})
    )


def survival(rows: Sequence[Row], shortest: float) -> alt.TopLevelMixin:
    """Draw which share of sessions lasts longer than a time, with its limits.

    Args:
        rows: With `period`, `duration`, `survival`, `lower_limit` and `upper_limit`.
        shortest: Seconds at which the axis begins, which is logarithmic.
    """
    marks = [1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600]
    label = (
        "datum.value < 60 ? datum.value + ' s' : datum.value < 3600 ? datum.value / 60 + ' min' : "
        "datum.value / 3600 + ' h'"
    )
    base = _chart(rows).encode(
        x=alt.X(
            "duration:Q",
            title="lasted longer than",
            scale=alt.Scale(type="log", nice=False, domainMin=shortest),
            axis=alt.Axis(values=marks, labelExpr=label),
        ),
    )
    axis = alt.Axis(format="%", tickCount=5)
    band = base.mark_area(opacity=0.18, interpolate="step-after").encode(
        y=alt.Y("lower_limit:Q", title=None, axis=axis),
        y2="upper_limit:Q",
        color=alt.Color("period:N", scale=PERIODS, legend=None),
    )
    curve = base.mark_line(strokeWidth=2, interpolate="step-after").encode(
        y=alt.Y("survival:Q", title=None, axis=axis),
        color=alt.Color("period:N", scale=PERIODS, legend=_LEGEND),
    )
    return styled(
        (band + curve).resolve_legend(color="independent").properties(width=WIDTH, height=240)
    )
