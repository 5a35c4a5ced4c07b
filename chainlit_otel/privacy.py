"""Redacts requests and addresses: what a person or a browser wrote must not be recorded.

Any part of a URL or a header may be text of a person or a secret: a page's `?prompt=`, the `code`
of a sign-in, a path that somebody has typed. So only values of a known form are recorded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

REDACTED = "REDACTED"
"""What the semantic conventions put in place of a value that must not be recorded."""

_NUMBER = re.compile(r"[0-9]{1,9}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Z][a-z]{3})?([-_]([A-Z]{2}|[0-9]{3}))?")
# The parameters whose values are no personal data if they are of this form.
_HARMLESS = {
    "EIO": re.compile(r"[0-9]"),
    "first": _NUMBER,
    "language": _LANGUAGE,
    "limit": _NUMBER,
    "offset": _NUMBER,
    "page": _NUMBER,
    "transport": re.compile(r"polling|websocket"),
}
# The names of parameters that are recorded: a browser can make up names as well as values.
_NAMES = _HARMLESS.keys() | {
    *("access_token", "api_key", "authuser", "client_id", "code", "cursor", "email", "error"),
    *("error_description", "file", "file_id", "filter", "format", "hd", "iss", "id", "id_token"),
    *("key", "lang", "message", "name", "next", "nonce", "prompt", "q", "query", "redirect"),
    *("redirect_uri", "scope", "search", "session", "session_id", "session_state", "sessionId"),
    *("sid", "sort", "state", "thread", "thread_id", "threadId", "token", "url", "user"),
    *("user_id", "username", "version"),
}
_SHORT = re.compile(r"[A-Za-z]{1,2}")
_MOST_PARAMETERS = 32
_ATTRIBUTES = (
    *("code.function.name", "http.request.method", "network.protocol.name"),
    *("network.protocol.version", "url.query", "url.scheme"),
)
_SCHEMES = ("http", "https", "ws", "wss")
_METHODS = frozenset(
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"]
)


def redact_query(query: bytes | str) -> str:
    """Return a query with known names and harmless values only; others are `REDACTED`.

    Args:
        query: The query of a URL, without its question mark.
    """
    text = query.decode("latin-1") if isinstance(query, bytes) else query
    if not text:
        return ""
    pairs = text.split("&", _MOST_PARAMETERS)
    return "&".join(_redact_pair(*pair.partition("=")) for pair in pairs[:_MOST_PARAMETERS])


def _redact_pair(name: str, equals: str, value: str) -> str:
    if not equals:
        return REDACTED
    form = _HARMLESS.get(name)
    if form is None or not form.fullmatch(value):
        value = REDACTED
    if name not in _NAMES and not _SHORT.fullmatch(name):
        name = REDACTED
    return f"{name}={value}"


def redact_scope(
    scope: Mapping[str, Any], route: str | None, hidden: Collection[bytes]
) -> dict[str, Any]:
    """Return a copy of a request's scope with nothing that must not be recorded.

    Args:
        scope: The ASGI scope of the request, which is not changed.
        route: The route that answers it, which stands for its path; None if none does.
        hidden: The headers, in lower case, that are left out.
    """
    path = route or f"/{REDACTED}"
    redacted = {
        "type": scope["type"],
        "scheme": scope["scheme"] if scope.get("scheme") in _SCHEMES else "http",
        "http_version": scope.get("http_version"),
        "server": scope.get("server"),
        "client": (REDACTED, None) if scope.get("client") else None,
        "path": path,
        # The path of what is mounted, unless that has parameters.
        "root_path": "" if scope.get("path_params") else scope.get("root_path", ""),
        "query_string": redact_query(scope.get("query_string") or b"").encode("ascii"),
        "headers": [pair for pair in scope.get("headers") or () if pair[0].lower() not in hidden],
    }
    if method := scope.get("method"):
        # The value of the semantic conventions for an unknown method.
        redacted["method"] = method if method in _METHODS else "_OTHER"
    return redacted


def redact_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return those start attributes of a span of FastAPI that may be recorded.

    A client can make up the path, the host and an unknown method; the route is set later.

    Args:
        attributes: The attributes, by their names in the semantic conventions.
    """
    redacted = {k: v for k, v in (attributes or {}).items() if k in _ATTRIBUTES}
    if "url.query" in redacted:
        redacted["url.query"] = redact_query(str(redacted["url.query"]))
    if redacted.get("url.scheme", "http") not in _SCHEMES:
        del redacted["url.scheme"]
    return redacted


def mask_url(url: str, mask: str = REDACTED) -> str:
    """Return an address with its name and password, and the values of its query, masked.

    Args:
        url: The address, with a scheme or without.
        mask: What to put in their place.
    """
    slashes = "" if "//" in url else "//"
    try:
        parts = urlsplit(slashes + url)
    except ValueError:
        return mask
    place = parts.netloc.rpartition("@")
    netloc = f"{mask}@{place[2]}" if place[1] else parts.netloc
    pairs = (pair.partition("=") for pair in parts.query.split("&") if pair)
    query = "&".join(f"{name}={mask}" if equals else mask for name, equals, _ in pairs)
    fragment = mask if parts.fragment else ""
    masked = urlunsplit(parts._replace(netloc=netloc, query=query, fragment=fragment))
    return masked.removeprefix(slashes)
