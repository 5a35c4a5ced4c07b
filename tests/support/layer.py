"""A data layer of an app, in memory, which can be made to fail. Runs in the app's process.

A test hands it to its app as a file, `{"layer.py": tests.support.LAYER}`; the app imports `layer`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chainlit.data.base import BaseDataLayer
from chainlit.types import Feedback, PageInfo, PaginatedResponse
from chainlit.user import PersistedUser, User

BROKEN = Path("broken.json")


class Layer(BaseDataLayer):
    """Keeps users, threads and feedback.

    `broken.json` in the working directory names the methods that fail, each with how many more of
    its calls go well.

    Args:
        threads: who wrote each thread that is there from the start.
    """

    def __init__(self, threads: dict[str, str] | None = None) -> None:
        self.users: dict[str, PersistedUser] = {}
        self.authors = dict(threads or {})
        self.feedback: dict[str, Feedback] = {}

    def _may_fail(self, method: str) -> None:
        broken = json.loads(BROKEN.read_text()) if BROKEN.exists() else {}
        if method in broken:
            broken[method] -= 1
            BROKEN.write_text(json.dumps(broken))
            if broken[method] < 0:
                raise ConnectionError(f"No {method}: the store is down.")

    async def get_user(self, identifier: str) -> PersistedUser | None:
        self._may_fail("get_user")
        return self.users.get(identifier)

    async def create_user(self, user: User) -> PersistedUser | None:
        self._may_fail("create_user")
        if user.identifier == "nobody's child":
            return None
        self.users[user.identifier] = PersistedUser(
            identifier=user.identifier, id=f"id of {user.identifier}", createdAt="2026-01-01"
        )
        return self.users[user.identifier]

    async def upsert_feedback(self, feedback: Feedback) -> str:
        self._may_fail("upsert_feedback")
        self.feedback[feedback.forId] = feedback
        return feedback.forId

    async def delete_feedback(self, feedback_id: str) -> bool:
        self._may_fail("delete_feedback")
        return self.feedback.pop(feedback_id, None) is not None

    async def get_thread_author(self, thread_id: str) -> str:
        self._may_fail("get_thread_author")
        return self.authors.get(thread_id, "")

    async def get_thread(self, thread_id: str) -> Any:
        self._may_fail("get_thread")
        if thread_id not in self.authors:
            return None
        return {
            "id": thread_id,
            "createdAt": "2026-01-01",
            "name": thread_id,
            "userId": None,
            "userIdentifier": self.authors[thread_id],
            "tags": [],
            "metadata": {},
            "steps": [],
            "elements": [],
        }

    async def update_thread(
        self,
        thread_id: str,
        name: str | None = None,
        user_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        tags: list[str] | None = None,
    ) -> None:
        self._may_fail("update_thread")
        if user_id is not None:
            self.authors[thread_id] = user_id.removeprefix("id of ")

    async def delete_thread(self, thread_id: str) -> None:
        self.authors.pop(thread_id, None)

    async def list_threads(self, pagination: Any, filters: Any) -> PaginatedResponse[Any]:
        return PaginatedResponse(PageInfo(False, None, None), [])

    async def create_element(self, element: Any) -> None: ...

    async def get_element(self, thread_id: str, element_id: str) -> None: ...

    async def delete_element(self, element_id: str, thread_id: str | None = None) -> None: ...

    async def create_step(self, step_dict: Any) -> None: ...

    async def update_step(self, step_dict: Any) -> None: ...

    async def delete_step(self, step_id: str) -> None: ...

    async def get_favorite_steps(self, user_id: str) -> list[Any]:
        return []

    async def build_debug_url(self) -> str:
        return ""

    async def close(self) -> None: ...
