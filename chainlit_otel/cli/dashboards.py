"""`chainlit-otel dashboards`: write the Grafana dashboards, or push them to a Grafana."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click

from chainlit_otel.grafana import files

_PATIENCE = 10.0


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
    help="Write nothing; exit with 1 if the files there are not what would be written.",
)
@click.option("--push", metavar="URL", help="Push them to the Grafana at this address instead.")
@click.option(
    "--token",
    envvar="GRAFANA_TOKEN",
    help="Token of a service account of that Grafana; better given as GRAFANA_TOKEN.",
)
@click.option("--folder", metavar="UID", help="Push them into the folder with this uid.")
def command(
    output: Path, check: bool, push: str | None, token: str | None, folder: str | None
) -> None:
    """Write the Grafana dashboards, or push them to a Grafana.

    Pushing overwrites dashboards with the same uid: change a copy of them.
    """
    if push is not None:
        _push(push.rstrip("/"), token, folder)
    elif check:
        _check(output)
    else:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in files().items():
            (output / name).write_text(text, encoding="utf-8")
            click.echo(output / name)


def _check(directory: Path) -> None:
    for name, text in files().items():
        file = directory / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            raise click.ClickException(
                f"{file} is out of date: run `chainlit-otel dashboards --output {directory}`"
            )


def _push(url: str, token: str | None, folder: str | None) -> None:
    if not token:
        raise click.ClickException("no token: set GRAFANA_TOKEN to one of a service account")
    for text in files().values():
        dashboard = json.loads(text)
        body = {"dashboard": dashboard, "overwrite": True}
        if folder is not None:
            body["folderUid"] = folder
        answer = _post(f"{url}/api/dashboards/db", token, body)
        click.echo(f"{url}{answer.get('url', '')}")


def _post(url: str, token: str, body: dict[str, object]) -> dict[str, object]:
    if not url.startswith(("http://", "https://")):
        raise click.ClickException(f"{url}: must start with http:// or https://")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = Request(url, json.dumps(body).encode(), headers)
    try:
        with urlopen(request, timeout=_PATIENCE) as response:
            answer: dict[str, object] = json.load(response)
            return answer
    except HTTPError as error:
        reason = error.read(300).decode(errors="replace")
        raise click.ClickException(f"{url}: {error.code} {error.reason}: {reason}") from None
    except (URLError, OSError, ValueError) as error:
        raise click.ClickException(f"{url}: {error}") from None
