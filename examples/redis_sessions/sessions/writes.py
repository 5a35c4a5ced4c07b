"""Writes in batches: what arrives while one batch is on its way makes up the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError


class Overloaded(RedisError):
    """Too many writes wait already; this one was not taken."""


class _Write(NamedTuple):
    script: str
    keys: Sequence[str]
    arguments: Sequence[str | int]
    done: asyncio.Future[Any]


class BatchWriter:
    """Runs scripts on Redis, in the order in which they came, many of them in one round trip.

    A write returns when Redis has it, and raises what Redis said to it: nothing is reported as
    done that is only on its way. One connection does, whatever the number of writers.

    Args:
        redis: The client.
        at_once: The most writes in one batch.
        waiting: The most writes that may wait. More of them means that Redis does not keep up, and
            memory is not the place for them.
    """

    def __init__(self, redis: Redis, *, at_once: int = 100, waiting: int = 1000) -> None:
        self._redis = redis
        self._at_once = at_once
        self._queue: asyncio.Queue[_Write] = asyncio.Queue(waiting)
        self._sender: asyncio.Task[None] | None = None
        self._closed = False
        self.batches = 0

    @property
    def waiting(self) -> int:
        """How many writes wait for their batch."""
        return self._queue.qsize()

    async def run(self, script: str, keys: Sequence[str], *arguments: str | int) -> Any:
        """Run a script and return its answer.

        A caller that is cancelled leaves before the answer; the script may run all the same.

        Raises:
            Overloaded: too many wait already.
            RedisError: Redis cannot be reached or refused; or this writer is closed.
        """
        if self._closed:
            raise RedisError("the writer is closed")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            # Before anything is awaited, so that the order of calls is the order of writes.
            self._queue.put_nowait(_Write(script, keys, arguments, done))
        except asyncio.QueueFull:
            raise Overloaded(f"{self.waiting} writes wait already") from None
        if self._sender is None:
            # In no caller's context: batches belong to nobody's session, nor to anybody's trace.
            self._sender = Context().run(asyncio.create_task, self._send_all())
        return await done

    async def close(self) -> None:
        """Take no more writes, and wait until those that came are done or have failed."""
        self._closed = True
        if self._sender is not None:
            await self._queue.join()
            self._sender.cancel()
            await asyncio.wait({self._sender})

    async def _send_all(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._at_once and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            answers = await self._send(batch)
            for write, answer in zip(batch, answers, strict=True):
                _settle(write.done, answer)
                self._queue.task_done()

    async def _send(self, batch: Sequence[_Write]) -> Sequence[Any]:
        self.batches += 1
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for write in batch:
                    # The text instead of its hash: a Redis that was restarted knows no hash.
                    pipe.eval(write.script, len(write.keys), *write.keys, *write.arguments)
                answers: list[Any] = await pipe.execute(raise_on_error=False)
                return answers
        except asyncio.CancelledError:
            for write in batch:
                write.done.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it goes to those who wait for the batch
            return [error] * len(batch)


def _settle(done: asyncio.Future[Any], answer: Any) -> None:
    if done.done():
        return  # the caller was cancelled
    if isinstance(answer, Exception):
        done.set_exception(answer)
    else:
        done.set_result(answer)
