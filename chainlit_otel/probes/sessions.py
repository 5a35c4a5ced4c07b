"""Sessions: `WebsocketSession` and `HTTPSession` of `chainlit.session`.

Every session starts, reconnects and ends by the constructor, `restore` and `delete` of its class,
and by nothing else. `on_chat_start` and `on_chat_end` are no such seams: the second is called
whenever a socket drops, and an app may lack either. The lookups are wrapped to count requests for
sessions that are not in this process.
"""

from __future__ import annotations

import asyncio
import functools
import re
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from importlib import import_module
from types import FrameType
from typing import Any

from opentelemetry.trace import get_current_span

from chainlit_otel import catalog
from chainlit_otel.core.counts import Counts
from chainlit_otel.core.hashes import hashed, hashed_user
from chainlit_otel.core.journal import EventKind
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.core.sessions import Session, SessionLedger, SessionType
from chainlit_otel.core.users import Users
from chainlit_otel.patching import Patches, SeamMissing, wraps
from chainlit_otel.pipeline.spans import utf8_safe
from chainlit_otel.probes.chainlit_types import ChainlitSession, ChainlitWebsocketSession
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.retained import Retained
from chainlit_otel.probes.synthetic import Synthetic

_PROFILES = 32
_MOST_TIMED_OUT = 10_000
# What Chainlit and its data layers make up is of this form; a browser may send any text for it.
_THREAD_ID = re.compile(r"[0-9A-Fa-f-]{1,64}")

# The function of Chainlit that looks a session up, and what for. A browser that connects with an
# unknown session id is no miss: that is how a new session starts.
_SITES = {
    "restore_existing_session": None,
    "call_action": "action",
    "update_thread_element": "element",
    "delete_thread_element": "element",
    "update_feedback": "feedback",
    "get_file": "file_read",
    "upload_file": "file_upload",
    "connect_mcp": "mcp",
    "disconnect_mcp": "mcp",
}


def current_session() -> ChainlitSession | None:
    """Return Chainlit's session that this runs on behalf of, if there is one."""
    context = _context_var().get(None)
    return None if context is None else context.session


@functools.cache
def _context_var() -> ContextVar[Any]:
    found: ContextVar[Any] = import_module("chainlit.context").context_var
    return found


class Sessions(Probe):
    """Chainlit's session objects, and the entry of each in the ledger.

    Attributes:
        ledger: The ledger of sessions, without those of synthetic visitors.
        synthetic: Tells synthetic visitors from others.
        client_type: The clients.
        profiles: The chat profiles.
        lookups: Lookups of sessions by their id, by what looked them up.
        misses: Those of sessions that are not in this process.
        users: Who is signed in.
        on_socket_change: Called when the socket of a session is lost, and when it has one again.
    """

    name = "sessions"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._live = context.live
        self.ledger = SessionLedger(self._on_end, journal=context.journal)
        self.synthetic = context.get(Synthetic)
        self._synthetic_ledger = SessionLedger(self._on_synthetic_end, is_synthetic=True)
        self._synthetic_ends: Counts[tuple[str, ...]] = Counts()
        self._resyncs = context.resync
        self._capture_user = context.settings.capture_user
        self.client_type = EnumLabel(catalog.CLIENT_TYPE.values)
        self.profiles = BoundedLabel(_PROFILES)
        self._recorder = context.recorder
        self._recorder.queue.poll = self._record_finalized
        self._user_hash = functools.lru_cache(maxsize=1024)(
            functools.partial(hashed_user, context.settings.user_hash_key)
        )
        self.lookups: Counts[tuple[str, ...]] = Counts()
        self.misses: Counts[tuple[str, ...]] = Counts()
        self.on_socket_change: Callable[[Session, bool], None] = lambda _session, _is_back: None
        self._timed_out: OrderedDict[str, None] = OrderedDict()
        self._handles: weakref.WeakKeyDictionary[ChainlitSession, Session] = (
            weakref.WeakKeyDictionary()
        )
        self._disconnecting: weakref.WeakSet[Any] = weakref.WeakSet()
        self._failed: weakref.WeakSet[Any] = weakref.WeakSet()
        self._http: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._retained = Retained()
        self.users = Users()

    def install(self, patches: Patches) -> None:
        """Wrap the session classes, and start the sessions that are open in the ledger."""
        module = import_module("chainlit.session")
        for name in ("WebsocketSession", "HTTPSession", "ws_sessions_id"):
            if not hasattr(module, name):
                raise SeamMissing(f"chainlit.session.{name}")
        websocket, http = module.WebsocketSession, module.HTTPSession
        self.synthetic.install(patches, self.guard)
        patches.wrap_attribute(websocket, "__init__", _wrap_init(self, "websocket"))
        patches.wrap_attribute(websocket, "restore", _wrap_restore(self))
        patches.wrap_attribute(websocket, "delete", _wrap_delete(self))
        patches.wrap_attribute(websocket, "get_by_id", _wrap_get_by_id(self))
        patches.replace_classmethod(
            websocket, "require", functools.partial(_wrap_require, patches, self)
        )
        patches.wrap_attribute(http, "__init__", _wrap_init(self, "http"))
        patches.wrap_attribute(http, "delete", _wrap_delete(self))
        if self._resyncs:
            self.resync()
        register = functools.partial(self.telemetry.register_observable, guard=self.guard)
        register(catalog.SESSION_STARTS, self.ledger.starts)
        register(catalog.SESSION_ACTIVE, self.ledger.active)
        register(catalog.SESSION_PEAK, self.ledger.peaks)
        register(catalog.SESSION_ENDS, self.ledger.ends)
        register(catalog.SESSION_TIME, self.ledger.time)
        register(catalog.SESSION_RECONNECTS, self.ledger.reconnects)
        register(catalog.SESSION_OLDEST_AGE, self.ledger.oldest_age)
        register(catalog.SESSION_LOOKUPS, self.lookups.read)
        register(catalog.SESSION_LOOKUP_MISSES, self.misses.read)
        register(catalog.USER_ACTIVE, lambda: {(): self.users.active()})
        register(catalog.RETAINED, self.retained)
        if self.synthetic.is_enabled:
            register(catalog.SYNTHETIC_SESSIONS, self._synthetic_sessions)

    def overflows(self) -> Mapping[catalog.Attribute, EnumLabel | BoundedLabel]:
        """Return what bounds the clients and the chat profiles."""
        return {catalog.CLIENT_TYPE: self.client_type, catalog.CHAT_PROFILE: self.profiles}

    def on_startup(self) -> None:
        """Show the series of each bot that the app has at zero, before its first session."""
        bots = [("http", bot) for bot in catalog.BOTS if f"chainlit.{bot}.app" in sys.modules]
        self.telemetry.expect(catalog.SESSION_STARTS, *catalog.starts_of(*bots))
        self.telemetry.expect(catalog.SESSION_ACTIVE, *catalog.states_of(*bots))
        self.telemetry.expect(catalog.SESSION_ENDS, *catalog.ends_of(*bots))

    def end(self, reason: str) -> None:
        """End every session."""
        self.ledger.end_all(reason)
        self._synthetic_ledger.end_all(reason)

    def _record_finalized(self) -> None:
        with self.guard:
            self.ledger.record_finalized()

    def _on_end(self, session: Session, reason: str, seconds: float) -> None:
        with self.guard:
            if reason == "timeout":
                self._timed_out[session.hash] = None
                if len(self._timed_out) > _MOST_TIMED_OUT:
                    self._timed_out.popitem(last=False)
        with self.guard:
            self.telemetry.record(
                catalog.SESSION_DURATION, seconds, session.type, session.client, reason
            )
            if session.type == "websocket":
                self.telemetry.record(catalog.SESSION_TURNS, session.turns, reason)
        with self._recorder.guard:
            self._recorder.session_ended(session, reason, seconds)
        if self._live is not None:
            with self.guard:
                self._live.sessions.ended(session, reason, seconds)

    def _on_synthetic_end(self, session: Session, reason: str, seconds: float) -> None:
        self._synthetic_ends.add((session.outcome,))

    def _synthetic_sessions(self) -> dict[tuple[str, ...], int]:
        """Return the synthetic sessions that have ended, by outcome."""
        self._synthetic_ledger.record_finalized()
        return self._synthetic_ends.read()

    def ledger_of(self, handle: Session) -> SessionLedger:
        """Return the ledger that a session is in."""
        return self._synthetic_ledger if handle.is_synthetic else self.ledger

    def is_synthetic(self) -> bool:
        """Tell whether this runs on behalf of a synthetic visitor."""
        if not self.synthetic.is_enabled:
            return False
        session = current_session()
        if session is None:
            return self.synthetic.shown_by_request()
        handle = self._handles.get(session)
        return handle is not None and handle.is_synthetic

    def on_start(self, session: ChainlitSession, type: SessionType) -> None:
        """Chainlit made a session."""
        if type == "http":
            is_synthetic = self.synthetic.shown_by_request()
        else:
            is_synthetic = self.synthetic.shown_by_socket(session)
        ledger = self._synthetic_ledger if is_synthetic else self.ledger
        client = self.client_type(session.client_type)
        handle = ledger.start(type, client, _origin(session, type), hashed(session.id))
        self._handles[session] = handle
        if type == "http":
            self._http[session.id] = session
        else:
            self._connect_user(session)
        reason = "completed" if type == "http" else catalog.OTHER
        # An HTTP session is hardly ever deleted, and a lost websocket session never.
        finalizer = weakref.finalize(session, ledger.finalized, handle, reason)
        finalizer.atexit = False
        with self._recorder.guard:
            self._describe(session, handle)
            if not is_synthetic:
                self._recorder.session_started(handle)

    def record_event(self, kind: EventKind, detail: str) -> None:
        """Something has happened in the session that this runs on behalf of, if there is one."""
        if (handle := self.handle(current_session())) is not None:
            self.ledger_of(handle).record_event(handle, kind, detail)

    def resync(self) -> None:
        """Start the sessions that are open now in the ledger."""
        for session in list(_registry().values()):
            self.on_start(session, "websocket")

    def knows(self, session: ChainlitSession) -> bool:
        """Tell whether a session is in the ledger, whether it has ended or not."""
        return session in self._handles

    def handle(self, session: ChainlitSession | None) -> Session | None:
        """Return what the ledger has of a session; None if it is not in there."""
        return None if session is None else self._handles.get(session)

    def profile_of(self, session: ChainlitSession | None) -> str:
        """Return the chat profile of a session, as a bounded label; empty if there is none."""
        chosen = getattr(session, "chat_profile", None)
        return self.profiles(chosen) if chosen else ""

    def _describe(self, session: ChainlitSession, handle: Session) -> None:
        """Keep what is shown and recorded of a session: its object may be gone by then."""
        handle.profile = handle.profile or self.profile_of(session)
        if not self._recorder.is_enabled:
            return
        handle.conversation = _conversation(session.thread_id)
        if session.user is not None:
            handle.user = self._user_hash(str(session.user.identifier))

    def attributes(self, session: ChainlitSession) -> dict[str, str | bool]:
        """Return the span attributes of a session."""
        handle = self._handles.get(session)
        attributes: dict[str, str | bool] = {
            catalog.SESSION_ID: handle.hash if handle else hashed(session.id),
            catalog.CONVERSATION_ID: _conversation(session.thread_id),
        }
        if handle is not None:
            attributes[catalog.CLIENT_TYPE.key] = handle.client
            if handle.is_synthetic:
                attributes[catalog.SYNTHETIC] = True
        if self._capture_user and session.user is not None:
            attributes[catalog.USER_ID] = utf8_safe(session.user.identifier)
        return attributes

    def on_restore(self, session: ChainlitSession) -> None:
        """A socket reconnects to a session; one that has ended in the ledger starts again.

        A synthetic session whose visitor does not show the token any more ends, and one like any
        other starts: to know the id of a session is not enough to hide in it.
        """
        handle = self._handles.get(session)
        if (
            handle is not None
            and handle.is_synthetic
            and not self.synthetic.shown_by_socket(session)
        ):
            self._synthetic_ledger.end(handle, catalog.OTHER)
            handle = None
        if handle is None or not handle.is_synthetic:
            self.lookups.add(("socket",))
        if handle is None or not self.ledger_of(handle).restore(handle):
            self._failed.discard(session)
            self.on_start(session, "websocket")
        else:
            self.on_socket_change(handle, True)
        self._connect_user(session)

    def check_returning(self, session: ChainlitSession) -> None:
        """Note if a new session is that of a tab which has had one, and finds it gone.

        A page names a thread if its tab has had a conversation, or if its user opens a stored one.
        The latter it does only in an app that resumes threads, and the copilot remembers its thread
        from one visit to the next. So where threads are resumed nobody can tell a tab that comes to
        the wrong replica from a visitor, and neither of them loses anything. That a session has
        timed out here is no reason to look for it elsewhere.
        """
        handle = self._handles[session]
        if handle.is_synthetic:
            return
        is_returning = handle.client == "webapp" and handle.origin == "thread_resume"
        if (
            is_returning
            and import_module("chainlit.config").config.code.on_chat_resume is None
            and handle.hash not in self._timed_out
        ):
            self.on_lookup("socket", is_miss=True)

    def on_drop(self, session: ChainlitSession) -> None:
        """The current socket of a session is gone, and Chainlit begins to clean up."""
        self._disconnecting.add(session)
        self.users.disconnect(session)
        if handle := self._handles.get(session):
            if self.ledger_of(handle).drop(handle):
                self.on_socket_change(handle, False)
            with self._recorder.guard:
                self._describe(session, handle)

    def on_cleanup(self, session: ChainlitSession) -> None:
        """Chainlit has handled the disconnect of a session, with an error or without."""
        self._disconnecting.discard(session)

    def on_abandoned(self, session: ChainlitWebsocketSession, grace: float) -> None:
        """Chainlit failed to clean up after a session, or will never try to.

        Args:
            session: Chainlit's session.
            grace: Seconds in which its user may still come back.
        """
        handle = self._handles.get(session)
        if handle is None or handle.ended or handle.left is None:
            return
        if session.to_clear:
            self.ledger_of(handle).end(handle, "cleared")
            self._failed.add(session)
        else:
            asyncio.get_running_loop().call_later(
                grace, self._expire, weakref.ref(session), handle, handle.left
            )

    def on_delete(self, session: ChainlitSession) -> None:
        """Chainlit deletes a session."""
        self.users.disconnect(session)
        self._http.pop(session.id, None)
        if handle := self._handles.get(session):
            with self._recorder.guard:
                self._describe(session, handle)
            self.ledger_of(handle).end(handle, self._end_reason(session, handle))

    def check_retained(self, session: ChainlitSession) -> None:
        """Note whether Chainlit still has a session that it has deleted."""
        if _registry().get(session.id) is session:
            self._failed.add(session)

    def retained(self) -> dict[tuple[str, ...], int]:
        """Return how many objects Chainlit still has for sessions that ended, by kind."""
        alive = {*list(_registry()), *(session.id for session in self._http_sessions())}
        return {**self._retained.by_kind(alive), ("sessions",): len(self._failed)}

    def on_lookup(self, site: str, is_miss: bool) -> None:
        """A session was looked up by its id, and may not be in this process."""
        if self.is_synthetic():
            return
        self.lookups.add((site,))
        if is_miss:
            self.misses.add((site,))

    def _connect_user(self, session: ChainlitSession) -> None:
        if session.user is not None and not self._handles[session].is_synthetic:
            self.users.connect(session, str(session.user.identifier))

    def _http_sessions(self) -> Iterator[Any]:
        # A copy of the references: sessions start and end in other threads meanwhile.
        for reference in self._http.valuerefs():
            if (session := reference()) is not None:
                yield session

    def _end_reason(self, session: ChainlitSession, handle: Session) -> str:
        if handle.type == "http":
            return "completed"
        if session in self._disconnecting:
            return "cleared"
        return catalog.OTHER if handle.left is None else "timeout"

    def _expire(self, reference: Callable[[], Any], handle: Session, left: int | None) -> None:
        session = reference()
        if self.ledger_of(handle).expire(handle, left) and session is not None:
            self._failed.add(session)


def _conversation(thread_id: object) -> str:
    text = utf8_safe(thread_id)
    return text if _THREAD_ID.fullmatch(text) else hashed(text)


def _origin(session: ChainlitSession, type: SessionType) -> str:
    """Return whether a session is new, or resumes the thread that the browser named.

    A browser names one when its user opens a stored thread, and also when a tab that has had a
    conversation reconnects after its session is gone, as all tabs do after a restart.
    """
    # An HTTP session always has a thread id; whether the thread is stored cannot be seen.
    resumes = type == "websocket" and bool(session.thread_id_to_resume)
    return "thread_resume" if resumes else "new"


def _registry() -> Any:
    return import_module("chainlit.session").ws_sessions_id


def calling_function(frame: FrameType | None) -> tuple[str, str]:
    """Return the module and the name of the function in the innermost frame of Chainlit.

    Both are empty if there is no such frame.
    """
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("chainlit."):
            return module, frame.f_code.co_name
        frame = frame.f_back
    return "", ""


def name_session(id: object) -> None:
    """Put what stands for the id of a session on the current span."""
    span = get_current_span()
    if span.is_recording():
        span.set_attribute(catalog.SESSION_ID, hashed(id))


def _site(frame: FrameType | None) -> str | None:
    _, function = calling_function(frame)
    return _SITES.get(function, catalog.OTHER)


def _wrap_init(sessions: Sessions, type: SessionType) -> Any:
    def wrapper(wrapped: Any, session: ChainlitSession, args: Any, kwargs: Any) -> None:
        wrapped(*args, **kwargs)
        with sessions.guard:
            sessions.on_start(session, type)
            if type == "websocket":
                sessions.check_returning(session)

    return wrapper


def _wrap_restore(sessions: Sessions) -> Any:
    def wrapper(wrapped: Any, session: ChainlitSession, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        with sessions.guard:
            sessions.on_restore(session)
        return result

    return wrapper


def _wrap_delete(sessions: Sessions) -> Any:
    async def wrapper(wrapped: Any, session: ChainlitSession, args: Any, kwargs: Any) -> Any:
        with sessions.guard:
            sessions.on_delete(session)
        try:
            return await wrapped(*args, **kwargs)
        finally:
            with sessions.guard:
                sessions.check_retained(session)

    return wrapper


def _wrap_get_by_id(sessions: Sessions) -> Any:
    def wrapper(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        session = wrapped(*args, **kwargs)
        with sessions.guard:
            if (site := _site(sys._getframe(1))) is not None:
                sessions.on_lookup(site, session is None)
                # The span of the request.
                name_session(next(iter((*args, *kwargs.values()))))
        return session

    return wrapper


def _wrap_require(
    patches: Patches, sessions: Sessions, original: Callable[..., Any]
) -> Callable[..., Any]:
    @wraps(original)
    def require(cls: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(cls, *args, **kwargs)
        except ValueError:
            with sessions.guard:
                # None is the id of no socket: the miss of that request has been counted before.
                if patches.active and None not in (*args, *kwargs.values()):
                    sessions.on_lookup("socket", is_miss=True)
            raise

    return require
