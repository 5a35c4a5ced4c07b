"""What was said in a session: steps, elements and feedback, as fields of the session's hash.

So one key expires, one is deleted, and one read brings the whole conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from redis.asyncio import Redis

from .store import Deleted, Document, Session, SessionStore, parse
from .writes import BatchWriter

# Every script begins with this: may the writer do that? The check and the write are one.
# KEYS[1]: the session. ARGV[1]: the writer; empty for the app itself. ARGV[2]: time to live.
_HEAD = """
if redis.call('HEXISTS', KEYS[1], 'deleted') == 1 then return -1 end
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if owner ~= '' and ARGV[1] ~= '' and owner ~= ARGV[1] then return 0 end
local function touch(key)
  if ARGV[2] ~= '0' then redis.call('PEXPIRE', key, ARGV[2]) end
end
"""
# KEYS[2]: in which session the step is; KEYS[3]: favourites of the writer.
# ARGV: session, step, document, 1 to replace what is there, 1 for a favourite.
# A step stays where it was first: its id comes from the browser.
_SAVE_STEP = f"""{_HEAD}
local place = redis.call('GET', KEYS[2])
if place and place ~= ARGV[3] then return 0 end
redis.call('SET', KEYS[2], ARGV[3])
touch(KEYS[2])
local field = 'step:' .. ARGV[4]
if ARGV[6] == '1' or redis.call('HEXISTS', KEYS[1], field) == 0 then
  redis.call('HSET', KEYS[1], field, ARGV[5])
  if ARGV[7] == '1' then
    redis.call('HSET', KEYS[3], ARGV[4], ARGV[3])
  else
    redis.call('HDEL', KEYS[3], ARGV[4])
  end
end
touch(KEYS[1])
return 1
"""
# KEYS as above. ARGV: step.
_DELETE_STEP = f"""{_HEAD}
redis.call('HDEL', KEYS[1], 'step:' .. ARGV[3], 'feedback:' .. ARGV[3])
redis.call('HDEL', KEYS[3], ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""
# ARGV: field, document; an empty one deletes.
_SAVE_FIELD = f"""{_HEAD}
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[1], ARGV[3])
else
  redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
end
touch(KEYS[1])
return 1
"""


class Foreign(PermissionError):
    """The session or the step belongs to somebody else."""


class History:
    """The conversations of the sessions of a store.

    Writes go through the batch writer; they raise `redis.exceptions.RedisError` when Redis cannot
    be asked, `Foreign` when the session is not the writer's, and `Deleted` when it was deleted.

    Args:
        redis: A client with `decode_responses`.
        store: Where the sessions are.
        writer: What writes.
        ttl: Seconds that a session is kept after the last write; 0 for ever.
    """

    def __init__(
        self, redis: Redis, store: SessionStore, writer: BatchWriter, *, ttl: float = 0
    ) -> None:
        self._redis = redis
        self._store = store
        self._writer = writer
        self._ttl = int(ttl * 1000)

    async def save_step(
        self, session_id: str, user: str, step: Mapping[str, object], *, replace: bool
    ) -> None:
        """Save a step.

        Args:
            session_id: Where it belongs.
            user: Who writes; empty for the app itself.
            step: The step, with its `id`.
            replace: False for a step that is new: it may arrive after its own first change, and
                must not undo that.
        """
        id = str(step["id"])
        metadata = step.get("metadata")
        favorite = isinstance(metadata, Mapping) and bool(metadata.get("favorite"))
        keys = [self._store.key(session_id), _place(id), _favorites(user)]
        await self._run(
            *(_SAVE_STEP, keys, user, session_id, id, json.dumps(step)),
            *(int(replace), int(favorite)),
        )

    async def delete_step(self, step_id: str, user: str) -> None:
        """Delete a step and its feedback, if it is there."""
        if (session_id := await self.session_of(step_id)) is not None:
            keys = [self._store.key(session_id), _place(step_id), _favorites(user)]
            await self._run(_DELETE_STEP, keys, user, step_id)

    async def save(
        self, session_id: str, user: str, kind: str, id: str, document: Document | None
    ) -> None:
        """Save an element (kind ``element``) or feedback (``feedback``); None deletes it."""
        text = "" if document is None else json.dumps(document)
        await self._run(_SAVE_FIELD, [self._store.key(session_id)], user, f"{kind}:{id}", text)

    async def session_of(self, step_id: str) -> str | None:
        """The id of the session in which a step is."""
        return cast("str | None", await self._redis.get(_place(step_id)))

    async def read(
        self, session_id: str, redis: Redis | None = None
    ) -> tuple[Session, dict[str, dict[str, Document]]] | None:
        """A session and what was said in it, or None if there is no such session.

        Args:
            session_id: Its id.
            redis: Read here, e.g. on a replica.

        Returns:
            The session, and the documents by kind (``step``, ``element``, ``feedback``) and id.
        """
        found = await (redis or self._redis).hgetall(self._store.key(session_id))
        fields = cast("dict[str, str]", found)
        session = parse(session_id, fields)
        if session is None:
            return None
        said: dict[str, dict[str, Document]] = {"step": {}, "element": {}, "feedback": {}}
        for name, text in fields.items():
            kind, _, id = name.partition(":")
            if id:
                said[kind][id] = json.loads(text)
        return session, said

    async def read_one(self, session_id: str, kind: str, id: str) -> Document | None:
        """One step, element or feedback."""
        text = await self._redis.hget(self._store.key(session_id), f"{kind}:{id}")
        return None if text is None else json.loads(text)

    async def favorites_of(self, user: str, redis: Redis | None = None) -> list[Document]:
        """The steps that somebody marked, oldest first."""
        redis = redis or self._redis
        places = cast("dict[str, str]", await redis.hgetall(_favorites(user)))
        if not places:
            return []
        async with redis.pipeline(transaction=False) as pipe:
            for id, session_id in places.items():
                pipe.hget(self._store.key(session_id), f"step:{id}")
            # One whose session has expired or was deleted is still in the list.
            steps = [json.loads(text) for text in await pipe.execute() if text is not None]
        return sorted(steps, key=lambda step: step.get("createdAt") or "")

    async def delete(self, session: Session) -> None:
        """Delete a session and all that was said in it."""
        fields = cast("list[str]", await self._redis.hkeys(self._store.key(session.id)))
        steps = [name.partition(":")[2] for name in fields if name.startswith("step:")]
        if steps:
            async with self._redis.pipeline() as pipe:
                pipe.delete(*map(_place, steps))
                pipe.hdel(_favorites(session.owner), *steps)
                await pipe.execute()
        await self._store.delete(session)

    async def _run(self, script: str, keys: list[str], user: str, *arguments: str | int) -> None:
        answer = await self._writer.run(script, keys, user, self._ttl, *arguments)
        if answer == -1:
            raise Deleted("the session was deleted")
        if not answer:
            raise Foreign("it belongs to somebody else")


def _place(step_id: str) -> str:
    return f"step:{step_id}"


def _favorites(user: str) -> str:
    return f"favorites-of:{user}"
