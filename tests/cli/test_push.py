"""`chainlit-otel dashboards --push` against a server that answers as Grafana does."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from chainlit_otel.cli import main
from chainlit_otel.grafana import files

TOKEN = "glsa_a-token-that-nobody-may-see"
DASHBOARDS = [json.loads(text) for text in files().values()]


class Grafana:
    """Takes dashboards by the HTTP API, or answers each request with the same answer.

    Attributes:
        answer: Status, headers and body; None to behave as Grafana does.
        saved: The bodies of the requests that were taken.
        asked: Method and path of every request.
        path: Where it is served.
    """

    def __init__(self) -> None:
        self.answer: tuple[int, dict[str, str], bytes] | None = None
        self.saved: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        self.path = ""
        grafana = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                grafana.asked.append(("POST", self.path))
                status, headers, answer = grafana.answer or grafana.take(
                    self.path, dict(self.headers), body
                )
                if status == 0:
                    self.wfile.write(answer)
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_GET(self) -> None:
                grafana.asked.append(("GET", self.path))
                self.send_error(404)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))
        self.host = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return self.host + self.path

    def take(
        self, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return answer_of(401, message="Invalid API key")
        if path != f"{self.path}/api/dashboards/db":
            return answer_of(404, message="Not found")
        request = json.loads(body)
        known = [one["dashboard"]["uid"] for one in self.saved]
        dashboard = request["dashboard"]
        if dashboard.get("id") is not None:
            return answer_of(404, message="Dashboard not found")
        if dashboard["uid"] in known and not request.get("overwrite"):
            return answer_of(
                412, message="A dashboard with the same uid exists", status="name-exists"
            )
        self.saved.append(request)
        uid = dashboard["uid"]
        return answer_of(200, id=1, uid=uid, url=f"{self.path}/d/{uid}/x", status="success")

    def __enter__(self) -> Grafana:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def answer_of(code: int, **values: object) -> tuple[int, dict[str, str], bytes]:
    return code, {"Content-Type": "application/json"}, json.dumps(values).encode()


@pytest.fixture
def grafana() -> Iterator[Grafana]:
    with Grafana() as grafana:
        yield grafana


def push(url: str, *arguments: str, token: str | None = TOKEN) -> tuple[int, list[str]]:
    environment = {"GRAFANA_TOKEN": token}
    result = CliRunner().invoke(main, ["dashboards", "--push", url, *arguments], env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert TOKEN not in result.output
    return result.exit_code, result.output.splitlines()


def refused(outcome: tuple[int, list[str]]) -> str:
    """The one line of an error."""
    code, lines = outcome
    assert code == 1
    (line,) = lines
    assert line.startswith("Error: ")
    return line


@pytest.mark.parametrize("path", ["", "/grafana"])
def test_every_dashboard_is_pushed_and_its_address_printed(grafana: Grafana, path: str) -> None:
    grafana.path = path
    code, lines = push(grafana.url + "/")
    assert code == 0
    assert [one["dashboard"] for one in grafana.saved] == DASHBOARDS
    assert lines == [f"{grafana.url}/d/{dashboard['uid']}/x" for dashboard in DASHBOARDS]
    assert all("folderUid" not in one for one in grafana.saved)


def test_pushing_again_overwrites(grafana: Grafana) -> None:
    assert push(grafana.url) == push(grafana.url)
    assert [one["overwrite"] for one in grafana.saved] == [True] * 2 * len(DASHBOARDS)


def test_a_folder_is_named_by_its_uid(grafana: Grafana) -> None:
    assert push(grafana.url, "--folder", "chats")[0] == 0
    assert {one["folderUid"] for one in grafana.saved} == {"chats"}


def test_a_token_may_end_in_a_new_line_and_be_an_option(grafana: Grafana) -> None:
    assert push(grafana.url, token=f"{TOKEN}\n")[0] == 0
    assert push(grafana.url, "--token", TOKEN, token=None)[0] == 0


@pytest.mark.parametrize("token", [None, "", " ", f"{TOKEN}\nX-Other: 1", f"{TOKEN}…"])
def test_what_is_no_token_is_not_sent(grafana: Grafana, token: str | None) -> None:
    assert "token" in refused(push(grafana.url, token=token))
    assert grafana.asked == []


def test_a_wrong_token_is_an_error_and_nothing_more_is_tried(grafana: Grafana) -> None:
    line = refused(push(grafana.url, token="glsa_another"))
    assert line == (f"Error: {grafana.url}/api/dashboards/db: 401 Unauthorized: Invalid API key")
    assert len(grafana.asked) == 1


@pytest.mark.parametrize(
    ("answer", "reported"),
    [
        (
            answer_of(412, message="The dashboard belongs to a plugin", status="plugin-dashboard"),
            "412 Precondition Failed: The dashboard belongs to a plugin",
        ),
        (answer_of(403, message="Permission\ndenied"), "403 Forbidden: Permission denied"),
        (answer_of(400, message=f"what is {TOKEN}?"), "400 Bad Request: what is ***?"),
        ((502, {}, b"<html>\n<h1>Bad Gateway</h1>\n"), "502 Bad Gateway"),
        ((200, {}, b"<html>\n<title>Welcome</title>\n"), "the answer is not that of a Grafana"),
        ((200, {}, b""), "the answer is not that of a Grafana"),
        ((200, {}, b"[1]"), "the answer is not that of a Grafana"),
        ((200, {}, b"\xff\xfe"), "the answer is not that of a Grafana"),
        (answer_of(200, status="success"), "the answer is not that of a Grafana"),
        ((0, {}, b"SSH-2.0-OpenSSH_9.2\r\n"), "SSH-2.0-OpenSSH_9.2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_went_wrong_is_one_line(
    grafana: Grafana, answer: tuple[int, dict[str, str], bytes], reported: str
) -> None:
    grafana.answer = answer
    assert refused(push(grafana.url)).endswith(f"/api/dashboards/db: {reported}")


def test_a_redirect_is_an_error_and_not_followed(grafana: Grafana) -> None:
    elsewhere = f"{grafana.host}/elsewhere"
    grafana.answer = (301, {"Location": elsewhere}, b"")
    line = refused(push(grafana.url))
    assert "301 Moved Permanently" in line
    assert elsewhere in line
    assert grafana.asked == [("POST", "/api/dashboards/db")]


def test_a_server_that_is_not_there_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert "Connection refused" in refused(push(url))


@pytest.mark.parametrize(
    "url",
    [
        "grafana.example",
        "ftp://grafana.example",
        "http://",
        "http://[::1",
        "https:///d",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_address_is_an_error(url: str) -> None:
    assert "http://" in refused(push(url))


def test_a_password_in_the_address_is_not_shown() -> None:
    line = refused(push("https://admin:very-secret@grafana.example"))
    assert "very-secret" not in line
    assert "grafana.example" in line
