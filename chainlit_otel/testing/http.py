"""What Chainlit's page asks over HTTP, beside its socket."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from chainlit_otel.privacy import mask_url
from chainlit_otel.testing.errors import NoAnswer, Refused, Unreachable

# Seconds between the tries to give feedback; Chainlit has stored a message long before their sum.
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


class Address(NamedTuple):
    """The address of a Chainlit app, parsed as the page does it.

    Attributes:
        origin: scheme, host and port.
        path: the root path or the mount point, without a slash at its end; often empty.
    """

    origin: str
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse `url`.

        Raises:
            ValueError: it is not the http(s) address of a page.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{mask_url(url)!r} is not an address: http://host:port or https://host expected"
            )
        return cls(f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/"))

    def __str__(self) -> str:
        """The address as messages and results have it: without a name and a password."""
        return mask_url(self.origin) + self.path

    def route(self, path: str) -> str:
        """Return the address of a route of the app."""
        return f"{self.origin}{self.path}{path}"


class Upload(NamedTuple):
    """A file that a visitor sends.

    Attributes:
        name: its name, without a directory.
        content: what is in it.
        mime: its media type.
    """

    name: str
    content: bytes
    mime: str

    @classmethod
    def read(cls, file: str | os.PathLike[str] | Upload, mime: str = "") -> Upload:
        """Read a file of this machine; an upload is returned as it is.

        Args:
            file: path of the file.
            mime: its media type, which browsers do not agree on; empty for what its name says.

        Raises:
            OSError: it cannot be read.
        """
        if isinstance(file, Upload):
            return file
        path = Path(file)
        guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(path.name, path.read_bytes(), mime or guessed)


class PageRequests:
    """The requests of one page.

    Args:
        address: of the app.
        http: with the cookies of the page.
        timeout: seconds that an answer may take.

    Raises:
        Refused: of each method: the app answers with an HTTP error.
        NoAnswer: of each method: it does not answer in time.
        Unreachable: of each method: nothing answers.
    """

    def __init__(self, address: Address, http: aiohttp.ClientSession, timeout: float) -> None:
        self._address = address
        self._http = http
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def get_sticky_cookie(self, session_id: str) -> None:
        """Ask for the cookie by which a load balancer finds the process of a session again."""
        route = self._address.route("/set-session-cookie")
        try:
            async with self._http.post(route, json={"session_id": session_id}):
                pass
        except aiohttp.ClientConnectorError:
            raise
        except aiohttp.ClientError:
            return  # like the page, which goes on without the cookie

    async def sign_in(self, username: str, password: str) -> None:
        """Sign in by the form of the page."""
        form = {"username": username, "password": password}
        await self._ask("POST", "/login", f"it does not let {username!r} in", data=form)

    async def sign_in_by_header(self) -> None:
        """Sign in by the headers that each request has."""
        await self._ask("POST", "/auth/header", "it lets nobody in with these headers")

    async def upload(self, session_id: str, upload: Upload, ask_parent_id: str = "") -> str:
        """Send a file, for a message or a question; return its id."""
        form = aiohttp.FormData()
        form.add_field("file", upload.content, filename=upload.name, content_type=upload.mime)
        where = {"session_id": session_id}
        if ask_parent_id:
            where["ask_parent_id"] = ask_parent_id
        refusal = f"it does not take the file {upload.name!r}"
        answer = await self._ask("POST", "/project/file", refusal, params=where, data=form)
        return str(answer["id"])

    async def press(self, session_id: str, action: Mapping[str, Any]) -> None:
        """Press a button of a message; return when its callback has."""
        body = {"sessionId": session_id, "action": action}
        refusal = f"it refuses the action {action['name']!r}"
        await self._ask("POST", "/project/action", refusal, json=body)

    async def update_element(self, session_id: str, element: Mapping[str, Any]) -> None:
        """Change what a custom element shows."""
        body = {"sessionId": session_id, "element": element}
        refusal = f"it does not change the element {element['name']!r}"
        await self._ask("PUT", "/project/element", refusal, json=body)

    async def starters(self, chat_profile: str) -> list[dict[str, Any]]:
        """Return the starters that the page shows before the first message."""
        where = {"language": "en-US", "chat_profile": chat_profile}
        settings = await self._ask("GET", "/project/settings", "it has no settings", params=where)
        profiles = settings.get("chatProfiles") or []
        chosen = [each for each in profiles if each["name"] == chat_profile] or profiles[:1]
        groups = [*chosen, settings, *(settings.get("starterCategories") or [])]
        return [starter for group in groups for starter in group.get("starters") or []]

    async def rate(self, session_id: str, feedback: Mapping[str, Any]) -> str:
        """Give feedback on a message; return the id by which it can be withdrawn.

        A failure of the app is tried again for a few seconds: Chainlit stores a message beside
        sending it, and a database refuses the feedback that comes before its message.
        """
        body = {"sessionId": session_id, "feedback": feedback}
        for pause in (*_PAUSES, None):
            try:
                answer = await self._ask("PUT", "/feedback", "it takes no feedback", json=body)
                break
            except Refused as error:
                if pause is None or error.status != 500:
                    raise
            await asyncio.sleep(pause)
        return str(answer.get("feedbackId") or "")

    async def withdraw_feedback(self, feedback_id: str) -> None:
        """Take feedback back."""
        body = {"feedbackId": feedback_id}
        await self._ask("DELETE", "/feedback", "it does not withdraw the feedback", json=body)

    async def rename_thread(self, thread_id: str, name: str) -> None:
        """Give a stored thread another name."""
        body = {"threadId": thread_id, "name": name}
        await self._ask("PUT", "/project/thread", "it does not rename the thread", json=body)

    async def share_thread(self, thread_id: str, shared: bool) -> None:
        """Let others read a stored thread, or no longer."""
        body = {"threadId": thread_id, "isShared": shared}
        await self._ask("PUT", "/project/thread/share", "it does not share the thread", json=body)

    async def delete_thread(self, thread_id: str) -> None:
        """Delete a stored thread."""
        body = {"threadId": thread_id}
        await self._ask("DELETE", "/project/thread", "it does not delete the thread", json=body)

    async def _ask(self, method: str, route: str, refusal: str, **body: Any) -> Any:
        url = self._address.route(route)
        try:
            async with self._http.request(method, url, timeout=self._timeout, **body) as response:
                text = await response.text()
                if response.status >= 400:
                    reason = f"HTTP status {response.status}: {_detail(text)}"
                    raise Refused(f"{self._address}: {refusal} ({reason})", response.status)
                return await response.json(content_type=None)
        except asyncio.TimeoutError:
            raise NoAnswer(
                f"{self._address}{route} does not answer within {self._timeout.total:g} s"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{self._address}: {reason_of(error)}") from None


async def check(url: str, timeout: float = 10.0, headers: Mapping[str, str] | None = None) -> None:
    """Make sure that a Chainlit app answers at `url`, without opening a session there.

    Args:
        url: address of the chat page.
        timeout: seconds to wait for the answer.
        headers: sent with the request.

    Raises:
        Unreachable: nothing answers, or it is not Chainlit; the message says which, in one line.
        ValueError: `url` is not an http(s) address.
    """
    address = Address.parse(url)
    # The one route that needs no login, exists in every Chainlit 2 and in nothing else.
    route = "/project/translations?language=en-US"
    status, answer = await _get(address, route, headers or {}, timeout)
    if status != 200 or '"translation"' not in answer:
        raise Unreachable(
            f"{address} answers, but it is not the address of a Chainlit app"
            " (one that runs below a path needs that path in the URL)"
        )


async def check_sign_in(url: str, headers: Mapping[str, str], timeout: float = 10.0) -> None:
    """Make sure that the app lets in whoever sends these headers.

    Args:
        url: address of the chat page.
        headers: sent with every request.
        timeout: seconds to wait for the answer.

    Raises:
        Refused: it does not.
        Unreachable: nothing answers.
        ValueError: `url` is not an http(s) address.
    """
    address = Address.parse(url)
    status, _ = await _get(address, "/user", headers, timeout)
    if status == 401 and any(name.lower() == "cookie" for name in headers):
        raise Refused(f"{address} lets nobody in with this cookie")
    if status == 401:
        raise Refused(f"{address} lets in only who has signed in")


async def _get(
    address: Address, route: str, headers: Mapping[str, str], timeout: float
) -> tuple[int, str]:
    """Return status and text of an answer, or raise `Unreachable`."""
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, headers=headers) as http,
            http.get(address.route(route)) as response,
        ):
            return response.status, await response.text()
    except asyncio.TimeoutError:
        raise Unreachable(f"{address} does not answer within {timeout:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"nothing answers at {address}: {reason_of(error)}") from None


def reason_of(error: Exception) -> str:
    """Return why there is no connection, without the words that the library adds."""
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        return os.strerror(number) if number > 0 else str(error.os_error.strerror)
    return str(error)


def _detail(text: str) -> str:
    """Return what FastAPI gives as the reason, else the beginning of the text."""
    try:
        detail = json.loads(text)["detail"]
    except (ValueError, LookupError, TypeError):
        detail = text
    return " ".join(str(detail).split())[:200]
