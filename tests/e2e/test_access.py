"""Who was let in: every check of Chainlit's, and its result, against what the client got."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from packaging.version import Version

from chainlit_otel import catalog
from chainlit_otel.testing import Unreachable, Visitor
from tests.support import CHAINLIT, LAYER
from tests.support.otlp import Receiver, Span
from tests.support.provider import OAuthProvider
from tests.support.refusal import be_refused
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

SECRET = "a-secret-of-this-test-and-nothing-else"
WRONG, DOWN, RIGHT = 100, 10, 5

# Older releases answer an OAuth sign-in that fails by an HTTP error, and count it only if it has
# come as far as the app's callback.
SENDS_BACK = Version("2.12") <= CHAINLIT
# Older releases look at a thread when it is resumed, and let anybody take up a session.
CHECKS_THREADS = Version("2.8.5") <= CHAINLIT
# The first that look ask who wrote the thread, and refuse one that nobody wrote.
ASKS_FOR_AUTHORS = CHECKS_THREADS and Version("2.9.2") > CHAINLIT
CHECKS_OWNERS = Version("2.10.1") <= CHAINLIT

APP = """
import os

import chainlit as cl
from layer import Layer

secret = os.environ["CHAINLIT_AUTH_SECRET"]


@cl.data_layer
def data_layer():
    return Layer({"of ada": "ada", "of bob": "bob"})


@cl.password_auth_callback
async def sign_in(name, password):
    if password == "down":
        raise ConnectionError("The directory is down.")
    if password == "cancelled":
        import asyncio

        raise asyncio.CancelledError
    return cl.User(identifier=name) if password == "right" else None


@cl.header_auth_callback
def by_header(headers):
    name = headers.get("X-User")
    if name == "down":
        raise ConnectionError("The directory is down.")
    if name == "lose the secret":
        os.environ.pop("CHAINLIT_AUTH_SECRET")
    if name == "find the secret":
        os.environ["CHAINLIT_AUTH_SECRET"] = secret
    return cl.User(identifier=name) if name else None


@cl.oauth_callback
def by_provider(provider, token, data, default):
    if token == "fails":
        raise ConnectionError("The directory is down.")
    return None if token == "stranger" else default


@cl.on_chat_resume
def resume(thread):
    pass


@cl.on_message
async def answer(message):
    import chainlit_otel

    said = [chainlit_otel.access_denied(*denial) for denial in eval(message.content)]
    await cl.Message(str(said)).send()
"""

ENABLE = """
import chainlit_otel

chainlit_otel.enable()
"""


@pytest.fixture(scope="module")
def server(receiver: Receiver) -> Iterator[ChainlitServer]:
    with OAuthProvider() as provider, app(ENABLE, {**provider.env, **receiver.env}) as server:
        yield server


def app(enabling: str, env: dict[str, str]) -> ChainlitServer:
    return ChainlitServer(
        {"app.py": enabling + APP, "layer.py": LAYER}, env={"CHAINLIT_AUTH_SECRET": SECRET, **env}
    )


class Door:
    """Asks to be let in, in every way."""

    def __init__(self, server: ChainlitServer) -> None:
        self.server = server
        # A connection on which something went wrong is closed once it has answered.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits)

    async def password(self, password: str, name: str = "ada") -> int:
        form = {"username": name, "password": password}
        return (await self.http.post("/login", data=form)).status_code

    async def header(self, name: str) -> int:
        headers = {"X-User": name} if name else {}
        return (await self.http.post("/auth/header", headers=headers)).status_code

    async def oauth(self, **parameters: str) -> str | int:
        """Go to the provider and come back with these; return where it leads, or the error."""
        away = await self.http.get("/auth/oauth/generic")
        [state] = parse_qs(urlsplit(away.headers["Location"]).query)["state"]
        back = await self.http.get(
            "/auth/oauth/generic/callback", params={"state": state, **parameters}
        )
        if back.status_code >= 400:
            return back.status_code
        assert back.status_code in (302, 307)
        to = urlsplit(back.headers["Location"])
        return f"{to.path}?{to.query}"

    async def bearer(self, token: str, path: str = "/user") -> int:
        self.http.cookies.clear()
        headers = {"Authorization": f"Bearer {token}"}
        return (await self.http.get(path, headers=headers)).status_code

    async def cookie(self, name: str) -> dict[str, str]:
        """Sign in; return what a browser sends from then on."""
        self.http.cookies.clear()
        assert await self.password("right", name) == 200
        return {"Cookie": "; ".join(f"{k}={v}" for k, v in self.http.cookies.items())}

    async def token(self, name: str) -> str:
        """Sign in; return the token, which no cookie sends from then on."""
        await self.cookie(name)
        token = self.http.cookies["access_token"]
        self.http.cookies.clear()
        return token

    def visitor(self, headers: dict[str, str] | None = None, thread: str = "") -> Visitor:
        visitor = Visitor(self.server.url, headers=headers, transports=["websocket"], timeout=60)
        visitor.thread_id = thread or None
        return visitor

    def break_down(self, **methods: int) -> None:
        (self.server.directory / "broken.json").write_text(json.dumps(methods))

    async def scrape(self) -> Scrape:
        return await asyncio.to_thread(self.server.scrape)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter[str]]:
        """Give what is counted inside, once it is left: attempts by method and result."""
        before = attempts(await self.scrape())
        counted: Counter[str] = Counter()
        yield counted
        now = await self.scrape()
        counted.update({k: n - before[k] for k, n in attempts(now).items() if n != before[k]})
        assert now.sum("chainlit_otel_internal_errors_total") == 0


@pytest.fixture
async def door(server: ChainlitServer) -> AsyncIterator[Door]:
    door = Door(server)
    yield door
    door.break_down()
    await door.http.aclose()


def attempts(scrape: Scrape) -> dict[str, int]:
    """All attempts so far; what this app cannot do is not there, and none."""
    found = dict.fromkeys(
        (
            f"{method} {result}"
            for method in catalog.ACCESS_METHOD.values
            for result in catalog.ACCESS_RESULT.values
        ),
        0,
    )
    family = scrape.families["chainlit_access_attempts"]
    for sample in family.samples:
        method, result = (
            sample.labels[attribute.prometheus_label]
            for attribute in catalog.ACCESS_ATTEMPTS.attributes
        )
        found[f"{method} {result}"] = int(sample.value)
    return found


# Sign-in


async def test_sign_in_by_password(door: Door) -> None:
    passwords = ["wrong"] * WRONG + ["down"] * DOWN + ["right"] * RIGHT
    async with door.counting() as counted:
        answers = Counter([await door.password(password) for password in passwords])
    # The client cannot tell a directory that is down from a wrong password.
    assert answers == {401: WRONG + DOWN, 200: RIGHT}
    assert counted == {"password denied": WRONG, "password error": DOWN, "password granted": RIGHT}


async def test_the_span_of_a_sign_in_tells_a_guess_from_a_directory_that_is_down(
    door: Door, receiver: Receiver
) -> None:
    robot, browser, other = (
        "python-requests/2.31.0",
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "the browser of Ada",
    )

    # Spans of earlier sign-ins may be yet to come.
    began = time.time_ns()

    def signed_in() -> Counter[tuple[str, ...]]:
        keys = ("chainlit.access.result", "user_agent.name", "error.type")
        return Counter(
            tuple(span.attributes.get(key, "") for key in keys)
            for span in receiver.named("POST /login")
            if span.attributes.get("chainlit.access.method") == "password" and span.start >= began
        )

    for agent, password in ((robot, "wrong"), (robot, "wrong"), (browser, "down")):
        door.http.headers["User-Agent"] = agent
        assert await door.password(password) == 401
    door.http.headers["User-Agent"] = other
    assert await door.password("right") == 200
    await asyncio.to_thread(receiver.wait_for, lambda: signed_in().total() >= 4, "the spans", 60)
    assert signed_in() == {
        ("denied", "python-requests", ""): 2,
        ("error", "Firefox", "ConnectionError"): 1,
        ("granted", "other", ""): 1,
    }
    assert other not in receiver.everything
    assert robot not in receiver.everything


async def test_sign_in_at_once_mixes_nobody_up(door: Door) -> None:
    passwords = ["wrong", "down", "right"] * 20
    async with door.counting() as counted:
        await asyncio.gather(*map(door.password, passwords))
    assert counted == {"password denied": 20, "password error": 20, "password granted": 20}


async def test_a_callback_that_is_cancelled_is_an_error(door: Door) -> None:
    async with door.counting() as counted:
        assert await door.password("cancelled") == 401
    assert counted == {"password error": 1}


async def test_a_user_who_cannot_be_stored_is_signed_in(door: Door) -> None:
    door.break_down(create_user=0, get_user=0)
    async with door.counting() as counted:
        assert await door.password("right") == 200
        assert (await door.http.get("/user")).json()["identifier"] == "ada"
    assert counted == {"password granted": 1, "jwt granted": 1}
    door.break_down()
    async with door.counting() as counted:
        assert await door.password("right", "nobody's child") == 200
        assert (await door.http.get("/user")).json()["identifier"] == "nobody's child"
    assert counted == {"password granted": 1, "jwt granted": 1}


async def test_sign_in_by_header(door: Door) -> None:
    async with door.counting() as counted:
        answers = [await door.header(name) for name in ("ada", "", "down", "bob", "")]
    assert answers == [200, 401, 401, 200, 401]
    assert counted == {"header granted": 2, "header denied": 2, "header error": 1}


SIGNED_IN, ERROR = "/login/callback?success=True", "/login?error=oauthSignin"


@pytest.mark.parametrize(
    ("parameters", "result", "in_older"),
    [
        ({"code": "ada"}, "granted", ("granted", SIGNED_IN)),
        ({"code": "stranger"}, "denied", ("denied", 401)),
        ({"code": "fails"}, "error", ("error", 401)),
        ({"code": "stale"}, "denied", ("", 500)),
        ({"code": "misconfigured"}, "error", ("", 500)),
        ({"code": "down"}, "error", ("", 500)),
        ({"code": "half down"}, "error", ("", 500)),
        ({"code": "ada", "state": "forged"}, "denied", ("", 401)),
        ({}, "denied", ("", 400)),
        ({"error": "access_denied"}, "denied", ("denied", "/login?error=access_denied")),
        ({"error": "server_error"}, "error", ("error", "/login?error=server_error")),
    ],
)
async def test_sign_in_by_a_provider(
    door: Door, parameters: dict[str, str], result: str, in_older: tuple[str, str | int]
) -> None:
    async with door.counting() as counted:
        led_to = await door.oauth(**parameters)
    expected = (result, SIGNED_IN if result == "granted" else ERROR)
    result, expected_to = expected if SENDS_BACK else in_older
    assert led_to == expected_to
    assert counted == ({f"oauth {result}": 1} if result else {})


# Tokens


def minted(secret: str, expires: float) -> str:
    now = time.time()
    claims = {"identifier": "ada", "metadata": {}, "exp": now + expires, "iat": now - 3600}
    return jwt.encode(claims, secret)


def forged() -> str:
    return minted("a-secret-that-the-server-does-not-know", expires=3600)


def expired() -> str:
    return minted(SECRET, expires=-1)


async def test_tokens(door: Door) -> None:
    given = await door.token("ada")
    async with door.counting() as counted:
        answers = [await door.bearer(t) for t in (given, forged(), expired(), "nonsense")]
    assert answers == [200, 401, 401, 401]
    assert counted == {"jwt granted": 1, "jwt denied": 3}


async def test_no_token_is_no_attempt(door: Door) -> None:
    async with door.counting() as counted:
        assert (await door.http.get("/user")).status_code == 401
    assert counted == {}


async def test_a_token_for_a_cookie(door: Door) -> None:
    given = await door.token("ada")
    async with door.counting() as counted:
        for value, status in ((given, 200), (forged(), 401)):
            headers = {"Authorization": f"Bearer {value}"}
            answer = await door.http.post("/auth/jwt", headers=headers)
            assert answer.status_code == status, answer.text
    assert counted == {"jwt granted": 1, "jwt denied": 1}


async def test_without_its_secret_the_app_can_check_nothing(door: Door) -> None:
    headers, given = await door.cookie("ada"), await door.token("ada")
    assert await door.header("lose the secret") == 500
    try:
        async with door.counting() as counted:
            assert await door.password("right") == 500
            assert await door.bearer(given) == 401
            await be_refused(door.visitor(headers))
    finally:
        assert await door.header("find the secret") == 200
    assert counted == {"password error": 1, "jwt error": 2, "websocket error": 1}


# Sockets


async def test_sockets(door: Door) -> None:
    headers = await door.cookie("ada")
    visitor = door.visitor(headers)
    async with door.counting() as counted:
        await visitor.connect()
        await visitor.drop()
        await visitor.reconnect()
        await visitor.leave(clear=True)
    assert counted == {"jwt granted": 2, "websocket granted": 2}

    async with door.counting() as counted:
        for cookie in ({}, {"Cookie": f"access_token={forged()}"}):
            await be_refused(door.visitor(cookie))
    assert counted == {"jwt denied": 1, "websocket denied": 2}


async def test_the_session_of_somebody_else(door: Door) -> None:
    ada = door.visitor(await door.cookie("ada"))
    await ada.connect()
    bob = door.visitor(await door.cookie("bob"), thread="of bob")
    bob.session_id = ada.session_id
    async with door.counting() as counted:
        if CHECKS_OWNERS:
            await be_refused(bob)
        else:
            await bob.connect()
    # He may have the thread that he came with, but not the session.
    expected = {"jwt granted": 1, "websocket denied" if CHECKS_OWNERS else "websocket granted": 1}
    assert counted == (expected | {"thread granted": 1} if CHECKS_THREADS else expected)
    await (ada if CHECKS_OWNERS else bob).leave(clear=True)


# Threads


async def test_threads_over_http(door: Door) -> None:
    await door.cookie("ada")
    async with door.counting() as counted:
        threads = ("of ada", "of bob", "of nobody")
        answers = [(await door.http.get(f"/project/thread/{t}")).status_code for t in threads]
        door.break_down(get_thread_author=0)
        answers.append((await door.http.get("/project/thread/of ada")).status_code)
    assert answers == [200, 401, 404, 500]
    assert counted == {
        "jwt granted": 4,
        "thread granted": 1,
        "thread denied": 2,
        "thread error": 1,
    }


async def test_threads_over_sockets(door: Door) -> None:
    headers = await door.cookie("ada")
    async with door.counting() as counted:
        own = door.visitor(headers, thread="of ada")
        await own.connect()
        await own.until(lambda: any(e.name == "resume_thread" for e in own.events), "the thread")
        await own.leave(clear=True)
    assert counted == {"jwt granted": 1, "websocket granted": 1, "thread granted": 1}

    async def get_no_thread(thread: str) -> None:
        visitor = door.visitor(headers, thread=thread)
        await visitor.connect()
        await visitor.until(
            lambda: any(e.name == "resume_thread_error" for e in visitor.events), "the error"
        )
        await visitor.leave(clear=True)

    denied = {"jwt granted": 1, "websocket denied": 1, "thread denied": 1}
    async with door.counting() as counted:
        if CHECKS_THREADS:
            await be_refused(door.visitor(headers, thread="of bob"))
        else:
            await get_no_thread("of bob")
    only_the_thread = {"jwt granted": 1, "websocket granted": 1, "thread denied": 1}
    assert counted == (denied if CHECKS_THREADS else only_the_thread)

    async with door.counting() as counted:
        if ASKS_FOR_AUTHORS:
            await be_refused(door.visitor(headers, thread="of nobody"))
        else:
            await get_no_thread("of nobody")
    unknown = {"jwt granted": 1, "websocket granted": 1}
    assert counted == (denied if ASKS_FOR_AUTHORS else unknown)


async def test_threads_while_the_data_layer_is_down(door: Door) -> None:
    headers = await door.cookie("ada")
    checks = {"thread granted": 1} if CHECKS_THREADS else {}
    if CHECKS_THREADS:
        door.break_down(get_thread=0, get_thread_author=0)
        visitor = door.visitor(headers, thread="of ada")
        visitor.timeout = 1
        async with door.counting() as counted:
            with pytest.raises(Unreachable):
                await visitor.connect()
        assert counted == {"jwt granted": 1, "websocket error": 1, "thread error": 1}

    # It breaks down after the socket has been let in, and before its thread is read.
    door.break_down(get_thread=1 if CHECKS_THREADS and not ASKS_FOR_AUTHORS else 0)
    visitor = door.visitor(headers, thread="of ada")
    async with door.counting() as counted:
        await visitor.connect()
        await asyncio.to_thread(
            wait_until, lambda: json.loads(door.server.read("broken.json"))["get_thread"] < 0, 5, ""
        )
        await visitor.leave(clear=True)
    assert counted == {"jwt granted": 1, "websocket granted": 1, "thread error": 1, **checks}


# What the app itself denies


def denied_in(span: Span) -> list[tuple[str, str]]:
    return [
        (event.attributes["chainlit.access.method"], event.attributes["error.type"])
        for event in span.events
        if event.name == "chainlit.access.denied"
    ]


async def test_what_the_app_denies(door: Door, receiver: Receiver) -> None:
    visitor = door.visitor(await door.cookie("ada"))
    await visitor.connect()
    given: list[tuple[object, object]] = [
        ("rate_limit", "too many messages"),
        ("rate_limit", "too many messages"),
        ("thread", "not in the team"),
        ("made up", "not in the team"),
        (None, 3),
        ("rate_limit", "\ud800"),
        ("thread", "long" * 1000),
    ]
    before = await door.scrape()
    async with door.counting() as counted:
        assert (await visitor.say(repr(given))).texts == [str([None] * len(given))]
    now = await door.scrape()
    assert counted == {"rate_limit denied": 3, "thread denied": 2, "other denied": 2}

    def denials(method: str, reason: str) -> float:
        labels = {"chainlit_access_method": method, "error_type": reason}
        return now.value("chainlit_access_denials_total", **labels)

    assert denials("rate_limit", "too many messages") == 2
    assert denials("rate_limit", "?") == 1
    assert denials("thread", "not in the team") == 1
    assert denials("thread", "other") == 1
    assert denials("other", "not in the team") == 1
    assert denials("other", "other") == 1

    def overflowed(scrape: Scrape, attribute: catalog.Attribute) -> float:
        label = {"chainlit_otel_attribute": attribute.key}
        return scrape.value("chainlit_otel_label_overflow_total", **label)

    for attribute in (catalog.ACCESS_METHOD, catalog.DENIAL_REASON):
        assert overflowed(now, attribute) - overflowed(before, attribute) == 2

    [denied] = receiver.wait_for(lambda: list(filter(None, map(denied_in, receiver.spans))))
    assert denied == [
        ("rate_limit", "too many messages"),
        ("rate_limit", "too many messages"),
        ("thread", "not in the team"),
        ("other", "not in the team"),
        ("other", "other"),
        ("rate_limit", "?"),
        ("thread", "other"),
    ]

    many = [("rate_limit", f"reason {number}") for number in range(100)]
    await visitor.say(repr(many))
    now = await door.scrape()
    series = [labels for name, labels in now.series if name == "chainlit_access_denials_total"]
    reasons = {dict(labels)["error_type"] for labels in series}
    assert len(reasons) == 32 + 1
    assert now.sum("chainlit_access_denials_total") == len(given) + len(many)
    await visitor.leave(clear=True)


# The app does the same without us, and with us broken

BREAK = """
import chainlit_otel
from chainlit_otel.core.labels import EnumLabel
from chainlit_otel.probes import access


def broken(*args, **kwargs):
    raise RuntimeError("broken on purpose")


for name, value in list(vars(access.Access).items()):
    if callable(value) and name not in ("__init__", "install", "overflows"):
        setattr(access.Access, name, broken)
chainlit_otel.enable()
"""


REFUSALS = ("Authentication failed in websocket connect.", "Authorization for the thread failed.")


async def everything(server: ChainlitServer) -> list[object]:
    """Ask for everything; return what the client got."""
    door = Door(server)
    reported: list[object] = []
    refused = ["of bob"] if CHECKS_THREADS else []
    refused += ["of nobody"] if ASKS_FOR_AUTHORS else []

    async def connect(headers: dict[str, str], thread: str = "") -> object:
        visitor = door.visitor(headers, thread)
        if not headers or thread in refused:
            return await be_refused(visitor)
        await visitor.connect()
        reported.append((await visitor.say("[('thread', 'why not'), ('nonsense',) * 2]")).texts)
        await visitor.leave(clear=True)
        return "connected"

    reported += [await door.password(p) for p in ("right", "wrong", "down", "cancelled")]
    reported += [await door.header(name) for name in ("ada", "", "down")]
    reported += [await door.oauth(code=c) for c in ("ada", "stranger", "fails", "stale", "down")]
    given = await door.token("ada")
    reported += [await door.bearer(t) for t in (given, forged(), expired())]
    headers = await door.cookie("ada")
    for thread in ("of ada", "of bob", "of nobody"):
        answer = await door.http.get(f"/project/thread/{thread}")
        reported += [answer.status_code, answer.text, await connect(headers, thread)]
    reported += [await connect({}), await connect(headers)]
    door.break_down(get_thread_author=0)
    reported.append((await door.http.get("/project/thread/of ada")).status_code)
    await door.http.aclose()
    # Of a refusal that python-socketio does not pass on, this is all that can be seen.
    reported += [server.log.count(reason) for reason in REFUSALS]
    return reported


@pytest.mark.parametrize("enabling", [ENABLE, BREAK], ids=["with us", "with us broken"])
async def test_the_app_does_the_same(enabling: str, without_us: Callable[[], list[object]]) -> None:
    with OAuthProvider() as provider, app(enabling, provider.env) as server:
        assert await everything(server) == without_us()
        errors = (await asyncio.to_thread(server.scrape)).value(
            "chainlit_otel_internal_errors_total", chainlit_otel_probe="access"
        )
        assert bool(errors) == (enabling is BREAK)


@pytest.fixture(scope="module")
def without_us() -> Callable[[], list[object]]:
    with OAuthProvider() as provider, app("", provider.env) as server:
        reported = asyncio.run(everything(server))
    return lambda: reported
