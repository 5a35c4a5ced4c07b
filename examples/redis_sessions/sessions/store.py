"""Sessions in Redis: create, read, update, delete, list; safe with many writers at once.

A session is one Redis hash. Its document is replaced as a whole, and only if nobody has replaced it
meanwhile: every write leaves a token of its own, and a script compares before it sets. A lock would
have to outlive its holder; here a writer that dies leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

Document = dict[str, Any]

_FIELDS = ("version", "token", "owner", "created", "data")
_PAGE = 50
_PAUSE = 0.002  # seconds, doubled with every conflict
_LONGEST_PAUSE = 0.1
_REMEMBERED = 24 * 60 * 60 * 1000  # milliseconds

# KEYS: the session; the sessions of its owner.
# ARGV: the token that was read; the token to leave; id, owner, created, data; time to live; what a
# key begins with.
# A write that comes twice, because the line broke before the answer, finds its own token.
# Redis lets a hash expire, but not its entry in a sorted set: each write removes one left over.
_WRITE = """
if redis.call('HEXISTS', KEYS[1], 'deleted') == 1 then return -1 end
local token = redis.call('HGET', KEYS[1], 'token') or ''
if token == ARGV[2] then return 1 end
if token ~= ARGV[1] then return 0 end
redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'owner', ARGV[4], 'created', ARGV[5], 'data', ARGV[6])
if ARGV[4] ~= '' then redis.call('ZADD', KEYS[2], ARGV[5], ARGV[3]) end
if ARGV[7] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if oldest and redis.call('EXISTS', ARGV[8] .. oldest) == 0 then
    redis.call('ZREM', KEYS[2], oldest)
  end
end
return 1
"""


# KEYS as above. ARGV: id; how long it is remembered that the session was deleted.
_DELETE = """
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'deleted', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""


class Conflict(RedisError):
    """Others have changed the session each time before this change could be written."""


class Exists(RedisError):
    """There is a session with this id already."""


class Deleted(LookupError):
    """The session was deleted; what is still on its way to it must not bring it back."""


@dataclass(frozen=True)
class Session:
    """A session as it was when it was read.

    Attributes:
        id: Its id.
        version: How often it was written.
        token: What the last writer left; another one means that the session has changed.
        owner: The id of the user whom it belongs to; empty if nobody has claimed it yet.
        created: When it was created, in microseconds since 1970.
        data: Its document; for reading only.
    """

    id: str
    version: int
    token: str
    owner: str
    created: int
    data: Document


Change = Callable[[Session | None], tuple[str, Document]]
"""Given the session, or None if there is none, returns the owner and the document to write.

It may run several times, on what others have written meanwhile. What it raises ends the update.
"""


class SessionStore:
    """The sessions of one kind.

    Every method raises `redis.exceptions.RedisError` when Redis cannot be asked.

    Args:
        redis: A client with `decode_responses`.
        kind: The first part of every key.
        ttl: Seconds until a session that nobody writes to is gone; 0 keeps it for ever.
        attempts: How often an update is tried before it is a `Conflict`.
    """

    def __init__(self, redis: Redis, kind: str, *, ttl: float = 0, attempts: int = 50) -> None:
        self._redis = redis
        self._kind = kind
        self._ttl = int(ttl * 1000)
        self._attempts = attempts

    def key(self, id: str) -> str:
        """The key of a session."""
        return f"{self._kind}:{id}"

    def owner_key(self, owner: str) -> str:
        """The key of the sorted set of somebody's sessions, by the time of their creation."""
        return f"{self._kind}s-of:{owner}"

    async def create(self, id: str, owner: str, created: int, data: Document) -> Session:
        """Write a session that must not exist.

        Raises:
            Exists: there is one with this id.
            Deleted: there was one, not longer than a day ago.
        """
        session = await self._write(None, id, owner, created, data)
        if session is None:
            raise Exists(id)
        return session

    async def read(self, id: str) -> Session | None:
        """The session as it is now; None if there is none."""
        fields = await self._redis.hmget(self.key(id), _FIELDS)
        return parse(id, cast("list[str | None]", fields))

    async def update(self, id: str, created: int, change: Change) -> Session:
        """Read the session, change it and write it back, again if somebody was faster.

        A change that changes nothing is not written.

        Args:
            id: The session; it is created if there is none.
            created: The time of creation, if it is created, in microseconds since 1970.
            change: Makes the new document of the old.

        Raises:
            Conflict: somebody else was faster every time.
            Deleted: it was deleted, not longer than a day ago.
        """
        for attempt in range(self._attempts):
            found = await self.read(id)
            owner, data = change(found)
            if found is not None and (owner, data) == (found.owner, found.data):
                return found
            written = await self._write(found, id, owner, found.created if found else created, data)
            if written is not None:
                return written
            # A random pause, or the same writers would meet again.
            await asyncio.sleep(random.uniform(0, min(_PAUSE * 2**attempt, _LONGEST_PAUSE)))
        raise Conflict(f"{self._kind} {id}: changed by others {self._attempts} times in a row")

    async def delete(self, session: Session) -> None:
        """Delete a session with everything in it, whoever may have changed it meanwhile."""
        keys = self.key(session.id), self.owner_key(session.owner)
        await self._redis.eval(_DELETE, 2, *keys, session.id, _REMEMBERED)

    async def sessions_of(
        self, owner: str, after: tuple[int, str] | None = None, redis: Redis | None = None
    ) -> AsyncIterator[Session]:
        """Go through the sessions of an owner, the newest first.

        Sessions that come or go meanwhile shift nobody else's place.

        Args:
            owner: Whose.
            after: Begin behind this one: its `created` and `id`.
            redis: Read here, e.g. on a replica.
        """
        redis = redis or self._redis
        key, offset = self.owner_key(owner), 0
        while True:
            # By place, not by rank: who comes or goes meanwhile must not move the others.
            found = await redis.zrange(
                key,
                "+inf" if after is None else str(after[0]),
                "-inf",
                desc=True,
                byscore=True,
                withscores=True,
                offset=offset,
                num=_PAGE,
            )
            page = [(int(created), id) for id, created in cast("list[tuple[str, float]]", found)]
            behind = [place for place in page if after is None or place < after]
            for session in await self._read_many(redis, [id for _, id in behind]):
                yield session
            if len(page) < _PAGE:
                return
            if behind:
                after, offset = behind[-1], 0
            else:
                offset += len(page)  # more of the same moment than a page holds

    async def _read_many(self, redis: Redis, ids: Sequence[str]) -> list[Session]:
        if not ids:
            return []
        async with redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hmget(self.key(id), _FIELDS)
            found = map(parse, ids, await pipe.execute())
            # One whose time to live is over is still in the sorted set.
            return [session for session in found if session is not None]

    async def _write(
        self, found: Session | None, id: str, owner: str, created: int, data: Document
    ) -> Session | None:
        token = uuid.uuid4().hex
        written = await self._redis.eval(
            _WRITE,
            2,
            *(self.key(id), self.owner_key(owner)),
            *(found.token if found else "", token),
            *(id, owner, created, json.dumps(data), self._ttl, self.key("")),
        )
        if written == -1:
            raise Deleted(f"{self._kind} {id} was deleted")
        if not written:
            return None
        return Session(id, found.version + 1 if found else 1, token, owner, created, data)


def parse(id: str, fields: Sequence[str | None] | Mapping[str, str]) -> Session | None:
    """Make a session of the fields of its hash; None if they are not there."""
    values = [fields.get(name) for name in _FIELDS] if isinstance(fields, Mapping) else fields
    version, token, owner, created, data = values
    if version is None or token is None or owner is None or created is None or data is None:
        return None
    return Session(id, int(version), token, owner, int(created), json.loads(data))
