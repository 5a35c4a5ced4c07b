"""An OAuth provider on the loopback interface, which can refuse codes and break down."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

from tests.support.local import Handler, LocalServer


class OAuthProvider(LocalServer):
    """Gives a token for each code, and for the token a user of the code's name.

    The code `stale` is refused, as is the client of the code `misconfigured`; with `down` the
    provider breaks down at the code and with `half down` at the user.
    """

    def __init__(self) -> None:
        class Answering(Handler):
            def do_POST(self) -> None:
                form = parse_qs(self.body().decode())
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
                self.answer(json.dumps(body).encode(), "application/json", status)

        super().__init__(Answering)

    @property
    def env(self) -> dict[str, str]:
        """What points Chainlit's generic provider here."""
        url = self.origin
        return {
            "OAUTH_GENERIC_CLIENT_ID": "client",
            "OAUTH_GENERIC_CLIENT_SECRET": "client's secret",
            "OAUTH_GENERIC_AUTH_URL": f"{url}/authorize",
            "OAUTH_GENERIC_TOKEN_URL": f"{url}/token",
            "OAUTH_GENERIC_USER_INFO_URL": f"{url}/user",
            "OAUTH_GENERIC_SCOPES": "email",
        }
