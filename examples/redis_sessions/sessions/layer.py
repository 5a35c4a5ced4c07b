"""Chainlit's data layer on Redis."""

from __future__ import annotations

import asyncio
import base64
import logging
import uuid
from collections.abc import Awaitable, Callable
from copy import deepcopy
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cachetools import TTLCache
from chainlit.context import ChainlitContextException, get_context
from chainlit.data.base import BaseDataLayer
from chainlit.data.utils import queue_until_user_message
from chainlit.types import (
    Feedback,
    PageInfo,
    PaginatedResponse,
    Pagination,
    ThreadDict,
    ThreadFilter,
)
from chainlit.user import PersistedUser, User
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, TimeoutError

import chainlit_otel

from .cache import SessionCache
from .history import Foreign, History
from .store import Deleted, Document, Session, SessionStore
from .writes import BatchWriter

if TYPE_CHECKING:
    from chainlit.element import Element, ElementDict
    from chainlit.step import StepDict

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Users get an id that follows from their name: two sign-ins at the same time make one user.
_USERS = uuid.UUID("8a5f1f0e-6f0b-4b57-9d39-0d8c5c1e2a64")
_EMBEDDED = 256 * 1024


class RedisDataLayer(BaseDataLayer):
    """Users, threads, steps, elements and feedback in Redis.

    Every method raises `redis.exceptions.RedisError` when Redis cannot be asked: an app that
    pretended otherwise would lose conversations without anybody knowing. What belongs to somebody
    else raises `Foreign`, a `PermissionError`.

    A thread is a session of the store; see `sessions.store` and `sessions.history`.

    Args:
        redis: A client with `decode_responses`; closed by `close`.
        replica: Lists, search and favourites are read here, if given; closed, too.
        replica_lag: Seconds after a write in which its user does not read from the replica.
        ttl: Seconds that a thread is kept after the last write; 0 for ever.
        cached: The most threads, and users, in the caches.
        cache_ttl: Seconds after which this process sees what another one has written.

    Attributes:
        threads: The cache of threads.
        users: The cache of users.
        writer: What batches the writes.
    """

    def __init__(
        self,
        redis: Redis,
        replica: Redis | None = None,
        *,
        replica_lag: float = 1.0,
        ttl: float = 0,
        cached: int = 10_000,
        cache_ttl: float = 30.0,
    ) -> None:
        self._redis = redis
        self._replica = replica
        self._user_store = SessionStore(redis, "user")
        self._store = SessionStore(redis, "thread", ttl=ttl)
        self.writer = BatchWriter(redis)
        self._history = History(redis, self._store, self.writer, ttl=ttl)
        self.users = SessionCache(cached, cache_ttl)
        self.threads = SessionCache(cached, cache_ttl)
        # Those who have just written; the replica may not know it yet.
        self._writers: TTLCache[str, bool] = TTLCache(cached, replica_lag)

    # -- users -------------------------------------------------------------------------------

    async def get_user(self, identifier: str) -> PersistedUser | None:
        """The user of a name, from the cache if possible: Chainlit asks at every request."""
        session = await self._cached(self.users, self._user_store, _user_id(identifier))
        return None if session is None else _user(session)

    async def create_user(self, user: User) -> PersistedUser:
        """Create a user, or bring the metadata of one up to date."""

        def change(_: Session | None) -> tuple[str, Document]:
            return "", {"identifier": user.identifier, "metadata": user.metadata}

        id = _user_id(user.identifier)
        session = await self._user_store.update(id, _now(), change)
        self.users.keep(session)
        return _user(session)

    # -- threads -----------------------------------------------------------------------------

    async def get_thread_author(self, thread_id: str) -> str:
        """The name of the user whose thread it is; empty if there is no such thread."""
        thread = await self._cached(self.threads, self._store, thread_id)
        return "" if thread is None else str(thread.data.get("userIdentifier") or "")

    async def update_thread(
        self,
        thread_id: str,
        name: str | None = None,
        user_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        tags: list[str] | None = None,
    ) -> None:
        """Change a thread, or create it; what is None stays, and so does other metadata.

        Raises:
            Foreign: it belongs to another user.
        """
        # The first update names the user. If Redis was away then, a later one has to.
        user_id = user_id or _session_user()
        user = await self._cached(self.users, self._user_store, user_id) if user_id else None
        changes = {"name": name, "tags": tags}

        def change(found: Session | None) -> tuple[str, Document]:
            owner, data = (found.owner, dict(found.data)) if found else ("", {})
            if owner and user_id and owner != user_id:
                raise Foreign(thread_id)
            if not owner and user is not None:
                owner, data["userIdentifier"] = user.id, user.data["identifier"]
            data.update({key: value for key, value in changes.items() if value is not None})
            merged = {**data.get("metadata", {}), **(metadata or {})}
            data["metadata"] = {key: value for key, value in merged.items() if value is not None}
            return owner, data

        thread = await self._own(self._store.update(thread_id, _now(), change))
        if thread is not None:
            self.threads.keep(thread)
            self._writers[thread.owner] = True

    async def delete_thread(self, thread_id: str) -> None:
        """Delete a thread with everything in it."""
        thread = await self._store.read(thread_id)
        if thread is not None:
            await self._history.delete(thread)
            self._writers[thread.owner] = True
        self.threads.drop(thread_id)

    async def get_thread(self, thread_id: str) -> ThreadDict | None:
        """A thread with its whole history, as it is now."""
        found = await self._history.read(thread_id)
        if found is None:
            return None
        thread, said = found
        self.threads.keep(thread)
        return _thread(thread, said)

    async def list_threads(
        self, pagination: Pagination, filters: ThreadFilter
    ) -> PaginatedResponse[ThreadDict]:
        """A page of a user's threads, the newest first, without their history.

        Raises:
            ValueError: no user is given, or the cursor is none of ours.
        """
        user_id = filters.userId
        if not user_id:
            raise ValueError("the threads of nobody")
        after = _parse_cursor(pagination.cursor) if pagination.cursor else None

        async def read(redis: Redis) -> list[Session]:
            page: list[Session] = []
            async for thread in self._store.sessions_of(user_id, after, redis):
                if await self._matches(thread, filters, redis):
                    page.append(thread)
                if len(page) > pagination.first:
                    break
            return page

        found = await self._from_replica(user_id, read)
        page = found[: pagination.first]
        info = PageInfo(
            hasNextPage=len(found) > len(page),
            startCursor=_cursor(page[0]) if page else None,
            endCursor=_cursor(page[-1]) if page else None,
        )
        return PaginatedResponse(pageInfo=info, data=[_thread(thread) for thread in page])

    async def _matches(self, thread: Session, filters: ThreadFilter, redis: Redis) -> bool:
        if not filters.search and filters.feedback is None:
            return True
        found = await self._history.read(thread.id, redis)
        if found is None:
            return False
        _, said = found
        if filters.feedback is not None and not any(
            feedback["value"] == filters.feedback for feedback in said["feedback"].values()
        ):
            return False
        word = (filters.search or "").lower()
        texts = (str(step.get("output") or "") for step in said["step"].values())
        return not word or any(word in text.lower() for text in texts)

    # -- steps -------------------------------------------------------------------------------

    @queue_until_user_message()
    async def create_step(self, step_dict: StepDict) -> None:
        """Save a step that is new."""
        await self._save_step(step_dict, replace=False)

    @queue_until_user_message()
    async def update_step(self, step_dict: StepDict) -> None:
        """Save a step as it is now."""
        await self._save_step(step_dict, replace=True)

    @queue_until_user_message()
    async def delete_step(self, step_id: str) -> None:
        """Delete a step and its feedback."""
        await self._own(self._history.delete_step(step_id, _session_user()))

    async def get_favorite_steps(self, user_id: str) -> list[StepDict]:
        """The messages that a user has marked."""
        steps = await self._from_replica(
            user_id, lambda redis: self._history.favorites_of(user_id, redis)
        )
        return cast("list[StepDict]", steps)

    async def _save_step(self, step: StepDict, *, replace: bool) -> None:
        user = _session_user()
        document = cast("dict[str, object]", step)
        await self._own(self._history.save_step(step["threadId"], user, document, replace=replace))
        self._writers[user] = True

    # -- elements ----------------------------------------------------------------------------

    @queue_until_user_message()
    async def create_element(self, element: Element) -> None:
        """Save an element. Small content goes along; large content needs an object store."""
        document = cast(Document, element.to_dict())
        if not element.url:
            document["url"] = await asyncio.to_thread(_embed, element)
        await self._own(
            self._history.save(element.thread_id, _session_user(), "element", element.id, document)
        )

    async def get_element(self, thread_id: str, element_id: str) -> ElementDict | None:
        """An element of a thread."""
        element = await self._history.read_one(thread_id, "element", element_id)
        return cast("ElementDict | None", element)

    @queue_until_user_message()
    async def delete_element(self, element_id: str, thread_id: str | None = None) -> None:
        """Delete an element of a thread."""
        if thread_id is not None:
            await self._own(
                self._history.save(thread_id, _session_user(), "element", element_id, None)
            )

    # -- feedback ----------------------------------------------------------------------------

    async def upsert_feedback(self, feedback: Feedback) -> str:
        """Save what somebody thinks of a step; there is one opinion on each.

        Raises:
            LookupError: there is no such step.
        """
        thread_id = await self._history.session_of(feedback.forId)
        if thread_id is None:
            raise LookupError("feedback on a step that is not there")
        document = {
            "forId": feedback.forId,
            "id": feedback.forId,
            "value": feedback.value,
            "comment": feedback.comment,
        }
        await self._own(
            self._history.save(thread_id, _session_user(), "feedback", feedback.forId, document)
        )
        return feedback.forId

    async def delete_feedback(self, feedback_id: str) -> bool:
        """Delete feedback; its id is that of the step."""
        thread_id = await self._history.session_of(feedback_id)
        if thread_id is None:
            return False
        await self._own(
            self._history.save(thread_id, _session_user(), "feedback", feedback_id, None)
        )
        return True

    # -- the rest ----------------------------------------------------------------------------

    async def build_debug_url(self) -> str:
        """There is no page to look at threads with."""
        return ""

    async def close(self) -> None:
        """Finish the writes that were taken and close the connections."""
        await self.writer.close()
        await self._redis.aclose()
        if self._replica is not None:
            await self._replica.aclose()

    async def _cached(self, cache: SessionCache, store: SessionStore, id: str) -> Session | None:
        session = cache.look_up(id)
        if session is None:
            session = await store.read(id)
            if session is not None:
                cache.keep(session)
        return session

    async def _from_replica(self, user: str, read: Callable[[Redis], Awaitable[T]]) -> T:
        """Read on the replica, unless it cannot know what the user has just written."""
        if self._replica is not None and user not in self._writers:
            try:
                return await read(self._replica)
            except (ConnectionError, TimeoutError) as error:
                logger.warning("The replica does not answer, asking the primary: %s", error)
        return await read(self._redis)

    async def _own(self, work: Awaitable[T]) -> T | None:
        """Write to a thread; count an attempt on somebody else's.

        A tab may still show a thread that was deleted, and Chainlit writes to it when the tab is
        closed. That is no error, and the thread stays deleted.
        """
        try:
            return await work
        except Deleted:
            return None
        except Foreign:
            chainlit_otel.access_denied("thread", "not_owner")
            raise


def _session_user() -> str:
    """The id of the user whose session calls; empty outside of a session."""
    try:
        user = get_context().session.user
    except ChainlitContextException:
        return ""
    return user.id if isinstance(user, PersistedUser) else ""


def _user_id(identifier: str) -> str:
    return str(uuid.uuid5(_USERS, identifier))


def _user(session: Session) -> PersistedUser:
    return PersistedUser(
        id=session.id,
        createdAt=_iso(session.created),
        identifier=session.data["identifier"],
        metadata=deepcopy(session.data["metadata"]),  # the app may change it, the cache not
    )


def _thread(thread: Session, said: dict[str, dict[str, Document]] | None = None) -> ThreadDict:
    said = said or {"step": {}, "element": {}, "feedback": {}}
    steps = sorted(said["step"].values(), key=lambda step: step.get("createdAt") or "")
    for step in steps:
        step["feedback"] = said["feedback"].get(step["id"])
    return ThreadDict(
        id=thread.id,
        createdAt=_iso(thread.created),
        name=thread.data.get("name"),
        userId=thread.owner or None,
        userIdentifier=thread.data.get("userIdentifier"),
        tags=thread.data.get("tags"),
        metadata=deepcopy(thread.data.get("metadata") or {}),
        steps=cast("list[StepDict]", steps),
        elements=cast("list[ElementDict]", list(said["element"].values())),
    )


def _embed(element: Element) -> str | None:
    """Content as a `data:` address, if it is small enough."""
    content = element.content
    if content is None and element.path and Path(element.path).stat().st_size <= _EMBEDDED:
        content = Path(element.path).read_bytes()
    raw = content.encode() if isinstance(content, str) else content
    if raw is None or len(raw) > _EMBEDDED:
        return None
    mime = element.mime or "application/octet-stream"
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}"


def _cursor(thread: Session) -> str:
    return f"{thread.created}:{thread.id}"


def _parse_cursor(cursor: str) -> tuple[int, str]:
    created, _, id = cursor.partition(":")
    return int(created), id


def _now() -> int:
    return int(datetime.now(timezone.utc).timestamp() * 1_000_000)


def _iso(microseconds: int) -> str:
    moment = datetime.fromtimestamp(microseconds / 1_000_000, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")
