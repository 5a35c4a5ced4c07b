"""A server that answers as OpenAI's chat completions do, whole or streamed, with fixed words."""

from __future__ import annotations

import json
from typing import Any

from tests.support.local import Handler, LocalServer

WORDS = ("in ", "a ", "word")


class Model(LocalServer):
    """The server, on a free port of the loopback interface.

    Attributes:
        url: what an OpenAI client takes as its base URL.
        asked: path and headers of each request so far.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        model = self

        class Answering(Handler):
            def do_GET(self) -> None:
                self._answer("application/json", b"{}")

            def do_POST(self) -> None:
                body = json.loads(self.body())
                if body.get("stream"):
                    lines = [f"data: {json.dumps(_chunk(word))}\n\n" for word in WORDS]
                    text = "".join([*lines, "data: [DONE]\n\n"])
                    self._answer("text/event-stream", text.encode())
                else:
                    self._answer("application/json", json.dumps(_whole()).encode())

            def _answer(self, kind: str, body: bytes) -> None:
                model.asked.append((self.path, dict(self.headers)))
                self.answer(body, kind)

        super().__init__(Answering)
        self.url = f"{self.origin}/v1"


def _whole() -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(WORDS)}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
    }


def _chunk(word: str) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "stub",
        "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
    }
