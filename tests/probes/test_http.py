"""What is excluded and what is redacted, without a server."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.instrumentation import _semconv
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import INVALID_SPAN
from opentelemetry.util.http import parse_excluded_urls

from chainlit_otel.guard import Guard
from chainlit_otel.probes.http import _chosen_by_user, _excluded, _redact, _stable_names

HOST = "http://localhost:8000"


def is_excluded(path: str, mounted: list[str] | None = None, metrics: str | None = None) -> bool:
    """Ask the instrumentation, which is given the patterns as one text."""
    patterns = ",".join(_excluded(mounted or [], metrics))
    return parse_excluded_urls(patterns).url_disabled(HOST + path)


@pytest.mark.parametrize(
    "path",
    [
        "/ws/socket.io",
        "/ws/socket.io/",
        "/ws/socket.io/?EIO=4&transport=polling&t=x",
        "/chat/ws/socket.io/",
    ],
)
def test_polls_of_a_socket_are_not_requests(path: str) -> None:
    assert is_excluded(path)


@pytest.mark.parametrize("path", ["/", "/project/settings", "/ws/socketXio/", "/user", "/metrics"])
def test_other_requests_are(path: str) -> None:
    assert not is_excluded(path)


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("/int.ernal/metrics", True),
        ("/int.ernal/metrics/", True),
        ("/prefix/int.ernal/metrics", True),
        ("/int.ernal/metrics/more", False),
        ("/intXernal/metrics", False),
        ("/metrics", False),
    ],
)
def test_scrapes_of_our_metrics_are_not_requests(path: str, excluded: bool) -> None:
    assert is_excluded(path, metrics="/int.ernal/metrics") is excluded


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("/chat", True),
        ("/chat/", True),
        ("/chat/project/settings", True),
        ("/a+b/project", True),
        ("/", False),
        ("/chatter", False),
        ("/api/chat", False),
        ("/api/chat/more", False),
        ("/aab/project", False),
        ("/b,c/project", True),
    ],
)
def test_what_is_mounted_has_its_own_instrumentation(path: str, excluded: bool) -> None:
    assert is_excluded(path, mounted=["/chat", "/a+b", "/b,c"]) is excluded


def test_an_app_mounted_at_the_root_hides_nothing_of_the_outer_one() -> None:
    assert not is_excluded("/api", mounted=[""])


def test_the_first_choice_of_a_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _chosen_by_user() == []
    monkeypatch.setenv("OTEL_PYTHON_EXCLUDED_URLS", "health,ready")
    assert _chosen_by_user() == ["health,ready"]
    monkeypatch.setenv("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "live")
    assert _chosen_by_user() == ["live"]


@pytest.mark.parametrize(
    ("chosen", "names"), [("", "http"), ("database", "http"), ("database, http/dup", "http/dup")]
)
def test_ours_have_the_stable_names_and_others_keep_theirs(
    monkeypatch: pytest.MonkeyPatch, chosen: str, names: str
) -> None:
    def mode() -> str:
        shared = _semconv._OpenTelemetrySemanticConventionStability
        found = shared._get_opentelemetry_stability_opt_in_mode(
            _semconv._OpenTelemetryStabilitySignalType.HTTP
        )
        return str(found.value)

    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", chosen)
    with _stable_names():
        pass  # the first of all takes the choice from the environment
    before = mode()
    with _stable_names():
        assert mode() == names
    assert mode() == before
    assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == chosen


def redacted(query: bytes) -> dict[str, Any]:
    """The attributes of the span of a request, as the instrumentation makes it, after the hook."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("theirs")
    attributes = {"url.query": query.decode("latin-1"), "client.address": "192.0.2.7"}
    span = tracer.start_span("request", attributes=attributes)
    _redact(Guard("http"), True, span, {"query_string": query})
    return dict(getattr(span, "attributes"))  # noqa: B009 - the API's span has none


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (b"session_id=abc", "session_id=REDACTED"),
        (b"a=1&session_id=abc&b=2", "a=1&session_id=REDACTED&b=2"),
        (b"session_id=abc&session_id=def", "session_id=REDACTED&session_id=REDACTED"),
        (b"session_id=", "session_id=REDACTED"),
        (b"session_id=a%26b;c=d", "session_id=REDACTED"),
        (b"other=abc", "other=abc"),
        (b"", ""),
    ],
)
def test_a_session_id_in_a_query_is_redacted_and_nothing_else(query: bytes, told: str) -> None:
    assert redacted(query)["url.query"] == told


def test_the_address_of_a_visitor_is_redacted() -> None:
    assert redacted(b"")["client.address"] == "REDACTED"


VALUES = st.text(st.characters(codec="latin-1", exclude_characters="&"))


@given(st.lists(st.tuples(st.sampled_from(["a", "session_id", "b"]), VALUES)))
def test_no_query_lets_the_value_of_a_session_id_through(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"{key}={value}" for key, value in pairs)
    told = redacted(query.encode("latin-1"))["url.query"]
    assert told.split("&") == [
        "session_id=REDACTED" if pair.startswith("session_id=") else pair
        for pair in query.split("&")
    ]


@pytest.mark.parametrize("span", [INVALID_SPAN, None])
def test_a_span_that_records_nothing_is_left_alone(span: Any) -> None:
    unsampled = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False).get_tracer("t").start_span("s")
    guard = Guard("http")
    _redact(guard, True, span or unsampled, {})
    assert guard.errors == 0
