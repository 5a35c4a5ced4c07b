"""What a scraper asks for, and what it is given."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from starlette.requests import Request

from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.reader import ScrapeReader
from chainlit_otel.server.app import admin_app
from chainlit_otel.server.metrics import MetricsEndpoint
from chainlit_otel.server.rendering import OPENMETRICS, TEXT, Wanted, render, wanted

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROTOBUF_FIRST = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    + PROMETHEUS_2
)


def request(query: str = "", **headers: str) -> Request:
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/metrics",
            "query_string": query.encode(),
            "headers": [
                (name.replace("_", "-").encode(), value.encode("latin-1"))
                for name, value in headers.items()
            ],
        }
    )


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        (PROTOBUF_FIRST, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0", True),
        ('application/openmetrics-text; version="1.0.0"; charset=utf-8', True),
        ("APPLICATION/OpenMetrics-Text;Version=1.0.0", True),
        ("text/plain,application/openmetrics-text", True),
        ("text/plain;q=0.4,application/openmetrics-text;q=0.5", True),
        ("application/openmetrics-text;version=1.0.0;escaping=dots", True),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", False),
        ("application/openmetrics-text;q=0.4,text/*", False),
        ("application/openmetrics-text;q=0.4,*/*", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;version=nonsense,text/plain", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("application/json", False),
        ("*/*", False),
        ("", False),
        (";;;,,=;q=,q", False),
    ],
)
def test_the_format_is_the_one_that_the_scraper_prefers(accept: str, openmetrics: bool) -> None:
    assert wanted(request(accept=accept)) == Wanted(openmetrics)


@pytest.mark.parametrize("weight", ["x", "", "nan", "2", "-1", "1e9", "0.5.5"])
def test_a_weight_that_is_none_counts_as_one(weight: str) -> None:
    accept = f"application/openmetrics-text;q={weight},text/plain;q=0.9"
    assert wanted(request(accept=accept)).openmetrics


def test_without_any_header_it_is_all_as_plain_text() -> None:
    assert wanted(request()) == Wanted(openmetrics=False, gzip=False, names=frozenset())


@pytest.mark.parametrize(
    ("encoding", "compressed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("br", False), ("", False)],
)
def test_it_is_compressed_for_whom_takes_it(encoding: str, compressed: bool) -> None:
    assert wanted(request(accept_encoding=encoding)).gzip is compressed


def test_the_names_are_those_of_the_query() -> None:
    asked = request("name[]=a_total&name%5B%5D=b&name[]=&other=c&name=d&%ff=%fe")
    assert wanted(asked).names == {"a_total", "b"}


@given(
    st.text(st.characters(max_codepoint=255), max_size=60),
    st.text(st.characters(max_codepoint=255), max_size=60),
    st.binary(max_size=60),
)
def test_whatever_is_asked_for_there_is_an_answer(accept: str, encoding: str, query: bytes) -> None:
    asked = request(accept=accept, accept_encoding=encoding)
    asked.scope["query_string"] = query
    page = render(Families(), wanted(asked))
    body = gzip.decompress(page.body) if "Content-Encoding" in page.headers else page.body
    if page.headers["Content-Type"] == OPENMETRICS:
        list(parse_openmetrics(body.decode()))  # type: ignore[no-untyped-call]
    else:
        list(parse_text(body.decode()))


class Families(Collector):
    """A family of each type."""

    def collect(self) -> Iterable[Family]:
        counter = Family("requests", "A counter.", "counter")
        counter.add_sample("requests_total", {}, 3)
        histogram = Family("wait_seconds", "A histogram.", "histogram")
        histogram.add_sample("wait_seconds_bucket", {"le": "1.0"}, 1)
        histogram.add_sample("wait_seconds_bucket", {"le": "+Inf"}, 2)
        histogram.add_sample("wait_seconds_count", {}, 2)
        histogram.add_sample("wait_seconds_sum", {}, 5.5)
        gauge = Family("open", "A gauge.", "gauge")
        gauge.add_sample("open", {}, 7)
        info = Family("target", "An info.", "info")
        info.add_sample("target_info", {"a": "b"}, 1)
        return [counter, histogram, gauge, info]


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize(
    ("names", "samples"),
    [
        (("requests_total",), {"requests_total"}),
        (("requests",), {"requests_total"}),
        (("open", "target_info"), {"open", "target_info"}),
        (("wait_seconds_count",), {f"wait_seconds_{s}" for s in ("bucket", "count", "sum")}),
        (("nonsense",), set()),
    ],
)
def test_a_name_brings_its_whole_family_and_nothing_else(
    openmetrics: bool, names: tuple[str, ...], samples: set[str]
) -> None:
    text = render(Families(), Wanted(openmetrics, names=frozenset(names))).body.decode()
    parse = parse_openmetrics if openmetrics else parse_text
    found = {s.name for family in parse(text) for s in family.samples}
    assert found == samples


# The endpoint


def endpoint(reader: ScrapeReader | None = None, token: str | None = None) -> httpx.AsyncClient:
    metrics = MetricsEndpoint(reader, token, Guard("server"), lambda metric: metric.label_sets)
    app = admin_app(metrics, lambda: {"status": "ok"})
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz"])
async def test_nothing_but_reading_is_allowed(method: str, path: str) -> None:
    async with endpoint(ScrapeReader()) as client:
        response = await client.request(method, path)
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_the_root_says_where_things_are() -> None:
    async with endpoint(ScrapeReader()) as client:
        index = await client.get("/")
        places = re.findall(r'<a href="([^"]+)">', index.text)
        answers = [await client.get(place) for place in places]
    assert index.status_code == 200
    assert index.headers["content-type"].startswith("text/html")
    assert places == ["metrics", "healthz"]
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_head_has_the_headers_of_a_get() -> None:
    async with endpoint(ScrapeReader()) as client:
        response = await client.head("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == TEXT
    assert int(response.headers["content-length"]) > 0


@pytest.mark.parametrize("reader", [ScrapeReader(), None], ids=["served here", "elsewhere"])
async def test_the_process_can_be_asked_for_alone(reader: ScrapeReader | None) -> None:
    async with endpoint(reader) as client:
        response = await client.get("/metrics", params={"name[]": "process_open_fds"})
    (family,) = parse_text(response.text)
    assert family.name == "process_open_fds"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("Bearer secret", 200),
        ("Bearer secre", 401),
        ("Bearer secrets", 401),
        ("Bearer ", 401),
        ("secret", 401),
        ("", 401),
    ],
)
async def test_a_token_is_compared_as_a_whole(sent: str, status: int) -> None:
    async with endpoint(token="secret") as client:
        response = await client.get("/metrics", headers={"Authorization": sent})
    assert response.status_code == status
