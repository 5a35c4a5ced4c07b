"""Examines an app, or the environment; `doctor` runs it in a process of its own.

It does what `chainlit run` does before the server starts, and writes what it finds to a file, since
the app may print anything.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import sys
import traceback
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from opentelemetry import metrics, trace
from opentelemetry.util.re import parse_env_headers

import chainlit_otel
from chainlit_otel import api
from chainlit_otel.pipeline.exporters import otlp_protocol, otlp_variable
from chainlit_otel.pipeline.providers import is_ours
from chainlit_otel.pipeline.reader import ScrapeReader
from chainlit_otel.privacy import mask_url
from chainlit_otel.probes.installation import FAILED
from chainlit_otel.records.files import records_dir_problem
from chainlit_otel.runtime import OPTIONAL_PROBES, Runtime
from chainlit_otel.settings import Settings, describe, problems

Row = tuple[str, ...]

_SIGNALS = ("METRICS", "TRACES")
_TIMEOUT = 2.0  # seconds an endpoint has to answer
_SECRET = "***"
_SHORTEST_SECRET = 4  # what is shorter would be found in any text
_SHORTEST_FOREIGN_SECRET = 8  # a variable with such a name may hold a plain word
_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL|(?:^|_)PASS(?:_|$)|_PWD$")
_LONGEST = 200  # characters of an answer of an unknown server that are shown
_PACKAGE_DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


class Findings:
    """What is found.

    Attributes:
        enabled: Whether `enable()` was called.
        sections: Rows of the report, by title.
        problems: What is wrong and how to fix it, one line each.
    """

    def __init__(self) -> None:
        self.enabled = False
        self.sections: dict[str, list[Row]] = {}
        self.problems: list[str] = []

    def add(self, section: str, *row: str) -> None:
        """Add a row to the report, with all secrets in it masked."""
        name, *cells = row
        self.sections.setdefault(section, []).append((name, *map(_masked, cells)))

    def add_problem(self, text: str) -> None:
        """Add a problem, unless it is there already."""
        line = _masked(" ".join(text.split()))
        if line not in self.problems:
            self.problems.append(line)


def main(report: str, app: str | None = None) -> None:
    """Examine, write the findings to a file, and end the process.

    Args:
        report: Where to write.
        app: The file of the app, if one is examined.
    """
    findings = Findings()
    if _imports_chainlit(findings) and _loads(findings, app):
        _examine(findings, app)
    found = {"sections": findings.sections, "problems": findings.problems}
    Path(report).write_text(json.dumps(found), encoding="utf-8")
    # Threads and exit handlers of the app may take long, and are not needed here.
    os._exit(0)


def _imports_chainlit(findings: Findings) -> bool:
    try:
        import_module("chainlit.server")
    except BaseException as error:  # noqa: BLE001 - any failure is a finding
        findings.add_problem(f"Chainlit cannot be imported: {_describe_error(error)}")
        return False
    return True


def _loads(findings: Findings, app: str | None) -> bool:
    """Load the app; without one, call `enable()` as an app would."""
    enable = api.enable

    @functools.wraps(enable)
    def enable_and_note(*args: Any, **kwargs: Any) -> None:
        findings.enabled = True
        enable(*args, **kwargs)

    api.enable = enable_and_note
    try:
        if app is None:
            chainlit_otel.enable()
        else:
            import_module("chainlit.config").load_module(app)
    except BaseException as error:  # noqa: BLE001 - an app may raise anything, SystemExit too
        ours = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_PACKAGE_DIRECTORY)
        refused = isinstance(error, (TypeError, ValueError)) and ours
        findings.add_problem(
            str(error) if refused else f"{app} cannot be loaded: {_describe_error(error)}"
        )
        return False
    return True


def _describe_error(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"


def _examine(findings: Findings, app: str | None) -> None:
    active = api.active()
    settings = active.settings if active else Settings()
    _settings(findings, settings)
    if active is not None:
        _probes(findings, active)
        _admin_server(findings, active)
        _providers(findings, active)
        _records(findings, active)
        served = active.admin_url or active.settings.metrics_path
        if not served and not any(active.pipeline.destinations().values()):
            findings.add_problem(
                "nothing is served or sent anywhere: set CHAINLIT_OTEL_ADMIN_SERVER=true, or "
                "OTEL_EXPORTER_OTLP_ENDPOINT"
            )
        for part, reason in active.off().items():
            findings.add("off", part, reason)
    elif settings.disabled:
        findings.add_problem("chainlit-otel is off: unset OTEL_SDK_DISABLED")
    elif findings.enabled:
        findings.add_problem(
            "chainlit_otel.enable() failed: please report it, with the log of the app"
        )
    else:
        findings.add_problem(
            f"{app} does not call chainlit_otel.enable(): add `import chainlit_otel` and "
            "`chainlit_otel.enable()`, or start it by opentelemetry-instrument"
        )
    for signal in (*_SIGNALS, *(["LOGS"] if settings.export_records else [])):
        _endpoint(findings, signal)
    for problem in problems():
        findings.add_problem(problem)


def _settings(findings: Findings, settings: Settings) -> None:
    for about in describe():
        value = getattr(settings, about["name"])
        shown = _SECRET if about["secret"] and value is not None else _show(value)
        findings.add("settings", about["name"], shown, about["env"])
    for name, value in sorted(os.environ.items()):
        if name.startswith("OTEL_EXPORTER_OTLP_") and value:
            shown = _SECRET if _is_secret(name) else mask_url(value, _SECRET)
            findings.add("settings", name, shown)


def _show(value: object) -> str:
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _probes(findings: Findings, active: Runtime) -> None:
    health = active.health()
    for name, state in health["probes"].items():
        findings.add("probes", name, state)
        missing = state.startswith("off: no ")
        if missing and name in OPTIONAL_PROBES:
            continue
        if missing:
            findings.add_problem(
                f"the {name} probe is {state}: use a version of Chainlit that has it"
            )
        elif state == FAILED:
            findings.add_problem(f"the {name} probe is {state}: please report it, with the log")
        elif state != "on":
            findings.add_problem(f"the {name} probe is {state}")
    for name, errors in health["internal_errors"].items():
        if errors:
            findings.add_problem(
                f"the {name} probe failed {errors} times: please report it, with the log"
            )


def _admin_server(findings: Findings, active: Runtime) -> None:
    settings, title = active.settings, "admin server"
    where = f"{settings.host}:{settings.port}"
    if not settings.admin_server:
        findings.add(title, "off", "CHAINLIT_OTEL_ADMIN_SERVER")
    elif active.admin_url is None:
        findings.add(title, where, "not possible")
        findings.add_problem(
            f"no admin server on {where}: fix OTEL_EXPORTER_PROMETHEUS_HOST, or choose another "
            "port by OTEL_EXPORTER_PROMETHEUS_PORT (this one and the next fifteen are taken)"
        )
    else:
        findings.add(title, "metrics", f"{active.admin_url}/metrics")
        findings.add(title, "health", f"{active.admin_url}/healthz")
        port = urlsplit(active.admin_url).port
        if settings.port not in (0, port):
            findings.add(
                title, "port", f"{settings.port} is taken now: the next free one, {port}, is used"
            )
        else:
            findings.add(title, "port", f"{port} is free")
    if settings.metrics_path:
        findings.add(title, "in the app", settings.metrics_path)


def _providers(findings: Findings, active: Runtime) -> None:
    pipeline = active.pipeline
    for provider in pipeline.meter_providers:
        findings.add("metrics", "provider", _provider(provider))
        for reader in _readers(provider):
            findings.add("metrics", "", _reader(reader))
    if metrics.get_meter_provider() not in pipeline.meter_providers:
        findings.add("metrics", "", "the global provider is another")
    if pipeline.reader is None:
        findings.add("metrics", "", "not at /metrics; CHAINLIT_OTEL_ALWAYS_SERVE_METRICS=true")
    tracers = pipeline.tracer_provider or trace.get_tracer_provider()
    if isinstance(tracers, trace.ProxyTracerProvider):
        findings.add(
            "traces", "provider", "none: no endpoint is named (OTEL_EXPORTER_OTLP_ENDPOINT)"
        )
        return
    findings.add("traces", "provider", _provider(tracers))
    processors = getattr(getattr(tracers, "_active_span_processor", None), "_span_processors", ())
    for processor in processors:
        for each in getattr(processor, "processors", (processor,)):
            findings.add("traces", "", _exporter(getattr(each, "span_exporter", each)))


def _records(findings: Findings, active: Runtime) -> None:
    directory, provider = active.settings.records_dir, active.pipeline.logger_provider
    if directory is not None:
        broken = records_dir_problem(directory)
        findings.add(
            "records", "files", str(Path(directory).absolute()), broken or "can be written"
        )
        if broken:
            findings.add_problem(
                f"records cannot be written (CHAINLIT_OTEL_RECORDS_DIR={directory}): {broken}"
            )
    if provider is not None:
        findings.add("records", "logs", _provider(provider))
    if directory is None and provider is None:
        findings.add("records", "none", "CHAINLIT_OTEL_RECORDS_DIR, CHAINLIT_OTEL_EXPORT_RECORDS")


def _provider(provider: object) -> str:
    kind = f"{type(provider).__module__}.{type(provider).__qualname__}"
    return "of chainlit-otel" if is_ours(provider) else f"of the application: {kind}"


def _readers(provider: object) -> Iterable[object]:
    """Return the readers of a provider of the SDK, which keeps them in different places."""
    of_old = getattr(getattr(provider, "_sdk_config", None), "metric_readers", ())
    readers: Iterable[object] = getattr(provider, "_metric_readers", of_old)
    return readers


def _reader(reader: object) -> str:
    if isinstance(reader, ScrapeReader):
        return "read at /metrics"
    return _exporter(getattr(reader, "_exporter", reader))


def _exporter(exporter: object) -> str:
    # An exporter of ours delivers by one of the SDK.
    exporter = getattr(exporter, "exporter", exporter)
    endpoint = getattr(exporter, "_endpoint", None)
    to = f" to {mask_url(endpoint, _SECRET)}" if isinstance(endpoint, str) else ""
    return _kind(exporter) + to


def _kind(thing: object) -> str:
    return type(thing).__name__


# The endpoints that the standard variables name


def _endpoint(findings: Findings, signal: str) -> None:
    protocol = otlp_protocol(signal)
    name = signal.lower()
    if protocol is None:
        findings.add("endpoints", name, "none")
        return
    url, variable = _url(signal, protocol)
    shown = mask_url(url, _SECRET)
    answer, fix = _ask_grpc(url) if protocol == "grpc" else _ask_in_time(url, signal)
    findings.add("endpoints", name, protocol, shown, answer)
    if fix:
        findings.add_problem(f"{answer} at {shown}, where {name} go ({variable}): {fix}")


def _url(signal: str, protocol: str) -> tuple[str, str]:
    """Return the address of a signal's endpoint and the variable that names it."""
    own = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
    url = otlp_variable(signal, "ENDPOINT")
    if os.environ.get(own) or protocol == "grpc":
        return url, own if os.environ.get(own) else "OTEL_EXPORTER_OTLP_ENDPOINT"
    return f"{url.rstrip('/')}/v1/{signal.lower()}", "OTEL_EXPORTER_OTLP_ENDPOINT"


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect, which would send the credentials to another server."""

    def redirect_request(self, *_: Any) -> None:
        """Return None, so that the redirect is the answer."""


def _ask_in_time(url: str, signal: str) -> tuple[str, str]:
    """Ask by HTTP, with one timeout for all: a server may answer one byte at a time."""
    answers: list[tuple[str, str]] = []
    thread = Thread(target=lambda: answers.append(_ask_http(url, signal)), daemon=True)
    thread.start()
    thread.join(2 * _TIMEOUT)
    return answers[0] if answers else ("nobody answers", _unreachable("timed out"))


def _ask_http(url: str, signal: str) -> tuple[str, str]:
    """Send an empty export; return the answer, and what to fix, if anything."""
    address, login = _split_login(url)
    headers = {"content-type": "application/x-protobuf"}
    if login:
        headers["authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    headers.update(parse_env_headers(otlp_variable(signal, "HEADERS"), liberal=True))
    try:
        request = Request(address, b"", headers, method="POST")
        with build_opener(_NoRedirects).open(request, timeout=_TIMEOUT) as response:
            return f"answers ({response.status})", ""
    except HTTPError as error:
        if error.code in _REDIRECTS:
            to = mask_url(urljoin(address, error.headers.get("Location") or ""), _SECRET)
            return f"a redirect ({error.code}) to {_shortened(to)}", _NOT_FOLLOWED
        return f"answers ({error.code})", _FIXES.get(error.code, "look at the log of the collector")
    except (OSError, HTTPException, ValueError) as error:
        return "nobody answers", _unreachable(getattr(error, "reason", error))


_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_FOLLOWED = (
    "what is sent there is lost, since no redirect is followed; name the address that takes it, "
    "or fix what stands in between, such as a page to sign in"
)
# Some backends refuse an empty export, by which they have answered, too.
_FIXES = {
    400: "",
    422: "",
    401: "fix OTEL_EXPORTER_OTLP_HEADERS",
    403: "fix OTEL_EXPORTER_OTLP_HEADERS",
    404: "fix the path of the address",
    405: "fix the path of the address",
}


def _ask_grpc(url: str) -> tuple[str, str]:
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        address = parts.hostname or "", parts.port or 4317
        with socket.create_connection(address, _TIMEOUT):
            return "answers", ""
    except (OSError, ValueError) as error:
        return "nobody answers", _unreachable(error)


def _unreachable(error: object) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"{reason}; start the collector, or fix the variable"


# Secrets


def _is_secret(variable: str) -> bool:
    return variable.endswith(("_HEADERS", "_CLIENT_KEY"))


def _split_login(url: str) -> tuple[str, str]:
    """Return an address without name and password, and these."""
    parts = urlsplit(url)
    login, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=place)), unquote(login)


def _shortened(text: str) -> str:
    """Return the printable part of an unknown server's answer, shortened."""
    return "".join(filter(str.isprintable, text))[:_LONGEST]


def _secrets() -> Iterator[str]:
    for about in describe():
        if about["secret"]:
            yield os.environ.get(about["env"], "")
            yield getattr(getattr(api.active(), "settings", None), about["name"], None) or ""
    for name, value in os.environ.items():
        if name.startswith("OTEL_EXPORTER_OTLP_") and _is_secret(name):
            yield from (pair.partition("=")[2].strip() for pair in value.split(","))
        elif name.startswith("OTEL_EXPORTER_OTLP_"):
            yield from _secrets_of(value)


def _secrets_of(url: str) -> Iterator[str]:
    """Give the password of an address, or else its login, and the values of its query."""
    with suppress(ValueError):
        login = _split_login(url)[1]
        yield login.partition(":")[2] or login
        for pair in urlsplit(url).query.split("&"):
            name, equals, value = pair.partition("=")
            yield value if equals else name


def _foreign_secrets() -> Iterator[str]:
    """Give secrets of others in the environment: the error of an app may quote them."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name):
            yield value
        elif "://" in value:
            with suppress(ValueError):
                yield _split_login(value)[1].partition(":")[2]


def _masked(text: str) -> str:
    secrets = [*_secrets(), *(s for s in _foreign_secrets() if len(s) >= _SHORTEST_FOREIGN_SECRET)]
    found = {form for secret in secrets for form in (secret, unquote(secret))}
    for secret in sorted(found, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, _SECRET)
    return text


if __name__ == "__main__":
    main(*sys.argv[1:])
