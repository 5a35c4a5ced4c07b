"""APIs of models without a model: fixed words, tool calls, and a ledger of the tokens reported.

For trying an app, or what watches it, with the real client libraries:

    with ModelApi() as api:
        client = AsyncOpenAI(base_url=api.openai_url, api_key="none")
        ...
        assert api.of("visitor-7") == ...

or by `python -m chainlit_otel.testing.models --port 8009`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

WORDS = ("In ", "a ", "word: ", "yes.")
# What a model is called in answers, as providers do.
RELEASES = {
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}
_MARK = re.compile(r"#([\w-]+)")
_Event = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class ModelAnswer:
    """One answer of the stub, as its API reported it.

    Attributes:
        mark: the last word after a `#` in the messages that were sent; empty if there was none.
        api: `chat`, `responses`, `messages` or `embeddings`.
        model: the name that the answer gave, with the date of its release.
        streamed: whether it came in pieces.
        counted: whether the tokens were reported; if not, the counts are those that it withheld.
        input_tokens: all of the input, that from a cache and that written to one included.
        output_tokens: all of the output, reasoning included.
        cache_read_tokens: those of the input that came from a cache.
        cache_write_tokens: those of the input that were written to one; Anthropic's API only.
        reasoning_tokens: those of the output that were reasoning; not by Anthropic's API.
    """

    mark: str
    api: str
    model: str
    streamed: bool
    counted: bool
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class ModelApi:
    """OpenAI's chat completions, responses and embeddings, Azure's flavour, Anthropic's messages.

    Whoever is offered tools calls each of them once, in one go, and answers in fixed words
    when it is given what they returned. A model whose name ends in `-uncounted` reports no tokens;
    a streamed chat completion does only when asked by `stream_options`, unless the model's name
    begins with `mistral`, as that provider always does. No two answers have the same counts.

    Args:
        port: where to listen on the loopback interface; 0 for any free port.
        pause: seconds before each piece of an answer.
        seed: decides on the counts.

    Attributes:
        ledger: each answer so far, in the order of the requests.
        origin: where it answers: the base URL of Anthropic's client, the endpoint of Azure's.
        openai_url: the base URL of OpenAI's client.
    """

    def __init__(self, port: int = 0, *, pause: float = 0.0, seed: int = 1) -> None:
        self.ledger: list[ModelAnswer] = []
        self._pause = pause
        self._random = random.Random(seed)
        self._lock = Lock()
        api = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._whole([asdict(answer) for answer in api.ledger])

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                path = self.path.partition("?")[0].rstrip("/")
                asked = _READERS.get(path.rpartition("/")[2])
                if asked is None:
                    self._whole({"error": {"message": f"no such API: {path}"}}, 404)
                    return
                answer = asked(body, "/deployments/" in path)
                written = api._write(answer)
                if body.get("stream"):
                    self._pieces(answer.events(written))
                else:
                    time.sleep(api._pause)
                    self._whole(answer.whole(written))

            def _whole(self, body: object, status: int = 200) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def _pieces(self, events: Iterable[_Event | str]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for event in events:
                    time.sleep(api._pause)
                    if isinstance(event, str):
                        text = f"data: {event}\n\n"
                    else:
                        name, data = event
                        line = f"event: {name}\n" if name else ""
                        text = f"{line}data: {json.dumps(data)}\n\n"
                    try:
                        self.wfile.write(text.encode())
                    except (BrokenPipeError, ConnectionResetError):
                        return

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Answering)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.openai_url = f"{self.origin}/v1"

    def __enter__(self) -> ModelApi:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Answer no longer."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def of(self, mark: str) -> list[ModelAnswer]:
        """The answers to those who sent this mark."""
        with self._lock:
            return [answer for answer in self.ledger if answer.mark == mark]

    def _write(self, answer: _Answer) -> ModelAnswer:
        with self._lock:
            # Each above all before it: whatever two answers' counts add up to is no third's.
            base = 100 * 2 ** (len(self.ledger) % 12)
            cached, written = self._random.randrange(10, 40), self._random.randrange(10, 40)
            reasoning = self._random.randrange(1, 20)
            anthropic = answer.api == "messages"
            entry = ModelAnswer(
                answer.mark,
                answer.api,
                answer.model,
                answer.streamed,
                answer.counted,
                input_tokens=base + self._random.randrange(100),
                output_tokens=20 + self._random.randrange(1000),
                cache_read_tokens=cached,
                cache_write_tokens=written if anthropic else 0,
                reasoning_tokens=0 if anthropic else reasoning,
            )
            if answer.api == "embeddings":
                entry = replace(entry, output_tokens=0, cache_read_tokens=0, reasoning_tokens=0)
            self.ledger.append(entry)
            return entry


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _arguments(schema: dict[str, Any], mark: str) -> dict[str, object]:
    """What a tool is called with: the mark in each text, so that agents below it carry it on."""
    values: dict[str, object] = {"integer": 1, "number": 1, "boolean": True, "array": []}
    return {
        name: values.get(kind.get("type", ""), f"about #{mark}")
        for name, kind in (schema.get("properties") or {}).items()
        if name in schema.get("required", ())
    }


class _Answer:
    """What is sent to one request, whole or in pieces."""

    api = ""

    def __init__(self, body: dict[str, Any], azure: bool) -> None:
        model = body.get("model", "gpt-4o-mini")
        self.azure = azure
        self.model = RELEASES.get(model, model)
        self.streamed = bool(body.get("stream"))
        sent = body.get("input") or body.get("messages") or []
        marks = [mark for text in _texts(sent) for mark in _MARK.findall(text)]
        self.mark = marks[-1] if marks else ""
        self.counted = not model.endswith("-uncounted")
        self.calls: list[tuple[str, str]] = []
        if not (isinstance(sent, list) and sent and self._answers_a_tool(sent[-1])):
            self.calls = [
                (name, json.dumps(_arguments(schema, self.mark)))
                for name, schema in self._tools(body.get("tools") or [])
            ]

    def _answers_a_tool(self, last: Any) -> bool:
        return False

    def _tools(self, tools: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from ()

    def whole(self, entry: ModelAnswer) -> dict[str, Any]:
        raise NotImplementedError

    def events(self, entry: ModelAnswer) -> Iterator[_Event | str]:
        raise NotImplementedError


class _Chat(_Answer):
    api = "chat"

    def __init__(self, body: dict[str, Any], azure: bool) -> None:
        super().__init__(body, azure)
        if self.streamed and not self.model.startswith("mistral"):
            asked = (body.get("stream_options") or {}).get("include_usage")
            self.counted = self.counted and bool(asked)

    def _answers_a_tool(self, last: dict[str, Any]) -> bool:
        return bool(last["role"] == "tool")

    def _tools(self, tools: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for tool in tools:
            yield tool["function"]["name"], tool["function"].get("parameters") or {}

    def whole(self, entry: ModelAnswer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(WORDS)}
        if self.calls:
            message = {"role": "assistant", "content": None, "tool_calls": self._tool_calls()}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self._finish(),
        }
        usage = {"usage": self._usage(entry)} if self.counted else {}
        return {**self._head("chat.completion"), "choices": [choice], **usage}

    def events(self, entry: ModelAnswer) -> Iterator[_Event | str]:
        head = self._head("chat.completion.chunk")
        # A chunk says `null` where the last one is going to say it.
        pending = {"usage": None} if self.counted else {}
        if self.azure:
            yield "", {**head, "choices": [], "prompt_filter_results": [], **pending}
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if self.calls:
            deltas += [
                {"tool_calls": [{**call, "index": index}]}
                for index, call in enumerate(self._tool_calls())
            ]
        else:
            deltas += [{"content": word} for word in WORDS]
        for delta in deltas:
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            yield "", {**head, "choices": [choice], **pending}
        ended = {"index": 0, "delta": {}, "finish_reason": self._finish()}
        if self.counted and self.model.startswith("mistral"):
            yield "", {**head, "choices": [ended], "usage": self._usage(entry)}
        else:
            yield "", {**head, "choices": [ended], **pending}
            if self.counted:
                yield "", {**head, "choices": [], "usage": self._usage(entry)}
        yield "[DONE]"

    def _finish(self) -> str:
        return "tool_calls" if self.calls else "stop"

    def _tool_calls(self) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{index}_{name}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for index, (name, arguments) in enumerate(self.calls)
        ]

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{random.randrange(10**12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": "fp_stub",
        }

    def _usage(self, entry: ModelAnswer) -> dict[str, Any]:
        return {
            "prompt_tokens": entry.input_tokens,
            "completion_tokens": entry.output_tokens,
            "total_tokens": entry.input_tokens + entry.output_tokens,
            "prompt_tokens_details": {"cached_tokens": entry.cache_read_tokens},
            "completion_tokens_details": {"reasoning_tokens": entry.reasoning_tokens},
        }


class _Response(_Answer):
    api = "responses"

    def _answers_a_tool(self, last: dict[str, Any]) -> bool:
        return bool(last.get("type") == "function_call_output")

    def _tools(self, tools: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for tool in tools:
            if tool["type"] == "function":
                yield tool["name"], tool.get("parameters") or {}

    def whole(self, entry: ModelAnswer) -> dict[str, Any]:
        return self._body(entry, "completed", self._items())

    def events(self, entry: ModelAnswer) -> Iterator[_Event | str]:
        body = self._body(entry, "in_progress", [])
        happened: list[dict[str, Any]] = [
            {"type": "response.created", "response": body},
            {"type": "response.in_progress", "response": body},
        ]
        for index, item in enumerate(self._items()):
            at = {"output_index": index, "item_id": item["id"]}
            begun = {**item, "status": "in_progress"}
            happened.append({"type": "response.output_item.added", **at, "item": begun})
            if item["type"] == "message":
                part = {"type": "output_text", "text": "", "annotations": []}
                text = {**at, "content_index": 0}
                full = "".join(WORDS)
                done = {"type": "output_text", "text": full, "annotations": []}
                happened += [
                    {"type": "response.content_part.added", **text, "part": part},
                    *(
                        {"type": "response.output_text.delta", **text, "delta": w, "logprobs": []}
                        for w in WORDS
                    ),
                    {"type": "response.output_text.done", **text, "text": full, "logprobs": []},
                    {"type": "response.content_part.done", **text, "part": done},
                ]
            else:
                kind = "response.function_call_arguments"
                arguments = item["arguments"]
                happened += [
                    {"type": f"{kind}.delta", **at, "delta": arguments},
                    {"type": f"{kind}.done", **at, "arguments": arguments, "name": item["name"]},
                ]
            happened.append({"type": "response.output_item.done", **at, "item": item})
        whole = {**self.whole(entry), "id": body["id"]}
        happened.append({"type": "response.completed", "response": whole})
        for number, event in enumerate(happened):
            yield event["type"], {**event, "sequence_number": number}

    def _items(self) -> list[dict[str, Any]]:
        if self.calls:
            return [
                {
                    "id": f"fc_{index}",
                    "call_id": f"call_{index}_{name}",
                    "type": "function_call",
                    "status": "completed",
                    "name": name,
                    "arguments": arguments,
                }
                for index, (name, arguments) in enumerate(self.calls)
            ]
        content = {"type": "output_text", "text": "".join(WORDS), "annotations": []}
        return [
            {
                "id": "msg_0",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [content],
            }
        ]

    def _body(self, entry: ModelAnswer, status: str, items: list[Any]) -> dict[str, Any]:
        usage = {
            "input_tokens": entry.input_tokens,
            "input_tokens_details": {
                "cached_tokens": entry.cache_read_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": entry.output_tokens,
            "output_tokens_details": {"reasoning_tokens": entry.reasoning_tokens},
            "total_tokens": entry.input_tokens + entry.output_tokens,
        }
        return {
            "id": f"resp_{random.randrange(10**12)}",
            "object": "response",
            "created_at": int(time.time()),
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self.model,
            "output": items,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": usage if self.counted and status == "completed" else None,
        }


class _Message(_Answer):
    api = "messages"

    def _answers_a_tool(self, last: dict[str, Any]) -> bool:
        content = last["content"]
        return isinstance(content, list) and any(p["type"] == "tool_result" for p in content)

    def _tools(self, tools: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for tool in tools:
            yield tool["name"], tool["input_schema"]

    def whole(self, entry: ModelAnswer) -> dict[str, Any]:
        blocks: list[dict[str, Any]] = [{"type": "text", "text": "".join(WORDS)}]
        if self.calls:
            blocks = [
                {
                    "type": "tool_use",
                    "id": f"toolu_{index}_{name}",
                    "name": name,
                    "input": json.loads(arguments),
                }
                for index, (name, arguments) in enumerate(self.calls)
            ]
        return {
            **self._head(),
            "content": blocks,
            "stop_reason": self._stop(),
            "usage": self._usage(entry, entry.output_tokens),
        }

    def events(self, entry: ModelAnswer) -> Iterator[_Event | str]:
        # The count of the output at the start is provisional: the last one is the truth.
        head = {**self._head(), "content": [], "usage": self._usage(entry, 1)}
        happened: list[dict[str, Any]] = [{"type": "message_start", "message": head}]
        for index, block in enumerate(self.whole(entry)["content"]):
            if block["type"] == "text":
                begun = {**block, "text": ""}
                deltas = [{"type": "text_delta", "text": word} for word in WORDS]
            else:
                begun = {**block, "input": {}}
                arguments = json.dumps(block["input"])
                deltas = [{"type": "input_json_delta", "partial_json": arguments}]
            happened.append({"type": "content_block_start", "index": index, "content_block": begun})
            happened += [
                {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
            ]
            happened.append({"type": "content_block_stop", "index": index})
        happened += [
            {
                "type": "message_delta",
                "delta": {"stop_reason": self._stop(), "stop_sequence": None},
                "usage": {"output_tokens": entry.output_tokens if self.counted else 0},
            },
            {"type": "message_stop"},
        ]
        for event in happened:
            yield event["type"], event

    def _stop(self) -> str:
        return "tool_use" if self.calls else "end_turn"

    def _head(self) -> dict[str, Any]:
        return {
            "id": f"msg_{random.randrange(10**12)}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _usage(self, entry: ModelAnswer, output: int) -> dict[str, Any]:
        if not self.counted:
            return {"input_tokens": 0, "output_tokens": 0}
        # What a cache held, or holds from now on, is not in the input here.
        cached = entry.cache_read_tokens + entry.cache_write_tokens
        return {
            "input_tokens": entry.input_tokens - cached,
            "cache_creation_input_tokens": entry.cache_write_tokens,
            "cache_read_input_tokens": entry.cache_read_tokens,
            "output_tokens": output,
        }


class _Embeddings(_Answer):
    api = "embeddings"

    def __init__(self, body: dict[str, Any], azure: bool) -> None:
        super().__init__(body, azure)
        sent = body.get("input")
        self.inputs = len(sent) if isinstance(sent, list) else 1

    def whole(self, entry: ModelAnswer) -> dict[str, Any]:
        usage = {"prompt_tokens": entry.input_tokens, "total_tokens": entry.input_tokens}
        vectors = [
            {"object": "embedding", "index": index, "embedding": [0.6, 0.8]}
            for index in range(self.inputs)
        ]
        return {
            "object": "list",
            "data": vectors,
            "model": self.model,
            **({"usage": usage} if self.counted else {}),
        }


_READERS: dict[str, type[_Answer]] = {
    "embeddings": _Embeddings,
    "completions": _Chat,
    "responses": _Response,
    "messages": _Message,
}


def main() -> None:
    """Answer until Ctrl-C; a GET of any path gives the ledger as JSON."""
    parser = argparse.ArgumentParser(description="An API of models without a model.")
    parser.add_argument("--port", type=int, default=8009)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds before each piece")
    options = parser.parse_args()
    with ModelApi(options.port, pause=options.pause) as api:
        print(f"OpenAI: {api.openai_url}  Anthropic: {api.origin}", flush=True)  # noqa: T201
        with suppress(KeyboardInterrupt):
            api._thread.join()


if __name__ == "__main__":
    main()
