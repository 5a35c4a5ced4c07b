"""Who sees the live page: on loopback and beyond, by token, by name, from which page."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from chainlit_otel.guard import Guard
from chainlit_otel.server.access import BelowPath, PageAccess
from chainlit_otel.server.app import admin_app
from chainlit_otel.server.metrics import MetricsEndpoint

DATA = "data of the page"
TOKEN = "a token"


async def show(_: Request) -> Response:
    return PlainTextResponse(DATA)


def app_of(address: str = "127.0.0.1", token: str | None = None, *others: str) -> ASGIApp:
    page = Starlette(routes=[Route("/", show), Route("/live/data/{name}", show)])
    metrics = PlainTextResponse("metrics")
    return admin_app(metrics, lambda: {"status": "ok"}, PageAccess(page, address, token, others))


def client_of(app: ASGIApp, host: str = "127.0.0.1:9464") -> httpx.AsyncClient:
    # The address by which a connection has come is the one that uvicorn gives.
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


async def test_on_loopback_everybody_on_the_machine_sees_it() -> None:
    async with client_of(app_of()) as client:
        answer = await client.get("/live/data/sessions")
    assert (answer.status_code, answer.text) == (200, DATA)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.1.2.3", "chat.example"])
async def test_beyond_loopback_without_a_token_nobody_does(address: str) -> None:
    async with client_of(app_of(address)) as client:
        for path in ("/", "/live/data/sessions", "/live/data/../data/x", "//", "/live/data/x?a=b"):
            answer = await client.get(path)
            assert answer.status_code == 403, path
            assert "CHAINLIT_OTEL_PAGE_TOKEN" in answer.json()["error"]
            assert DATA not in answer.text
        assert (await client.get("/metrics")).text == "metrics"
        assert (await client.get("/healthz")).json() == {"status": "ok"}


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
async def test_through_a_proxy_everybody_could_come(name: str) -> None:
    sent = {name: "10.0.0.1", "Authorization": f"Bearer {TOKEN}"}
    async with client_of(app_of()) as client:
        answer = await client.get("/live/data/sessions", headers=sent)
        assert (answer.status_code, DATA in answer.text) == (403, False)
        assert "CHAINLIT_OTEL_PAGE_TOKEN" in answer.json()["error"]
        assert (await client.get("/metrics", headers=sent)).text == "metrics"
    async with client_of(app_of(token=TOKEN)) as client:
        assert (await client.get("/live/data/sessions", headers=sent)).text == DATA


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
async def test_a_link_with_the_token_leaves_a_cookie(address: str) -> None:
    async with client_of(app_of(address, TOKEN)) as client:
        answer = await client.get("/", params={"token": TOKEN})
        assert (answer.status_code, answer.headers["location"]) == (303, "./")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        for path in ("/", "/live/data/sessions"):
            assert (await client.get(path)).text == DATA


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"params": {"token": "another"}},
        {"params": {"token": ""}},
        {"headers": {"Authorization": "Bearer another"}},
        {"headers": {"Authorization": TOKEN}},
        {"headers": {"Authorization": "Bearer \N{SNOWMAN}".encode()}},
        {"headers": {"Cookie": f"chainlit_otel_page_9464={TOKEN}"}},
        {"headers": {"Cookie": "chainlit_otel_page_9464="}},
        {"headers": {"Cookie": ";;;=;\x01"}},
    ],
)
@pytest.mark.parametrize("path", ["/", "/live/data/sessions"])
async def test_without_the_right_token_there_is_no_data(path: str, sent: dict[str, object]) -> None:
    async with client_of(app_of(token=TOKEN)) as client:
        answer = await client.get(path, **sent)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert "CHAINLIT_OTEL_PAGE_TOKEN" in answer.json()["error"]
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("token", ["ключ", "\udcff\udcfe", "a b=;%"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_any_token_will_do(token: str, scheme: str) -> None:
    sent = {b"Authorization": f"{scheme} {token}".encode(errors="surrogateescape")}
    metrics = MetricsEndpoint(None, token, Guard("server"), lambda _: ())
    for app, path in ((app_of(token=token), "/live/data/sessions"), (metrics, "/metrics")):
        async with client_of(app) as client:
            assert (await client.get(path, headers=sent)).status_code == 200
            assert (await client.get(path)).status_code == 401


async def test_a_token_in_the_address_opens_the_page_alone() -> None:
    async with client_of(app_of(token=TOKEN)) as client:
        answer = await client.get("/live/data/sessions", params={"token": TOKEN})
        assert answer.status_code == 401
        sent = {"Authorization": f"Bearer {TOKEN}"}
        assert (await client.get("/live/data/sessions", headers=sent)).text == DATA


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", 200),
        ("localhost", 200),
        ("chat.example:9464", 200),
        ("CHAT.example.", 200),
        ("evil.example", 403),
        ("10.9.9.9", 403),
        ("", 403),
        ("chat.example.evil.example", 403),
    ],
)
async def test_beyond_loopback_it_is_asked_by_a_known_name(host: str, status: int) -> None:
    async with client_of(app_of("0.0.0.0", TOKEN, "chat.example")) as client:
        sent = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
        answer = await client.get("/live/data/sessions", headers=sent)
    assert answer.status_code == status
    if status == 403:
        assert "CHAINLIT_OTEL_ALLOWED_HOSTS" in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:9464"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:8000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
        (
            {
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
            },
            200,
        ),
        (
            {
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "iframe",
            },
            403,
        ),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
    ],
)
async def test_no_other_page_reads_it(headers: dict[str, str], status: int) -> None:
    async with client_of(app_of()) as client:
        answer = await client.get("/live/data/sessions", headers=headers)
    assert answer.status_code == status
    assert (DATA in answer.text) == (status == 200)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_it_only_shows(method: str) -> None:
    async with client_of(app_of()) as client:
        answer = await client.request(method, "/live/data/sessions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/chats/admin/", 200),
        ("/chats/admin/live/data/x", 200),
        ("/chats/admin/metrics", 200),
        ("/live/data/x", 200),
        ("/chats/administrator", 404),
        ("/chats/admin/nothing", 404),
    ],
)
async def test_below_the_path_of_a_proxy(path: str, status: int) -> None:
    async with client_of(BelowPath(app_of(), "/chats/admin/")) as client:
        assert (await client.get(path)).status_code == status
        folder = await client.get("/chats/admin")
    assert (folder.status_code, folder.headers["location"]) == (303, "admin/")


async def test_a_cookie_holds_below_the_path_of_a_proxy_that_takes_it_off() -> None:
    app = app_of(token=TOKEN)

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "path": scope["path"].removeprefix("/ops/chat")}, receive, send)

    async with client_of(proxy) as client:
        answer = await client.get("/ops/chat/", params={"token": TOKEN})
        assert "path=" not in answer.headers["set-cookie"].lower()
        assert (await client.get("/ops/chat/live/data/x")).text == DATA
