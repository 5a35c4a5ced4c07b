"""What a row of the catalogue says."""

from __future__ import annotations

from dataclasses import dataclass

from chainlit_otel.catalog.naming import Kind, prometheus_name

LabelSet = tuple[str, ...]


@dataclass(frozen=True)
class Attribute:
    """An attribute of metrics.

    Attributes:
        key: Its OpenTelemetry key.
        values: The closed set of its values.
        is_open: Whether the app names its values instead, the first so many of them.
    """

    key: str
    values: tuple[str, ...] = ()
    is_open: bool = False

    @property
    def prometheus_label(self) -> str:
        """The Prometheus label of this attribute."""
        return self.key.replace(".", "_")


@dataclass(frozen=True, eq=False)
class Metric:
    """One row of the catalogue.

    Attributes:
        name: OpenTelemetry name.
        kind: Kind of instrument.
        unit: UCUM unit; in braces what is counted.
        description: One sentence, shown as the help text.
        attributes: The attributes, in the order in which label values are given.
        bounds: Histogram bucket bounds, in `unit`.
        label_sets: The combinations of label values that exist at zero from the start, because
            `rate()` loses the first event of a series that appears with it. Those that every app
            can have, and of a histogram those whose rate an alert or a panel needs from the first
            event, since each of its sets is a dozen series. What only some apps have, such as a
            callback or a way to sign in, is added when the app is known to have it.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[Attribute, ...] = ()
    bounds: tuple[float, ...] = ()
    label_sets: tuple[LabelSet, ...] = ((),)

    @property
    def prometheus_name(self) -> str:
        """The Prometheus name: the family of a histogram, the sample of anything else."""
        return prometheus_name(self.name, self.unit, self.kind)

    @property
    def series(self) -> int:
        """How many series one label set costs."""
        return len(self.bounds) + 3 if self.kind == "histogram" else 1

    def labels(self, values: LabelSet) -> dict[str, str]:
        """Return the attributes of one label set, by their OpenTelemetry keys.

        An empty value stands for an attribute that is not there.
        """
        return {
            attribute.key: value
            for attribute, value in zip(self.attributes, values, strict=True)
            if value
        }
