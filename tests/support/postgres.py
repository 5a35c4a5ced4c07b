"""A real PostgreSQL server for the tests, which can go away and come back with its data."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import asyncpg

from tests.support.server import free_port

_COMMAND_TIMEOUT = 60
# Debian keeps the programs of each version out of the PATH.
_DEBIAN = Path("/usr/lib/postgresql")
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
}


class Postgres:
    """A cluster of its own in a temporary directory, on a free port of the loopback interface.

    Attributes:
        url: its address, as asyncpg and Chainlit take it.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"postgresql://chat@127.0.0.1:{self.port}/postgres"
        self._directory = Path(tempfile.mkdtemp(prefix="chainlit-otel-test-"))
        self._data = self._directory / "data"

    def __enter__(self) -> Postgres:
        if os.geteuid() == 0:
            shutil.chown(self._directory, _user())
        try:
            self._run("initdb", "-D", self._data, "-U", "chat", "-A", "trust", "--no-sync")
            with (self._data / "postgresql.conf").open("a") as file:
                file.writelines(f"{name} = '{value}'\n" for name, value in _SETTINGS.items())
                file.write(f"port = {self.port}\n")
            self.start()
            self.query("CREATE EXTENSION pg_stat_statements")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self._directory / "log"
        try:
            self._run("pg_ctl", "-D", self._data, "-l", log, "-w", "-t", _COMMAND_TIMEOUT, "start")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.read_text()}") from None

    def stop(self) -> None:
        """Stop it, whoever is connected; the data stays."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def close(self) -> None:
        """Stop it and remove its data."""
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._directory)

    def query(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Run one statement on a connection of its own, and return its rows."""

        async def run() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.url)
            try:
                return [dict(row) for row in await connection.fetch(sql, *values)]
            finally:
                await connection.close()

        return asyncio.run(run())

    def calls(self, like: str) -> int:
        """How often statements like this one have run, as the server counts them."""
        rows = self.query(
            "SELECT coalesce(sum(calls), 0)::int AS calls FROM pg_stat_statements "
            "WHERE query LIKE $1 AND query NOT LIKE '%pg_stat_statements%'",
            like,
        )
        return int(rows[0]["calls"])

    def _run(self, program: str, *arguments: object) -> None:
        command = [_program(program), *map(str, arguments)]
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            user = _user()
            command = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *command]
        done = subprocess.run(
            command,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_TIMEOUT + 10,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout}")


def _program(name: str) -> str:
    found = shutil.which(name)
    versions = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    if not found and not versions:
        raise RuntimeError(f"no {name}: install PostgreSQL, on Debian the package postgresql")
    return found or str(versions[-1])


def _user() -> str:
    """The user that Debian's package makes for the server."""
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise RuntimeError("no user postgres: install PostgreSQL from packages") from None
