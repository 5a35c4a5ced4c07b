"""FastAPI's own telemetry, in a real application that nobody has instrumented."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from chainlit_otel.pipeline.tracer_provider import OurTracerProvider


def test_a_span_of_fastapi_itself_has_nothing_that_a_client_made_up() -> None:
    reported = InMemorySpanExporter()
    provider = OurTracerProvider(Resource({}), SpanLimits())
    provider.add_span_processor(SimpleSpanProcessor(reported))
    app: Any = FastAPI(telemetry={"tracer_provider": provider})

    @app.get("/user/{name}")
    async def user(name: str) -> dict[str, str]:
        raise LookupError("CANARYerror")

    async def ask() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"User-Agent": "CANARYagent", "Referer": "http://CANARYreferer"}
        async with httpx.AsyncClient(transport=transport, headers=headers) as client:
            url = "http://canary-host/user/CANARYname?prompt=CANARYprompt&CANARYkey=1&limit=2"
            assert (await client.get(url)).status_code == 500
            assert (await client.request("CANARYMETHOD", url)).status_code == 405
            assert (await client.get("http://canary-host/CANARYabsent")).status_code == 404

    asyncio.run(ask())
    spans = {span.name: span for span in reported.get_finished_spans()}
    assert "canary" not in "".join(span.to_json() for span in spans.values()).lower()
    request = spans["GET /user/{name}"]
    assert request.attributes is not None
    assert dict(request.attributes) == {
        "url.scheme": "http",
        "http.request.method": "GET",
        "network.protocol.version": "1.1",
        "url.query": "prompt=REDACTED&REDACTED=REDACTED&limit=2",
        "http.route": "/user/{name}",
        "http.response.status_code": 500,
        "error.type": "LookupError",
    }
    assert {"fastapi.endpoint", "GET"} <= set(spans)


def test_spans_of_others_are_left_alone() -> None:
    reported = InMemorySpanExporter()
    provider = OurTracerProvider(Resource({}), SpanLimits())
    provider.add_span_processor(SimpleSpanProcessor(reported))
    provider.get_tracer("app").start_span("own", attributes={"url.query": "a=b"}).end()
    (span,) = reported.get_finished_spans()
    assert dict(span.attributes or {}) == {"url.query": "a=b"}
