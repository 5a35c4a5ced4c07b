"""What Chainlit's bots speak to: Slack's API, Teams' connector, Discord's API and its gateway.

They take what a bot posts, and hand on what people say to it as the real ones do: Slack by a signed
request, Teams by an activity, Discord by an event on the websocket that the bot has opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import time
from threading import Event, Thread
from typing import Any
from urllib.parse import urlencode

import httpx
from aiohttp import web

SECRET = "secret"
BOT = {"id": "1", "username": "bot", "discriminator": "0", "global_name": None, "avatar": None}
PERSON = {"id": "2", "username": "ada", "discriminator": "0", "global_name": None, "avatar": None}

ENV = {
    "SLACK_BOT_TOKEN": "xoxb-1",
    "SLACK_SIGNING_SECRET": SECRET,
    "TEAMS_APP_ID": "bot",
    "TEAMS_APP_PASSWORD": "secret",
    "DISCORD_BOT_TOKEN": "token",
}
"""What makes Chainlit start all of its bots."""


def redirect(services: Services) -> str:
    """The lines by which an app has the libraries of its bots speak to these services."""
    return f"""
import discord.gateway
import discord.http
import slack_sdk.web.async_base_client
import slack_sdk.web.base_client
import yarl

discord.http.Route.BASE = "{services.origin}/discord"
discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL("{services.origin}/gateway/")
for kind in (
    slack_sdk.web.async_base_client.AsyncBaseClient,
    slack_sdk.web.base_client.BaseClient,
):
    kind.BASE_URL = "{services.origin}/slack/"

from chainlit.slack.app import slack_app
from chainlit.teams.app import adapter

slack_app.client.base_url = "{services.origin}/slack/"
# As the emulator of Teams has it: nobody signs.
adapter._credential_provider.app_id = ""
"""


class Services:
    """All three, on one port of the loopback interface, in a thread, while they are entered.

    Attributes:
        origin: where they answer, without a slash at the end.
        posted: what the bots have posted, texts and names of files, by service.
        thumbs: what the last thumbs that a bot has offered stand for, by service: for the turn, and
            in Discord for the message and its buttons, down and up.
    """

    def __init__(self) -> None:
        self.origin = ""
        self.posted: dict[str, list[str]] = {"slack": [], "teams": [], "discord": []}
        self.thumbs: dict[str, list[str]] = {}
        self._count = 0
        self._gateway: web.WebSocketResponse | None = None
        self._ready = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Services:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    # What people say to the bots

    def say_in_slack(self, chat: str, text: str, user: str | None = "U1") -> None:
        """Send a message to the Slack bot of a chat; without a user it is from nobody."""
        event: dict[str, Any] = {"type": "message", "channel_type": "im", "channel": "D1"}
        event |= {"text": text, "ts": f"1.{self._next()}"} | ({"user": user} if user else {})
        body = json.dumps(
            {"type": "event_callback", "team_id": "T1", "event_id": str(self._count)}
            | {"event": event}
        )
        self._post_as_slack(chat, body, "application/json")

    def judge_in_slack(self, chat: str, is_up: bool) -> None:
        """Press a thumb below the last answer of the Slack bot of a chat."""
        (turn,) = self.thumbs["slack"]
        pressed = {"action_id": "thumbup" if is_up else "thumbdown", "value": turn}
        payload = {
            "type": "block_actions",
            "team": {"id": "T1"},
            "user": {"id": "U1"},
            "channel": {"id": "D1"},
            "container": {"message_ts": "1.1"},
            "message": {"text": "hello", "thread_ts": "1.1", "blocks": []},
            "actions": [pressed | {"type": "button", "block_id": "b", "action_ts": "1.1"}],
        }
        body = urlencode({"payload": json.dumps(payload)})
        self._post_as_slack(chat, body, "application/x-www-form-urlencoded")

    def _post_as_slack(self, chat: str, body: str, content_type: str) -> None:
        stamp = str(int(time.time()))
        signature = hmac.new(SECRET.encode(), f"v0:{stamp}:{body}".encode(), hashlib.sha256)
        headers = {
            "Content-Type": content_type,
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": f"v0={signature.hexdigest()}",
        }
        answer = httpx.post(f"{chat}/slack/events", content=body, headers=headers, timeout=60)
        answer.raise_for_status()

    def judge_in_teams(self, chat: str, is_up: bool) -> None:
        """Press a thumb below the last answer of the Teams bot of a chat."""
        (turn,) = self.thumbs["teams"]
        pressed = {"value": {"step_id": turn}, "replyToId": "1"}
        self.say_in_teams(chat, "like" if is_up else "dislike", **pressed)

    def say_in_teams(self, chat: str, text: str, **more: Any) -> None:
        """Send a message to the Teams bot of a chat; it is answered when this returns."""
        activity = more | {
            "type": "message",
            "id": str(self._next()),
            "channelId": "emulator",
            "serviceUrl": f"{self.origin}/teams",
            "from": {"id": "U1", "name": "Ada"},
            "recipient": {"id": "B1", "name": "Bot"},
            "conversation": {"id": "C1"},
            "text": text,
        }
        answer = httpx.post(f"{chat}/teams/events", json=activity, timeout=60)
        answer.raise_for_status()

    def say_in_discord(self, text: str, files: int = 0) -> None:
        """Send a direct message, with as many files, to the Discord bot that is connected."""
        number = str(self._next())
        attachment = {
            "id": number,
            "filename": "seen.txt",
            "size": 4,
            "url": f"{self.origin}/file",
            "proxy_url": f"{self.origin}/file",
            "content_type": "text/plain",
        }
        message = _message(number, PERSON, text) | {"attachments": [attachment] * files}
        asyncio.run_coroutine_threadsafe(
            self._dispatch("MESSAGE_CREATE", message), self._loop
        ).result(10)

    def judge_in_discord(self, is_up: bool) -> None:
        """Press a thumb below the last answer of the Discord bot."""
        message, *buttons = self.thumbs["discord"]
        pressed = {
            "id": str(self._next()),
            "application_id": "1",
            "type": 3,
            "token": "token",
            "version": 1,
            "channel_id": "77",
            "channel": {"id": "77", "type": 1},
            "user": PERSON,
            "entitlements": [],
            "authorizing_integration_owners": {},
            "context": 1,
            "attachment_size_limit": 1,
            "message": _message(message, BOT, "hello"),
            "data": {"component_type": 2, "custom_id": buttons[is_up]},
        }
        asyncio.run_coroutine_threadsafe(
            self._dispatch("INTERACTION_CREATE", pressed), self._loop
        ).result(10)

    @property
    def discord_is_connected(self) -> bool:
        """Whether the Discord bot listens."""
        return self._gateway is not None

    def _next(self) -> int:
        self._count += 1
        return 1000 + self._count

    # What the bots ask for

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/slack/{method}", self._slack)
        app.router.add_route("*", "/teams/{rest:.*}", self._teams)
        app.router.add_route("*", "/discord/{rest:.*}", self._discord)
        app.router.add_route("GET", "/gateway/{rest:.*}", self._connect)
        app.router.add_route("*", "/file", self._file)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.origin = f"http://{host}:{port}"
        self._ready.set()
        await self._stopped.wait()
        if self._gateway is not None:
            await self._gateway.close()
        await runner.cleanup()

    async def _file(self, request: web.Request) -> web.Response:
        return web.Response(text="text")

    async def _slack(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        asked: dict[str, Any] = dict(request.query)
        if request.can_read_body:
            asked |= (
                dict(await request.post())
                if request.content_type != _JSON
                else (await request.json())
            )
        if method == "chat.postMessage":
            if "refused" in str(asked["text"]):
                return _answer({"ok": False, "error": "restricted_action"})
            self.posted["slack"].append(str(asked["text"]))
            blocks = asked.get("blocks") or []
            for button in (one for block in blocks for one in block.get("elements", ())):
                self.thumbs["slack"] = [button["value"]]
        elif method == "files.completeUploadExternal":
            self.posted["slack"].append("a file")
        elif method == "users.info" and asked["user"] == "unknown":
            return _answer({"ok": False, "error": "user_not_found"})
        user = {"id": "U1", "name": "ada", "profile": {"email": "a@example.org"}}
        return _answer(
            {"ok": True, "ts": "1.1", "channel": "D1", "user_id": "UB", "bot_id": "BB"}
            | {"team_id": "T1", "messages": [], "files": [{"id": "F1"}], "file_id": "F1"}
            | {"upload_url": f"{self.origin}/file"}
            | ({"user": user} if method == "users.info" else {})
        )

    async def _teams(self, request: web.Request) -> web.Response:
        activity = await request.json()
        if activity.get("type") == "message":
            self.posted["teams"].append(activity.get("text") or "a file")
            for card in activity.get("attachments") or ():
                for button in card.get("content", {}).get("buttons", ()):
                    self.thumbs["teams"] = [button["value"]["step_id"]]
        return _answer({"id": str(self._next())})

    async def _discord(self, request: web.Request) -> web.Response:
        path = request.match_info["rest"]
        if path == "users/@me":
            return _answer(BOT)
        if path == "oauth2/applications/@me":
            app: dict[str, Any] = {
                "id": "1",
                "name": "bot",
                "description": "",
                "icon": None,
                "flags": 0,
            }
            app |= {"bot_public": True, "bot_require_code_grant": False, "owner": PERSON}
            return _answer(app | {"verify_key": "", "rpc_origins": [], "summary": ""})
        if path.endswith("/messages"):
            text = "a file"
            if request.content_type == _JSON:
                text = (await request.json())["content"]
            self.posted["discord"].append(text)
            return _answer(_message(str(self._next()), BOT, text))
        if request.method == "PATCH" and "/messages/" in path:
            message = path.rpartition("/")[2]
            rows = (await request.json()).get("components") or []
            if buttons := [one["custom_id"] for row in rows for one in row["components"]]:
                self.thumbs["discord"] = [message, *buttons]
            return _answer(_message(message, BOT, "hello"))
        return web.Response(status=204)

    async def _connect(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": 10, "d": {"heartbeat_interval": 40_000}, "s": None})
        async for frame in socket:
            packet = json.loads(frame.data)
            if packet["op"] == 1:
                await socket.send_json({"op": 11})
            elif packet["op"] == 2:
                self._gateway = socket
                ready: dict[str, Any] = {"v": 10, "user": BOT, "guilds": [], "session_id": "s"}
                ready |= {"resume_gateway_url": f"{self.origin}/gateway/"}
                await self._dispatch("READY", ready | {"application": {"id": "1", "flags": 0}})
        return socket

    async def _dispatch(self, event: str, data: dict[str, Any]) -> None:
        assert self._gateway is not None
        with contextlib.suppress(ConnectionError):
            await self._gateway.send_json({"op": 0, "t": event, "s": self._next(), "d": data})


_JSON = "application/json"


def _answer(data: dict[str, Any]) -> web.Response:
    # Discord's client takes the type without a charset alone.
    return web.Response(body=json.dumps(data).encode(), content_type=_JSON)


def _message(number: str, author: dict[str, Any], text: str) -> dict[str, Any]:
    return {
        "id": number,
        "channel_id": "77",
        "author": author,
        "content": text,
        "timestamp": "2026-01-01T00:00:00+00:00",
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "pinned": False,
        "type": 0,
    }
