"""An OAuth provider on the loopback interface, which can refuse codes and break down."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from urllib.parse import parse_qs


class OAuthProvider:
    """Gives a token for each code, and for the token a user of the code's name.

    The code `stale` is refused, as is the client of the code `misconfigured`; with `down` the
    provider breaks down at the code and with `half down` at the user.
    """

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                [code] = form["code"]
                refusals = {
                    "stale": (400, {"error": "invalid_grant"}),
                    "misconfigured": (401, {"error": "invalid_client"}),
                    "down": (503, {}),
                }
                self._answer(*refusals.get(code, (200, {"access_token": code})))

            def do_GET(self) -> None:
                user = self.headers["Authorization"].removeprefix("Bearer ")
                self._answer(500 if user == "half down" else 200, {"email": user})

            def _answer(self, status: int, body: dict[str, str]) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    @property
    def env(self) -> dict[str, str]:
        """What points Chainlit's generic provider here."""
        url = f"http://127.0.0.1:{self._server.server_port}"
        return {
            "OAUTH_GENERIC_CLIENT_ID": "client",
            "OAUTH_GENERIC_CLIENT_SECRET": "client's secret",
            "OAUTH_GENERIC_AUTH_URL": f"{url}/authorize",
            "OAUTH_GENERIC_TOKEN_URL": f"{url}/token",
            "OAUTH_GENERIC_USER_INFO_URL": f"{url}/user",
            "OAUTH_GENERIC_SCOPES": "email",
        }

    def __enter__(self) -> OAuthProvider:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
