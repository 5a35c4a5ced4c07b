"""Who may ask the admin server: by what name, from which page, and with which token."""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The names of the host inside a container.
_HOSTS_OF_CONTAINERS = ("host.docker.internal", "host.containers.internal")
_METHODS = ("GET", "HEAD")
# What proxies add.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
# What a browser sends of a page that somebody has opened, and not another page or a frame in one.
_OPENED = ("navigate", "document")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Its address may have the token.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class KnownHosts:
    """Accepts only requests whose `Host` is a name of this machine.

    It stops DNS rebinding: a web page whose own host name resolves to loopback by now could else
    have a browser read the metrics. Such a request has the host name of that page.

    Args:
        app: What is served.
        others: More names that are accepted.

    Attributes:
        app: What is served, by the name that ASGI middlewares have for it.
    """

    def __init__(self, app: ASGIApp, others: Iterable[str] = ()) -> None:
        self.app = app
        self._names = _names_of_this_machine(others)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        host = _host(Headers(scope=scope).get("host", ""))
        app = self.app if host in self._names or _is_loopback(host) else _foreign()
        await app(scope, receive, send)


def _names_of_this_machine(others: Iterable[str]) -> frozenset[str]:
    names = ("localhost", socket.gethostname(), *_HOSTS_OF_CONTAINERS, *others)
    return frozenset(filter(None, map(_host, names)))


def _host(header: str) -> str:
    """Return the host of a `Host` header, without its port and in lower case."""
    found = re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", header.strip())
    return found[1].strip("[]").rstrip(".").lower() if found else ""


def is_loopback(host: str) -> bool:
    """Tell whether an address that a server listens on is for this machine alone."""
    return host == "localhost" or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _foreign() -> Response:
    return PlainTextResponse(
        "This server listens on loopback and is not known by this host name "
        "(CHAINLIT_OTEL_ALLOWED_HOSTS).\n",
        status_code=403,
    )


class PageAccess:
    """Lets those see the live page who may.

    On loopback that is everybody on the machine, unless there is a token. Beyond, it takes a token,
    and a `Host` that is this server's. What comes through a proxy is from beyond. No other page may
    ask in the name of its visitor.

    Args:
        page: The page and its data.
        address: What the server listens on.
        token: The token that is needed, if any.
        others: More host names that are accepted.
    """

    def __init__(
        self, page: ASGIApp, address: str, token: str | None, others: Iterable[str] = ()
    ) -> None:
        self._page = page
        self._is_loopback = is_loopback(address)
        self._token = token
        self._names = _names_of_this_machine(others)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        app = self._refusal(scope) or self._greeting(scope) or self._page

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await app(scope, receive, send_safe)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["method"] not in _METHODS:
            return _no(405, "The page only shows: it is read by GET.", Allow=", ".join(_METHODS))
        is_forwarded = any(name in headers for name in _FORWARDED)
        if self._token is None and (is_forwarded or not self._is_loopback):
            return _no(
                403,
                "Beyond loopback, and behind a proxy, the page needs a token, so that not "
                "everybody sees it: set CHAINLIT_OTEL_PAGE_TOKEN.",
            )
        if not self._is_loopback and not self._is_ours(scope, headers):
            return _no(
                403,
                "This server is not known by this host name: add it to "
                "CHAINLIT_OTEL_ALLOWED_HOSTS.",
            )
        if _is_foreign(headers):
            return _no(403, "Another page may not ask for this.")
        if self._token is not None and not self._admits(scope, headers):
            return _no(
                401,
                "The page needs its token: open it by /?token=… with the value of "
                "CHAINLIT_OTEL_PAGE_TOKEN.",
            )
        return None

    def _greeting(self, scope: Scope) -> Response | None:
        """Leave a cookie in place of the token of a link, which is then out of the address."""
        if self._token is None or not self._has_link_token(scope):
            return None
        response = RedirectResponse("./", status_code=303)
        response.headers["cache-control"] = "no-store"
        response.set_cookie(
            _cookie_name(scope),
            _cookie_value(self._token),
            # Without a path, it is that of the address: also below a proxy.
            path=None,
            secure=Headers(scope=scope).get("x-forwarded-proto") == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    def _is_ours(self, scope: Scope, headers: Headers) -> bool:
        host = _host(headers.get("host", ""))
        own, _ = scope.get("server") or ("", 0)
        return host in self._names or host == own or _is_loopback(host)

    def _admits(self, scope: Scope, headers: Headers) -> bool:
        token = self._token or ""
        cookie = cookie_parser(headers.get("cookie", "")).get(_cookie_name(scope), "")
        return (
            has_bearer(headers, token)
            or hmac.compare_digest(cookie.encode(), _cookie_value(token).encode())
            or self._has_link_token(scope)
        )

    def _has_link_token(self, scope: Scope) -> bool:
        sent = QueryParams(scope["query_string"]).get("token", "")
        return scope["path"] == "/" and _is_token(sent.encode(), self._token or "")


class BelowPath:
    """Serves below a path that a proxy leaves in the requests.

    Args:
        app: What is served.
        path: The path.

    Attributes:
        app: What is served, by the name that ASGI middlewares have for it.
    """

    def __init__(self, app: ASGIApp, path: str) -> None:
        self.app = app
        self._path = path.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if path == self._path:
            # The addresses in the page are relative to a folder.
            name = self._path.rpartition("/")[2]
            app: ASGIApp = RedirectResponse(f"{name}/", status_code=303)
        else:
            app = self.app
        if path.startswith(self._path + "/"):
            scope = {**scope, "path": path[len(self._path) :]}
        await app(scope, receive, send)


def _is_foreign(headers: Headers) -> bool:
    """Tell whether a browser says that another page asks."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host", ""):
        return True
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) != _OPENED


def _cookie_name(scope: Scope) -> str:
    # Cookies are those of a host, whatever the port, and each replica may have another token.
    _, port = scope.get("server") or ("", 0)
    return f"chainlit_otel_page_{port}"


def _cookie_value(token: str) -> str:
    return hmac.new(_bytes_of(token), b"chainlit-otel page", "sha256").hexdigest()


def has_bearer(headers: Headers, token: str) -> bool:
    """Tell whether a request has this bearer token.

    Args:
        headers: The headers of the request.
        token: The token.
    """
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    # Its bytes are whatever the client has written, as are those of the environment.
    return scheme.lower() == "bearer" and _is_token(sent.encode("latin-1"), token)


def _is_token(sent: bytes, token: str) -> bool:
    return hmac.compare_digest(sent, _bytes_of(token))


def _bytes_of(token: str) -> bytes:
    return token.encode(errors="surrogateescape")


def _no(status: int, why: str, **headers: str) -> Response:
    return JSONResponse({"error": why}, status, {"Cache-Control": "no-store", **headers})
