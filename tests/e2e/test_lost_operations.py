"""What was to be stored and never was: calls that never ran, and files that a storage has lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from chainlit_otel.testing import Visitor
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

OPERATIONS = "chainlit_data_layer_operations_total"

# What Chainlit's own client for S3 imports; its bucket is down for all names that say so.
BOTO3 = """
class Client:
    def put_object(self, Bucket, Key, **_):
        self._ask(Key)

    def delete_object(self, Bucket, Key):
        self._ask(Key)

    def generate_presigned_url(self, method, Params, ExpiresIn):
        self._ask(Params["Key"])
        return "https://bucket.example/" + Params["Key"]

    def _ask(self, key):
        if "down" in key:
            raise ConnectionError("no bucket")


def client(service, **_):
    return Client()
"""

LAYER = """
import asyncio
import json

from chainlit.data.base import BaseDataLayer
from chainlit.data.storage_clients.s3 import S3StorageClient


async def nothing(*args, **kwargs):
    return None


Base = type(
    "Base",
    (BaseDataLayer,),
    {name: nothing for name in BaseDataLayer.__abstractmethods__},
)


def note(operation, outcome):
    with open("calls", "a") as out:
        out.write(json.dumps([operation, outcome]) + "\\n")


class Store(Base):
    def __init__(self):
        self.storage_client = S3StorageClient("bucket")

    async def create_step(self, step):
        await asyncio.sleep(0.01)
        note("create_step", "ok")

    async def create_element(self, element):
        key = element.name
        await self.storage_client.upload_file(object_key=key, data=element.content)
        note("create_element", "error" if "down" in key else "ok")

    async def delete_element(self, element_id, thread_id=None):
        await self.storage_client.delete_file(element_id)
        note("delete_element", "error" if "down" in element_id else "ok")

    async def get_element(self, thread_id, element_id):
        await self.storage_client.get_read_url(element_id)
        note("get_element", "error" if "down" in element_id else "ok")
"""

APP = """
import asyncio
import gc
import threading

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.data import get_data_layer
from store import Store, note


@cl.data_layer
def layer():
    return Store()


def in_a_loop_of_its_own():
    # Whatever the event loop of the app is like, this one ends, and its tasks with it.
    loop = asyncio.SelectorEventLoop()
    task = loop.create_task(get_data_layer().create_step({}))
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()


def in_a_loop_that_stops():
    stopped = asyncio.SelectorEventLoop()

    async def ask():
        kept.append(stopped.create_task(get_data_layer().create_step({})))
        await asyncio.sleep(0)

    stopped.run_until_complete(ask())
    kept.append(stopped)


kept = []


@cl.on_message
async def on_message(message):
    store = get_data_layer()
    if message.content == "lose":
        thread = threading.Thread(target=in_a_loop_of_its_own)
        thread.start()
        await asyncio.to_thread(thread.join)
        note("create_step", "error")
        store.create_step({}).close()
        note("create_step", "error")
        thread = threading.Thread(target=in_a_loop_that_stops)
        thread.start()
        await asyncio.to_thread(thread.join)
        note("create_step", "error")
    elif message.content == "go on":
        # The task of a loop that was stopped may come to its end after all.
        task, loop = kept
        await asyncio.to_thread(loop.run_until_complete, task)
        with open("calls") as calls:
            lines = calls.readlines()
        with open("calls", "w") as calls:
            calls.writelines(lines[:-1])
    else:
        for key in ("up.txt", "down.txt"):
            await store.create_element(cl.Text(name=key, content="content"))
            await store.get_element("thread", key)
            await store.delete_element(key)
    await cl.Message("done").send()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    files = {"app.py": APP, "store.py": LAYER, "boto3.py": BOTO3}
    with ChainlitServer(files) as server:
        yield server


def expected(server: ChainlitServer) -> dict[tuple[str, str], int]:
    calls = [json.loads(line) for line in server.read("calls").splitlines()]
    return {
        (operation, outcome): sum(call == [operation, outcome] for call in calls)
        for operation in ("create_step", "create_element", "get_element", "delete_element")
        for outcome in ("ok", "error", "cancelled")
    }


def counted(scrape: Scrape) -> dict[tuple[str, str], float]:
    return {
        (operation, outcome): scrape.value(
            OPERATIONS,
            chainlit_data_layer_operation=operation,
            chainlit_data_layer_name="Store",
            chainlit_outcome=outcome,
        )
        for operation in ("create_step", "create_element", "get_element", "delete_element")
        for outcome in ("ok", "error", "cancelled")
    }


async def reported(server: ChainlitServer, text: str) -> None:
    visitor = Visitor(server.url)
    await visitor.connect()
    await visitor.say(text)
    await visitor.leave(clear=True)


async def agree(server: ChainlitServer) -> None:
    def do_agree() -> bool:
        return counted(server.scrape()) == expected(server)

    await asyncio.to_thread(wait_until, do_agree, 60, "the same figures")


async def test_what_was_called_and_never_ran_is_an_error(server: ChainlitServer) -> None:
    await reported(server, "lose")
    await agree(server)
    assert expected(server)["create_step", "error"] == 3
    assert server.log.count("create_step of Store was called and never ran to its end") == 1
    # Only what runs has a duration.
    scrape = server.scrape()
    assert (
        scrape.sum("chainlit_data_layer_operation_duration_seconds_count", chainlit_outcome="error")
        == expected(server)["create_element", "error"]
    )
    await reported(server, "go on")
    await agree(server)
    assert expected(server)["create_step", "error"] == 3
    assert server.scrape().sum("chainlit_otel_internal_errors_total") == 0


async def test_what_a_storage_has_lost_is_an_error(server: ChainlitServer) -> None:
    before = expected(server)
    await reported(server, "store")
    await agree(server)
    after = expected(server)
    for operation in ("create_element", "get_element", "delete_element"):
        assert after[operation, "error"] == before[operation, "error"] + 1
        assert after[operation, "ok"] == before[operation, "ok"] + 1
    assert server.scrape().sum("chainlit_otel_internal_errors_total") == 0
