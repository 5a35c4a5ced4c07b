"""`/healthz` waits for no metrics, and metrics that cannot be read are an answer, too."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from chainlit_otel.guard import Guard
from chainlit_otel.server.app import admin_app
from chainlit_otel.server.metrics import MetricsEndpoint
from chainlit_otel.server.sharing import SharedPages
from tests.conftest import InternalErrors
from tests.server.test_sharing import Counting


def endpoint_of(collector: Counting) -> MetricsEndpoint:
    endpoint = MetricsEndpoint(None, None, Guard("server"), lambda _: ())
    endpoint._not_served_here = False
    endpoint._pages = SharedPages(collector)
    return endpoint


async def test_healthz_answers_while_the_metrics_are_being_read() -> None:
    collector = Counting()
    app = admin_app(endpoint_of(collector), lambda: {"status": "ok"})
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        metrics = asyncio.ensure_future(client.get("/metrics"))
        await asyncio.to_thread(collector.reading.wait, 30)
        health = await client.get("/healthz")
        assert not metrics.done()
        collector.goes_on.set()
        assert "readings 1.0" in (await metrics).text
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


async def test_metrics_that_cannot_be_read(expected_internal_errors: InternalErrors) -> None:
    collector = Counting()
    collector.goes_on.set()
    collector.error = SystemExit(1)
    transport = httpx.ASGITransport(endpoint_of(collector))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        failed = await client.get("/metrics")
        collector.error = None
        well = await client.get("/metrics")
    assert failed.status_code == 500
    assert failed.text.startswith("The metrics could not be read")
    assert (well.status_code, "readings 2.0" in well.text) == (200, True)
    assert [probe for probe, _ in expected_internal_errors] == ["server"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("Bearer s3cret", 200),
        ("Bearer s3cre", 401),
        ("Bearer s3cret2", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        ("s3cret", 401),
        (None, 401),
    ],
)
async def test_a_token_is_the_whole_token(sent: str | None, status: int) -> None:
    endpoint = MetricsEndpoint(None, "s3cret", Guard("server"), lambda _: ())
    headers = {} if sent is None else {"Authorization": sent}
    transport = httpx.ASGITransport(endpoint)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/metrics", headers=headers)).status_code == status
