from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from chainlit_otel import Settings, settings
from chainlit_otel.settings import PREFIX, describe
from tests.support.server import python_path

ROWS = {row["name"]: row for row in describe()}
FLAGS = [name for name, row in ROWS.items() if isinstance(row["default"], bool)]

# One value of the environment and one by keyword for every setting, none of them the default.
OTHERS: dict[str, tuple[str, Any, Any]] = {
    "service_name": ("shop", "shop", "support"),
    "disabled": ("true", True, True),
    "admin_server": ("false", False, False),
    "host": ("0.0.0.0", "0.0.0.0", "::1"),
    "port": ("9999", 9999, 0),
    "allowed_hosts": ("metrics.example", "metrics.example", "a.example,b.example"),
    "metrics_path": ("/metrics", "/metrics", "/internal/metrics"),
    "metrics_token": ("secret", "secret", "other"),
    "always_serve_metrics": ("true", True, True),
    "trace_keep": ("notable", "notable", "notable"),
    "trace_share": ("0.5", 0.5, 1),
    "slow_turn": ("2.5", 2.5, 10),
    "shutdown_timeout": ("0.5", 0.5, 10),
    "prices_file": ("prices.json", "prices.json", "/etc/prices.json"),
    "records_dir": ("records", "records", "/var/lib/records"),
    "records_max_bytes": ("2097152", 2**21, 2**22),
    "records_keep_days": ("7", 7, 365),
    "export_records": ("true", True, True),
    "user_hash_key": ("key", "key", "other"),
    "synthetic_token": ("a" * 16, "a" * 16, "another-token-of-a-monitor"),
    "live_page": ("false", False, False),
    "page_token": ("token", "token", "other"),
    "page_base_path": ("/admin", "/admin", "/other"),
    "trace_url": (
        *("https://traces/{trace_id}", "https://traces/{trace_id}"),
        "http://others/{trace_id}",
    ),
    "capture_messages": ("true", True, True),
    "capture_steps": ("true", True, True),
    "capture_user": ("true", True, True),
    "capture_exception_messages": ("true", True, True),
}


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    settings._problems.clear()


def env_of(name: str) -> str:
    return str(ROWS[name]["env"])


def test_every_setting_is_tried_here() -> None:
    assert set(OTHERS) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_by_default_a_setting_has_its_default(name: str) -> None:
    assert getattr(Settings(), name) == ROWS[name]["default"]


@pytest.mark.parametrize("name", ROWS)
def test_the_environment_goes_before_the_default(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value, _ = OTHERS[name]
    monkeypatch.setenv(env_of(name), text)
    found = getattr(Settings(), name)
    assert found == value != ROWS[name]["default"]
    assert type(found) is type(value)


@pytest.mark.parametrize("name", ROWS)
def test_a_keyword_goes_before_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, _, keyword = OTHERS[name]
    monkeypatch.setenv(env_of(name), text)
    assert getattr(Settings(**{name: keyword}), name) == keyword
    default = ROWS[name]["default"]
    assert getattr(Settings(**{name: default}), name) == default


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_environment_does_not_matter_to_a_setting_given_by_keyword(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(env_of(name), "{}")
    Settings(**{name: OTHERS[name][2]})
    assert settings.problems() == []


@pytest.mark.parametrize("name", ROWS)
def test_an_empty_variable_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(env_of(name), "")
    assert getattr(Settings(), name) == ROWS[name]["default"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("TRUE", True),
        ("1", True),
        (" yes ", True),
        ("false", False),
        ("False", False),
        ("0", False),
        ("no", False),
    ],
)
@pytest.mark.parametrize("name", [name for name in FLAGS if name != "disabled"])
def test_a_flag_is_written_in_several_ways(
    name: str, text: str, value: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(env_of(name), text)
    assert getattr(Settings(), name) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("TRUE", True), (" True ", True), ("false", False), ("FALSE", False)],
)
def test_the_standard_flag_is_what_the_specification_says(
    text: str, value: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", text)
    assert Settings().disabled is value
    assert settings.problems() == []


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("disabled", "on", "must be true or false, by the specification"),
        ("disabled", "off", "must be true or false, by the specification"),
        ("disabled", "1", "must be true or false, by the specification"),
        ("admin_server", "2", "must be true or false"),
        ("always_serve_metrics", "maybe", "must be true or false"),
        ("capture_messages", "all", "must be true or false"),
        ("capture_steps", "input", "must be true or false"),
        ("capture_user", "hashed", "must be true or false"),
        ("capture_exception_messages", "on", "must be true or false"),
        ("port", "http", "must be a number"),
        ("port", "94.64", "must be a number"),
        ("port", "-1", "must be from 0 to 65535"),
        ("port", "65536", "must be from 0 to 65535"),
        ("metrics_path", "metrics", "must start with / and name a path"),
        ("metrics_path", "/", "must start with / and name a path"),
        ("metrics_path", "//", "must start with / and name a path"),
        ("metrics_path", "/{file}", "must start with / and name a path"),
        ("metrics_path", "/a b", "must start with / and name a path"),
        ("metrics_path", "/metrics?x", "must start with / and name a path"),
        ("metrics_path", "/metrics#x", "must start with / and name a path"),
        ("trace_keep", "some", "must be all or notable"),
        ("trace_share", "5%", "must be a number"),
        ("trace_share", "1.5", "must be from 0 to 1"),
        ("trace_share", "nan", "must be from 0 to 1"),
        ("slow_turn", "0", "must be more than 0"),
        ("slow_turn", "inf", "must be more than 0"),
        ("shutdown_timeout", "soon", "must be a number"),
        ("shutdown_timeout", "0", "must be more than 0 and at most 60"),
        ("shutdown_timeout", "-1", "must be more than 0 and at most 60"),
        ("shutdown_timeout", "61", "must be more than 0 and at most 60"),
        ("shutdown_timeout", "nan", "must be more than 0 and at most 60"),
        ("shutdown_timeout", "inf", "must be more than 0 and at most 60"),
    ],
)
def test_a_bad_variable_is_one_warning_and_the_default_holds(
    name: str,
    text: str,
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(env_of(name), text)
    for _ in range(2):
        assert getattr(Settings(), name) == ROWS[name]["default"]
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert f"{env_of(name)}={text!r} is ignored" in warning.getMessage()
    assert rule in warning.getMessage()
    assert settings.problems() == [warning.getMessage()]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("service_name", 7, "must be a string"),
        ("service_name", "", "must not be empty"),
        ("disabled", "true", "must be True or False"),
        ("disabled", 1, "must be True or False"),
        ("admin_server", None, "must be True or False"),
        ("host", None, "must be a string"),
        ("host", "", "must not be empty"),
        ("port", "9464", "must be a whole number"),
        ("port", 9464.0, "must be a whole number"),
        ("port", True, "must be a whole number"),
        ("port", None, "must be a whole number"),
        ("port", 65536, "must be from 0 to 65535"),
        ("metrics_path", 1, "must be a string"),
        ("metrics_path", "", "must start with / and name a path"),
        ("metrics_token", b"secret", "must be a string"),
        ("synthetic_token", "", "must be at least 16 characters of visible ASCII"),
        ("synthetic_token", "x" * 15, "must be at least 16 characters of visible ASCII"),
        ("synthetic_token", "a token with spaces", "must be at least 16 characters of visible"),
        ("synthetic_token", "a-token-with-a-\n", "must be at least 16 characters of visible"),
        ("synthetic_token", "a-token-with-an-é", "must be at least 16 characters of visible"),
        ("synthetic_token", b"x" * 16, "must be a string"),
        ("always_serve_metrics", 0, "must be True or False"),
        ("capture_messages", "true", "must be True or False"),
        ("capture_steps", None, "must be True or False"),
        ("capture_user", 1, "must be True or False"),
        ("capture_exception_messages", "no", "must be True or False"),
        ("shutdown_timeout", "3", "must be a number"),
        ("shutdown_timeout", True, "must be a number"),
        ("shutdown_timeout", math.nan, "must be more than 0 and at most 60"),
        ("shutdown_timeout", 60.5, "must be more than 0 and at most 60"),
    ],
)
def test_a_bad_keyword_is_refused_in_one_line_that_names_it_its_variable_and_the_rule(
    name: str, value: Any, rule: str
) -> None:
    message = refusal(**{name: value})
    assert f"setting {name} ({env_of(name)})" in message
    assert rule in message


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [
        ("METRIC_PATH", "METRICS_PATH"),
        ("METRICS_TOKENS", "METRICS_TOKEN"),
        ("ADMINSERVER", "ADMIN_SERVER"),
        ("SHUTDOWN_TIMOUT", "SHUTDOWN_TIMEOUT"),
    ],
)
def test_an_unknown_variable_of_ours_is_logged_with_the_one_that_was_meant(
    variable: str, suggestion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + variable, "secret")
    Settings()
    (problem,) = settings.problems()
    assert problem.startswith(f"{PREFIX}{variable} is no setting and is ignored: ")
    assert problem.endswith(f"did you mean {PREFIX}{suggestion}?")
    assert "secret" not in problem


def test_an_unknown_variable_like_none_of_ours_is_logged_with_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unknown = PREFIX + "X" * 60
    monkeypatch.setenv(unknown, "1")
    Settings()
    (problem,) = settings.problems()
    assert problem.startswith(f"{unknown} is no setting and is ignored: unset it, or use one of ")
    assert all(env_of(name) in problem for name in ROWS)


def test_what_kubernetes_sets_for_a_service_of_our_name_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of_service = {
        "SERVICE_HOST": "10.0.0.7",
        "SERVICE_PORT": "9464",
        "SERVICE_PORT_METRICS": "9464",
        "PORT": "tcp://10.0.0.7:9464",
        "PORT_9464_TCP": "tcp://10.0.0.7:9464",
        "PORT_9464_TCP_ADDR": "10.0.0.7",
        "PORT_9464_TCP_PORT": "9464",
        "PORT_9464_TCP_PROTO": "tcp",
    }
    for name, value in of_service.items():
        monkeypatch.setenv(PREFIX + name, value)
    assert Settings() == Settings()
    (warning,) = caplog.records
    assert all(PREFIX + name in warning.getMessage() for name in of_service)
    assert "Service named chainlit-otel" in warning.getMessage()
    assert "enableServiceLinks: false" in warning.getMessage()


def test_a_setting_that_a_service_could_be_named_after_is_still_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "tcp://10.0.0.7:9464")
    assert Settings().port == 9464
    (problem,) = settings.problems()
    assert "OTEL_EXPORTER_PROMETHEUS_PORT='tcp://10.0.0.7:9464' is ignored, 9464 holds" in problem


def test_variables_of_others_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHAINLIT_HOST", "CHAINLIT_OTELX", "OTEL_TRACES_SAMPLER", "OTEL_NONSENSE"):
        monkeypatch.setenv(name, "x")
    Settings()
    assert settings.problems() == []


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Settings()
    monkeypatch.setenv(env_of("port"), "1234")
    assert found.port == 9464
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.port = 1  # type: ignore[misc]
    assert found == Settings(port=9464)


def test_an_unknown_keyword_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(
        TypeError, match=r"^there is no setting metric_path: did you mean metrics_p"
    ):
        Settings(metric_path="/metrics")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^there is no setting nonsense: there are service_name, "):
        Settings(nonsense=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("keyword", "line"),
    [
        (
            "port=99999",
            "setting port (OTEL_EXPORTER_PROMETHEUS_PORT) is 99999: must be from 0 to 65535",
        ),
        ("prot=9500", "there is no setting prot: did you mean port?"),
    ],
)
def test_what_is_wrong_stands_above_the_traceback(keyword: str, line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import chainlit_otel\nchainlit_otel.Settings({keyword})"],
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    first, second, *_, last = done.stderr.splitlines()
    assert first == line
    assert second.startswith("Traceback")
    assert last.endswith(f"Error: {line}")


def test_a_keyword_is_refused_whatever_the_log_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(settings.logger, "handle", broken)
    assert "must be from 0 to 65535" in refusal(port=99999)


@pytest.mark.parametrize("name", ROWS)
def test_a_setting_says_what_it_is_for_and_its_variable_follows_the_rule(name: str) -> None:
    row = ROWS[name]
    assert re.fullmatch(r"[A-Z`].*\.", row["help"])
    ours = f"{PREFIX}{name.upper()}"
    assert row["env"] == ours or row["env"].startswith("OTEL_")


def test_no_two_settings_share_a_variable() -> None:
    assert len({row["env"] for row in ROWS.values()}) == len(ROWS)


def test_what_is_secret_is_told_apart() -> None:
    assert [name for name, row in ROWS.items() if row["secret"]] == [
        "metrics_token",
        "page_token",
        "user_hash_key",
        "synthetic_token",
    ]


def test_nothing_of_a_user_is_recorded_unless_a_setting_asks_for_it() -> None:
    captures = [name for name in ROWS if name.startswith("capture_")]
    assert captures
    assert [name for name in captures if getattr(Settings(), name)] == []


def test_reading_the_settings_leaves_the_environment_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(env_of("port"), "1234")
    before = dict(os.environ)
    Settings()
    assert dict(os.environ) == before


def refusal(**keywords: Any) -> str:
    with pytest.raises(ValueError, match="must") as caught:
        Settings(**keywords)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message
