"""`chainlit-otel dashboards`: write the Grafana dashboards, or push them to a Grafana."""

from __future__ import annotations

import json
import re
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import click

from chainlit_otel.cli import generated
from chainlit_otel.cli.analysis import check_packages
from chainlit_otel.cli.thresholds import given, threshold_options
from chainlit_otel.grafana import files, record_files

_GRAFANA_TIMEOUT = 10.0


@click.command("dashboards")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dashboards"),
    show_default=True,
    help="Write them to this directory.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing; exit with 1 if the files of --output are not what would be written.",
)
@click.option(
    "--records",
    is_flag=True,
    help="The dashboard of records in ClickHouse, instead of those of metrics.",
)
@click.option("--push", metavar="URL", help="Push them to the Grafana at this address instead.")
@click.option(
    "--token",
    envvar="GRAFANA_TOKEN",
    help="Token of a service account of that Grafana; better given as GRAFANA_TOKEN.",
)
@click.option("--folder", metavar="UID", help="Push them into the folder with this uid.")
@threshold_options
def command(
    output: Path,
    check: bool,
    records: bool,
    push: str | None,
    token: str | None,
    folder: str | None,
    **thresholds: Any,
) -> None:
    """Write the Grafana dashboards, or push them to a Grafana.

    Figures turn red where their alert fires: give it the thresholds that you give to `rules`.

    Pushing overwrites dashboards with the same uid: change a copy of them.
    """
    if records:
        check_packages()
    texts = record_files() if records else files(given(thresholds))
    if push is not None:
        _push(push.rstrip("/"), token, folder, texts)
        return
    for name, text in texts.items():
        if check:
            generated.check(output / name, text)
        else:
            generated.write(output / name, text)


def _push(url: str, token: str | None, folder: str | None, texts: dict[str, str]) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.ClickException(f"{url}: must be an address with http:// or https://")
    if "@" in parts.netloc:
        raise click.ClickException(f"{parts.hostname}: no user in the address, but a token")
    # What an environment variable was read from often ends in a new line.
    token = (token or "").strip()
    if not token:
        raise click.ClickException("no token: set GRAFANA_TOKEN to one of a service account")
    if not re.fullmatch(r"[!-~]+", token):
        raise click.ClickException("the token has characters that are in no token")
    for text in texts.values():
        body: dict[str, object] = {"dashboard": json.loads(text), "overwrite": True}
        if folder is not None:
            body["folderUid"] = folder
        endpoint = f"{url}/api/dashboards/db"
        try:
            place = _post(endpoint, token, body)
        except _RefusedError as error:
            raise click.ClickException(f"{endpoint}: {error}".replace(token, "***")) from None
        click.echo(urljoin(endpoint, place))


class _RefusedError(Exception):
    """Grafana did not take it; the message is one line."""


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect: that would turn a POST into a GET, and show the token to others."""

    def redirect_request(self, *_: object) -> None:
        return None


def _post(url: str, token: str, body: dict[str, object]) -> str:
    """Push one dashboard and return where it is.

    Raises:
        _RefusedError: It is not there.
    """
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    try:
        request = Request(url, json.dumps(body).encode(), headers)
        with build_opener(_NoRedirect).open(request, timeout=_GRAFANA_TIMEOUT) as response:
            answer = response.read()
    except HTTPError as error:
        with error:
            raise _RefusedError(_reason(error)) from None
    except URLError as error:
        raise _RefusedError(_line(str(error.reason))) from None
    except (HTTPException, OSError, ValueError) as error:
        raise _RefusedError(_line(str(error) or type(error).__name__)) from None
    place = _value(answer, "url")
    if place is None:
        raise _RefusedError("the answer is not that of a Grafana")
    return place


def _reason(error: HTTPError) -> str:
    shown = f"{error.code} {error.reason}"
    if 300 <= error.code < 400:
        return _line(f"{shown}: use the address to which it leads, {error.headers['Location']}")
    message = _value(error.read(10_000), "message")
    return _line(shown if message is None else f"{shown}: {message}")


def _value(body: bytes, key: str) -> str | None:
    """Return a text from a JSON object; None if it is no object or has no such text."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    value = answer.get(key) if isinstance(answer, dict) else None
    return value if isinstance(value, str) else None


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
