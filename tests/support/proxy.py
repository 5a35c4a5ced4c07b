"""A proxy without stickiness: each connection goes to the next server, whoever it is from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType


class RoundRobin:
    """Passes bytes on between its clients and the servers, in turn.

    Args:
        ports: ports of the servers on the loopback interface.

    Attributes:
        turns: the port that each connection went to, oldest first.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.turns: list[int] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        if self._server is None:
            raise RuntimeError("the proxy was not started")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> RoundRobin:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """End all connections at once, as a proxy does that reads its configuration again."""
        for connection in self._connections:
            connection.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self._ports[len(self.turns) % len(self._ports)]
        self.turns.append(port)
        connection = asyncio.create_task(self._serve(reader, writer, port))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
        finally:
            writer.close()
            back.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
