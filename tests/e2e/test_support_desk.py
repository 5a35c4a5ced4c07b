"""The support desk as its README tells it: shops, customers in browsers, and a colleague."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chainlit_otel.testing import Visitor
from tests.support.examples import dialogs, follow
from tests.support.http import fetch
from tests.support.otlp import Receiver, Span
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

DESK = Path(__file__).parents[2] / "examples" / "support_desk"
OPERATIONS = "chainlit_data_layer_operations_total"


# Nobody deletes an HTTP session: it ends when Python collects it, which may take its time.
COLLECT = """

@app.get("/collect")
async def collect() -> None:
    __import__("gc").collect()
"""


@pytest.fixture(scope="module")
def server(receiver: Receiver) -> Iterator[ChainlitServer]:
    files = {path.name: path.read_text() for path in DESK.iterdir() if path.is_file()}
    files["main.py"] += COLLECT
    env = {
        "CHAINLIT_AUTH_SECRET": "a secret of thirty-two characters",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.endpoint}/v1/traces",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    command = ["uvicorn", "main:app", "--port", "{port}"]
    with ChainlitServer(files, command=command, env=env, path="/chat") as server:
        yield server


@pytest.fixture
def api(server: ChainlitServer) -> Iterator[httpx.Client]:
    url = server.url.removesuffix("/chat") + "/api"
    # One connection a request: uvicorn holds the last request's context on a kept one.
    headers = {"X-API-Key": "demo", "Connection": "close"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


def begin(api: httpx.Client, customer: str) -> str:
    answer = api.post("/chats", json={"customer": customer, "opening": "Is it your invoice?"})
    assert answer.status_code == 201
    thread = str(answer.json()["thread"])
    assert answer.json()["url"] == f"/chat/thread/{thread}"
    return thread


def say(api: httpx.Client, thread: str, customer: str, text: str) -> str | None:
    body = {"author": customer, "text": text}
    answer = api.post(f"/chats/{thread}/messages", json=body).raise_for_status()
    said: str | None = answer.json()["answer"]
    return said


def hand_over(api: httpx.Client, thread: str, name: str | None) -> None:
    path = f"/chats/{thread}/colleague"
    answer = api.put(path, params={"name": name}) if name else api.delete(path)
    answer.raise_for_status()


def reply(api: httpx.Client, thread: str, name: str, text: str) -> int:
    """Have a colleague write; in how many tabs it shows."""
    answer = api.post(f"/chats/{thread}/replies", json={"author": name, "text": text})
    return int(answer.raise_for_status().json()["tabs"])


def history(api: httpx.Client, thread: str, customer: str, length: int) -> list[tuple[str, str]]:
    """What was said, once that much of it is stored, which takes no one's time."""

    def read() -> list[tuple[str, str]]:
        answer = api.get(f"/chats/{thread}", params={"customer": customer}).raise_for_status()
        return [(line["author"], line["text"].strip()) for line in answer.json()]

    wait_until(lambda: len(read()) >= length, 60, f"{length} messages")
    return read()


async def browser(server: ChainlitServer, customer: str, thread: str) -> Visitor:
    """The customer's browser, signed in and with the chat open."""
    async with httpx.AsyncClient() as client:
        answer = await client.post(
            f"{server.url}/login", data={"username": customer, "password": "demo"}
        )
        assert answer.json() == {"success": True}
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    visitor = Visitor(server.url, headers={"Cookie": cookies})
    visitor.thread_id = thread
    await visitor.connect()
    return visitor


def shown(visitor: Visitor) -> list[str]:
    return [
        event.data["output"].strip()
        for event in visitor.events
        if event.name == "new_message" and event.data["type"] == "assistant_message"
    ]


async def test_a_prepared_chat_goes_on_by_api_and_in_the_browser_and_is_handed_over(
    server: ChainlitServer, api: httpx.Client
) -> None:
    thread = begin(api, "ada")
    refund = "A refund takes five working days. I can hand you over to a colleague for that."
    assert (say(api, thread, "ada", "A refund, please") or "").strip() == refund
    said = [
        ("Assistant", "Is it your invoice?"),
        ("ada", "A refund, please"),
        ("Assistant", refund),
    ]
    assert history(api, thread, "ada", 3) == said

    visitor = await browser(server, "ada", thread)
    resumed: list[Any] = []

    def is_resumed() -> bool:
        resumed[:] = [event.data for event in visitor.events if event.name == "resume_thread"]
        return bool(resumed)

    await visitor.until(is_resumed, "the thread")
    assert [
        step["output"].strip() for step in resumed[0]["steps"] if step["type"].endswith("message")
    ] == [text for _, text in said]
    assert "Forgot password" in "".join((await visitor.say("and my password?")).texts)

    hand_over(api, thread, "grace")
    assert say(api, thread, "ada", "Are you human?") is None
    assert (await visitor.say("Hello?")).texts == []
    assert reply(api, thread, "grace", "I will see to it.") == 1
    await visitor.until(lambda: "I will see to it." in shown(visitor), "the colleague's words")
    await visitor.leave()
    await asyncio.to_thread(
        wait_until,
        lambda: server.scrape().sum("chainlit_connection_active") == 0,
        10,
        "the browser to be gone",
    )

    assert reply(api, thread, "grace", "Are you there?") == 0
    hand_over(api, thread, None)
    assert "Invoices are" in (say(api, thread, "ada", "The invoice?") or "")
    authors = [author for author, _ in history(api, thread, "ada", 11)]
    assert authors.count("grace") == 2
    assert authors.count("Assistant") == 4


def test_nobody_gets_a_chat_that_is_not_theirs(server: ChainlitServer, api: httpx.Client) -> None:
    thread = begin(api, "eve")
    before = server.scrape()
    other = api.get(f"/chats/{thread}", params={"customer": "mallory"})
    unknown = api.get("/chats/nothing", params={"customer": "eve"})
    url = api.build_request("GET", f"/chats/{thread}", params={"customer": "eve"}).url
    keyless = fetch(url)
    assert [answer.status_code for answer in (other, unknown, keyless)] == [404, 404, 401]
    after = server.scrape()

    def denied(method: str) -> float:
        labels = {"chainlit_access_method": method, "chainlit_access_result": "denied"}
        name = "chainlit_access_attempts_total"
        return after.sum(name, **labels) - before.sum(name, **labels)

    assert (denied("thread"), denied("header")) == (2, 1)
    reasons = after.sum("chainlit_access_denials_total", error_type="another customer's chat")
    assert reasons == 2


def test_one_trace_goes_from_the_request_to_the_database(
    server: ChainlitServer, api: httpx.Client, receiver: Receiver
) -> None:
    thread = begin(api, "grace")
    say(api, thread, "grace", "The invoice?")

    def request() -> list[Span]:
        """The spans of the request that asked for an answer."""
        for span in receiver.spans:
            if span.name.startswith("chainlit.step run") and (
                span.attributes.get("gen_ai.conversation.id") == thread
                or any(thread in str(s.attributes) for s in receiver.spans if s.trace == span.trace)
            ):
                return [s for s in receiver.spans if s.trace == span.trace]
        return []

    def complete() -> bool:
        ids, parents = {s.id for s in request()}, {s.parent for s in request()}
        stored = sum(s.name == "chainlit.data_layer create_step" for s in request())
        return stored >= 3 and parents - ids == {""}

    wait_until(complete, 60, "the spans")
    spans = {span.id: span for span in request()}
    (root,) = (span for span in spans.values() if not span.parent)
    assert root.name.startswith("POST /api/chats/{thread}/messages")
    names = {span.name for span in spans.values()}
    assert {"chainlit.step run answer", "chainlit.step retrieval look_up"} <= names
    assert {"chainlit.data_layer get_thread", "chainlit.data_layer create_step"} <= names
    (step,) = (span for span in spans.values() if span.name == "chainlit.step retrieval look_up")
    assert spans[step.parent].name == "chainlit.step run answer"


def test_all_of_it_is_in_the_metrics(server: ChainlitServer, api: httpx.Client) -> None:
    thread = begin(api, "alan")
    fetch(server.url.removesuffix("/chat") + "/collect").raise_for_status()
    wait_until(
        lambda: (
            server.scrape().sum("chainlit_session_starts_total", chainlit_session_type="http")
            == server.scrape().sum("chainlit_session_ends_total", chainlit_session_type="http")
        ),
        60,
        "the HTTP sessions to end",
    )
    scrape = server.scrape()
    read = {"chainlit_data_layer_operation": "get_thread", "chainlit_outcome": "ok"}
    before = scrape.sum(OPERATIONS, **read)
    for _ in range(5):
        api.get(f"/chats/{thread}", params={"customer": "alan"}).raise_for_status()
    assert server.scrape().sum(OPERATIONS, **read) == before + 5
    assert scrape.sum(OPERATIONS, chainlit_outcome="error") == 0
    assert scrape.sum("chainlit_otel_internal_errors_total") == 0


def test_the_assistant_knows_its_manual(server: ChainlitServer) -> None:
    assert dialogs("support_desk") == ["manual", "unknown"]
    for dialog in dialogs("support_desk"):
        follow(server.url, "support_desk", dialog)
