"""The text of a scrape: the format, the encoding and the metrics that the scraper asks for.

They are chosen here and not by prometheus_client, which ignores weights, answers a malformed
version with an error, and restricts a page only for collectors that describe their metrics.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client import Metric as Family
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from starlette.requests import Request

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# What a family of each type adds to its name; it may have its bare name, too.
_SUFFIXES = {
    "counter": ("_total", "_created"),
    "histogram": ("_bucket", "_count", "_sum", "_created"),
    "info": ("_info",),
}

_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


class Wanted(NamedTuple):
    """What a scraper asks for; two scrapers that want the same may share one page.

    Attributes:
        openmetrics: OpenMetrics instead of the Prometheus text format.
        gzip: Compressed.
        names: The metrics, by the name of a family or of a sample; none for all.
    """

    openmetrics: bool = False
    gzip: bool = False
    names: frozenset[str] = frozenset()


class Page(NamedTuple):
    """A rendered page and its headers."""

    body: bytes
    headers: dict[str, str]


def names_of(family: Family) -> frozenset[str]:
    """Return every name that a family has, in either format."""
    suffixes = ("", *_SUFFIXES.get(family.type, ()))
    return frozenset(family.name + suffix for suffix in suffixes)


def wanted(request: Request) -> Wanted:
    """Return what a scraper asks for; by default, and for anything malformed, all as plain text."""
    types = _weights(request, "accept")
    openmetrics = max(
        types.get("application/openmetrics-text", 0.0),
        types.get("application/openmetrics-text;version=1.0.0", 0.0),
    )
    plain = max(
        (weight for name, weight in types.items() if name.startswith("text/plain")),
        default=types.get("text/*", types.get("*/*", 0.0)),
    )
    return Wanted(
        openmetrics=0 < openmetrics >= plain,
        gzip=_weights(request, "accept-encoding").get("gzip", 0.0) > 0,
        names=frozenset(filter(None, request.query_params.getlist("name[]"))),
    )


def _weights(request: Request, header: str) -> dict[str, float]:
    """Return the weight of each thing that a header accepts, its version included."""
    weights: dict[str, float] = {}
    for accepted in ",".join(request.headers.getlist(header)).split(","):
        name, *parameters = (part.strip().lower() for part in accepted.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        if version := given.get("version", "").strip('"'):
            name = f"{name};version={version}"
        weight = given.get("q", "1")
        weights[name] = float(weight) if _WEIGHT.fullmatch(weight) else 1.0
    return weights


def render(collector: Collector, wanted: Wanted) -> Page:
    """Collect now, and render what is wanted.

    Args:
        collector: A registry, or anything else that collects families.
        wanted: What the scraper asks for. A name brings its whole family: a bucket without its
            count would be no histogram.
    """
    restricted = _Restricted(collector, wanted.names) if wanted.names else collector
    if wanted.openmetrics:
        body: bytes = generate_openmetrics(restricted)  # type: ignore[no-untyped-call]
    else:
        body = generate_latest(restricted)
    headers = {"Content-Type": OPENMETRICS if wanted.openmetrics else TEXT}
    if wanted.gzip:
        body = gzip.compress(body, 6)
        headers["Content-Encoding"] = "gzip"
    return Page(body, headers)


class _Restricted(Collector):
    def __init__(self, collector: Collector, names: frozenset[str]) -> None:
        self._collector = collector
        self._names = names

    def collect(self) -> Iterable[Family]:
        return [f for f in self._collector.collect() if names_of(f) & self._names]
