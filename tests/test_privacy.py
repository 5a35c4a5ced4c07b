"""What is redacted in a request and in an address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.privacy import mask_url, redact_query, redact_scope


@pytest.mark.parametrize(
    ("query", "reported"),
    [
        (b"", ""),
        (b"session_id=abc", "session_id=REDACTED"),
        (b"language=en-US", "language=en-US"),
        (b"language=CANARY", "language=REDACTED"),
        (b"language=en-US&email=me%40example.com", "language=en-US&email=REDACTED"),
        (b"limit=20&page=3", "limit=20&page=3"),
        (b"limit=20x", "limit=REDACTED"),
        (b"a=1&session_id=abc&z=2", "a=REDACTED&session_id=REDACTED&z=REDACTED"),
        (b"session%5fid=abc", "REDACTED=REDACTED"),
        (b"my+secret=abc", "REDACTED=REDACTED"),
        (b"what+is+love", "REDACTED"),
        (b"code=a=b;c", "code=REDACTED"),
        (b"code=\xff", "code=REDACTED"),
    ],
)
def test_of_a_query_only_what_is_known_to_be_harmless_is_left(query: bytes, reported: str) -> None:
    assert redact_query(query) == reported
    assert redact_query(query.decode("latin-1")) == reported


def test_the_redacted_query_is_bounded() -> None:
    assert redact_query(b"&".join([b"a=b"] * 10_000)) == "&".join(["a=REDACTED"] * 32)


@given(st.lists(st.tuples(st.sampled_from(["language", "code", "limit", "x"]), st.text())))
def test_no_query_lets_a_text_through(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"{name}=CANARY{value}" for name, value in pairs)
    assert "CANARY" not in redact_query(query)


@given(st.dictionaries(st.text(alphabet="abcXYZ_"), st.text(max_size=5)))
def test_no_name_that_a_browser_makes_up_is_left(query: dict[str, str]) -> None:
    reported = redact_query("&".join(f"CANARY{name}={value}" for name, value in query.items()))
    assert "CANARY" not in reported


SCOPE = {
    "type": "http",
    "method": "GET",
    "scheme": "https",
    "http_version": "1.1",
    "server": ("127.0.0.1", 8000),
    "client": ("192.0.2.7", 4711),
    "path": "/user/CANARY",
    "raw_path": b"/user/CANARY",
    "root_path": "/chat",
    "query_string": b"prompt=CANARY",
    "headers": [(b"host", b"CANARY"), (b"Cookie", b"CANARY"), (b"traceparent", b"00-1-2-01")],
    "state": {"text": "CANARY"},
    "user": "CANARY",
}


def test_an_instrumentation_sees_of_a_request_what_it_may_tell() -> None:
    assert redact_scope(SCOPE, "/user/{name}", {b"host", b"cookie"}) == {
        "type": "http",
        "method": "GET",
        "scheme": "https",
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("REDACTED", None),
        "path": "/user/{name}",
        "root_path": "/chat",
        "query_string": b"prompt=REDACTED",
        "headers": [(b"traceparent", b"00-1-2-01")],
    }


@pytest.mark.parametrize(
    ("changed", "key", "reported"),
    [
        ({"method": "CANARY"}, "method", "_OTHER"),
        ({"scheme": "CANARY"}, "scheme", "http"),
        ({"client": None}, "client", None),
        ({"path_params": {"tenant": "CANARY"}, "root_path": "/CANARY"}, "root_path", ""),
    ],
)
def test_what_a_client_makes_up_is_redacted(
    changed: dict[str, object], key: str, reported: object
) -> None:
    assert redact_scope({**SCOPE, **changed}, "/", ())[key] == reported


def test_a_path_without_a_route_is_redacted() -> None:
    assert redact_scope(SCOPE, None, ())["path"] == "/REDACTED"


@pytest.mark.parametrize(
    ("url", "reported"),
    [
        ("http://host:4318/v1/traces", "http://host:4318/v1/traces"),
        ("http://me:secret@host:4318/v1", "http://***@host:4318/v1"),
        ("http://secret@host", "http://***@host"),
        ("http://host/v1?api_key=secret&secret", "http://host/v1?api_key=***&***"),
        ("http://host/v1#secret", "http://host/v1#***"),
        ("me:secret@host:4317", "***@host:4317"),
        ("host:4317", "host:4317"),
        ("http://[secret", "***"),
        ("gzip", "gzip"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, reported: str) -> None:
    assert mask_url(url, "***") == reported
