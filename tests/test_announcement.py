from __future__ import annotations

import logging

import pytest

from chainlit_otel import announcement
from chainlit_otel.announcement import announce, sent, served, shown


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has set up logging; pytest itself has."""
    monkeypatch.setattr(announcement.logger, "hasHandlers", lambda: False)


@pytest.mark.usefixtures("alone")
def test_a_line_is_printed_where_nobody_has_set_up_logging(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    announce(logging.INFO, "metrics at here")
    assert capsys.readouterr() == ("", "chainlit-otel: metrics at here\n")
    assert caplog.records == []


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_a_line_is_logged_and_not_printed_where_somebody_has(
    level: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        announce(level, "metrics at here")
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(level, "metrics at here")]
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("alone")
def test_a_process_without_an_output_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    announce(logging.INFO, "metrics at here")


@pytest.mark.parametrize(
    ("host", "port", "asked", "in_app", "level", "text"),
    [
        ("127.0.0.1", 9464, 9464, None, "INFO", "metrics at http://127.0.0.1:9464/metrics"),
        ("0.0.0.0", 9464, 9464, None, "INFO", "metrics at http://0.0.0.0:9464/metrics"),
        ("::1", 7, 0, None, "INFO", "metrics at http://[::1]:7/metrics"),
        (
            "127.0.0.1",
            9465,
            9464,
            None,
            "WARNING",
            "metrics at http://127.0.0.1:9465/metrics, because port 9464 is taken",
        ),
        (
            "127.0.0.1",
            9464,
            9464,
            "/chat/metrics",
            "INFO",
            "metrics at http://127.0.0.1:9464/metrics and /chat/metrics of the app",
        ),
        (None, 0, 9464, "/metrics", "INFO", "metrics at /metrics of the app"),
        (
            None,
            0,
            9464,
            None,
            "INFO",
            "metrics are served nowhere (CHAINLIT_OTEL_ADMIN_SERVER, CHAINLIT_OTEL_METRICS_PATH)",
        ),
    ],
)
def test_where_the_metrics_are(
    host: str | None, port: int, asked: int, in_app: str | None, level: str, text: str
) -> None:
    assert served(host, port, asked, in_app) == (getattr(logging, level), text)


@pytest.mark.parametrize(
    ("metrics", "spans", "text"),
    [
        ([], [], "nothing is sent anywhere (OTEL_EXPORTER_OTLP_ENDPOINT names no endpoint)"),
        (["http://a/"], [], "sent: metrics to http://a/, spans to nobody"),
        (["a", "b"], ["c"], "sent: metrics to a and b, spans to c"),
    ],
)
def test_where_telemetry_is_sent(metrics: list[str], spans: list[str], text: str) -> None:
    assert sent({"metrics": metrics, "spans": spans}) == text


@pytest.mark.parametrize(
    ("host", "needs_token", "has_token", "text"),
    [
        ("127.0.0.1", False, False, "live page at http://127.0.0.1:9464/"),
        ("::1", False, False, "live page at http://[::1]:9464/"),
        ("127.0.0.1", False, True, "live page at http://127.0.0.1:9464/?token=…"),
        ("0.0.0.0", True, True, "live page at http://0.0.0.0:9464/?token=…"),
        (
            *("0.0.0.0", True, False),
            "no live page on 0.0.0.0 without a token (CHAINLIT_OTEL_PAGE_TOKEN)",
        ),
        (
            *(None, False, False),
            "no live page, which is on the admin server alone (CHAINLIT_OTEL_ADMIN_SERVER)",
        ),
    ],
)
def test_a_line_says_where_the_live_page_is(
    host: str | None, needs_token: bool, has_token: bool, text: str
) -> None:
    assert shown(host, 9464, needs_token, has_token) == text
