"""Access: the checks by which Chainlit lets users in, and what the app itself denies.

An attempt is one check with one result: granted, denied, or an error if the check could not be
made. What each method counts:

- `password`, `header`, `oauth`: a sign-in, by what the user gets. An app's callback that raised
  is an error, though Chainlit answers 401, as it does for a wrong password. A user who could not
  be stored in the data layer is signed in all the same: granted. An OAuth sign-in begins to count
  when the browser comes back from the provider: a state that does not match, or a code that the
  provider refuses (status 400), is denied; a provider that fails otherwise is an error. Older
  releases of Chainlit answer 401 or 500 to these, rather than send the browser back, and there
  only the sign-ins that come as far as the app's callback are counted.
- `jwt`: a token that was sent with an HTTP request or by a socket. A request without one, such as
  that of a user who is about to sign in, is no attempt. Neither is any request to an app without
  sign-in: Chainlit then checks no token.
- `websocket`: a socket that connects to an app with sign-in. One that is refused for another reason
  than its user, such as a missing environment variable, counts in `chainlit.connection.rejected`
  alone.
- `thread`: a stored thread that was requested, by an HTTP request or by a socket that names it. If
  it does not exist, an HTTP request is denied, as it is for the thread of another user; for a
  socket that counts nothing, since it may name a thread that is yet to be stored. Chainlit 2.8.5 to
  2.9.1 refuses such a socket, too, and there it is denied. A data layer that raises is an error;
  the built-in ones for SQL raise for an unknown thread, too, which Chainlit answers with status
  500.

FastAPI keeps references to the callbacks and the endpoints, so the functions that these call are
wrapped, in the modules that look them up by name at each call.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from importlib import import_module
from threading import RLock
from typing import Any, Literal
from weakref import WeakSet

from opentelemetry.trace import get_current_span

from chainlit_otel import catalog
from chainlit_otel.core.counts import Counts
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.patching import Patches, wraps
from chainlit_otel.pipeline.spans import utf8_safe
from chainlit_otel.probes.chainlit_types import ChainlitSession
from chainlit_otel.probes.data_layer.discovery import Discovery, wrap_method
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.sessions import Sessions, calling_function

Result = Literal["granted", "denied", "error"]

_MOST_REASONS = 32

# The endpoint that signs a user in, and its method. The token of `jwt_auth` is counted before.
_METHODS = {
    "login": "password",
    "header_auth": "header",
    "oauth_callback": "oauth",
    "oauth_azure_hf_callback": "oauth",
    "jwt_auth": None,
}
# The ways to sign in, by the callback that makes them possible.
SIGN_INS = {
    "password_auth_callback": "password",
    "header_auth_callback": "header",
    "oauth_callback": "oauth",
}
_REFUSALS = ("authentication failed", "authorization failed")
# https://www.rfc-editor.org/rfc/rfc6749#section-4.1.2.1
_PROVIDER_FAILURES = ("server_error", "temporarily_unavailable")
# As programs and browsers call themselves; each browser names those that it is like, too.
_AGENTS = (
    *("python-requests", "python-httpx", "aiohttp", "Python-urllib", "curl", "Wget", "okhttp"),
    *("Go-http-client", "Java-http-client", "Java", "axios", "PostmanRuntime", "HeadlessChrome"),
    *("Edg", "OPR", "Firefox", "Chrome", "Safari"),
)


class _AccessCheck:
    """The check of a socket that connects, or that resumes a stored thread.

    Attributes:
        failed: Whether its user could not be checked.
        is_looked_up: Whether the lookup of its thread has begun.
        thread: The result of that lookup; None if there was none, or no thread.
    """

    def __init__(self) -> None:
        self.failed = False
        self.is_looked_up = False
        self.thread: Literal["found", "error"] | None = None
        self.token: Token[_AccessCheck | None] = _current_check.set(self)


# A callback runs in the context of the function that calls it, and so do the functions that a
# handler of a socket calls: context variables connect them.
_callback_error: ContextVar[str] = ContextVar("chainlit_otel_callback_error", default="")
_current_check: ContextVar[_AccessCheck | None] = ContextVar(
    "chainlit_otel_access_check", default=None
)


class Access(Probe):
    """The attempts, by method and result, and what the app denied, by reason. Thread-safe.

    The app may deny something in any of its threads.
    """

    name = "access"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self.methods = EnumLabel(catalog.ACCESS_METHOD.values)
        self.reasons = BoundedLabel(_MOST_REASONS)
        self._discovery = context.get(Discovery)
        self._sessions = context.get(Sessions)
        # A finalizer or a signal handler of the app may deny something at any moment.
        self._attempts: Counts[tuple[str, ...]] = Counts()
        self._denials: Counts[tuple[str, ...]] = Counts()
        # Reentrant: a signal handler of the app may deny something while this is held.
        self._lock = RLock()
        self._with_checked_thread: WeakSet[Any] = WeakSet()

    def install(self, patches: Patches) -> None:
        """Wrap the checks."""
        server, socket = import_module("chainlit.server"), import_module("chainlit.socket")
        patches.wrap_attribute(server, "_authenticate_user", _wrap_authenticate_user(self))
        patches.wrap_attribute(
            server, "_get_oauth_redirect_error", _wrap_get_oauth_redirect_error(self)
        )
        for module in (server, import_module("chainlit.auth")):
            patches.wrap_attribute(module, "decode_jwt", _wrap_decode_jwt(self))
        patches.wrap_attribute(server, "is_thread_author", _wrap_is_thread_author(self))
        patches.wrap_attribute(
            socket, "_authenticate_connection", _wrap_authenticate_connection(self)
        )
        patches.wrap_attribute(socket, "resume_thread", _wrap_resume_thread(self))
        handlers = server.sio.handlers.get("/")
        patches.replace_item(handlers, "connect", functools.partial(_wrap_connect, patches, self))
        wrap_lookup = functools.partial(_wrap_lookup, patches, self)

        def wrap_lookups(layer: Any) -> None:
            wrap_method(patches, layer, "get_thread", functools.partial(wrap_lookup, bool))
            # Chainlit 2.8.5 to 2.9.1 asks for the author, and refuses a thread that has none.
            wrap_method(
                patches, layer, "get_thread_author", functools.partial(wrap_lookup, lambda _: True)
            )

        self._discovery.listen(patches, self.guard, wrap_lookups)
        self.telemetry.register_observable(catalog.ACCESS_ATTEMPTS, self.attempts, self.guard)
        self.telemetry.register_observable(catalog.ACCESS_DENIALS, self.denials, self.guard)

    def overflows(self) -> Mapping[catalog.Attribute, EnumLabel | BoundedLabel]:
        """Return what bounds the methods and the reasons that the app gives."""
        return {catalog.ACCESS_METHOD: self.methods, catalog.DENIAL_REASON: self.reasons}

    def attempts(self) -> dict[tuple[str, ...], int]:
        """Return the attempts, by method and result."""
        return self._attempts.read()

    def denials(self) -> dict[tuple[str, ...], int]:
        """Return what the app denied, by method and reason."""
        return self._denials.read()

    def record_attempt(self, method: str, result: Result) -> None:
        """Count one attempt."""
        if not self._sessions.is_synthetic():
            self._attempts.add((method, result))

    def record_denial(self, scope: object, reason: object) -> None:
        """Count something that the app itself denied."""
        method = self.methods(scope)
        text = utf8_safe(reason) if isinstance(reason, str) else ""
        self.record_attempt(method, "denied")
        with self._lock:
            named = self.reasons.admit(text)
        if not self._sessions.is_synthetic():
            self._denials.add((method, named))
        get_current_span().add_event(
            catalog.EVENT_ACCESS_DENIED,
            {catalog.ACCESS_METHOD.key: method, catalog.DENIAL_REASON.key: named},
        )

    def on_callback_end(self, name: str, error: BaseException | None) -> None:
        """A callback of the app has returned, or raised what Chainlit is about to swallow."""
        if name in SIGN_INS:
            _callback_error.set("" if error is None else type(error).__qualname__)

    # Sign-in

    def on_signed_in(self, endpoint: str, request: Any, error: BaseException | None) -> None:
        """Chainlit has signed a user in, or has raised.

        Args:
            endpoint: The function that signs users in.
            request: The browser's request.
            error: What Chainlit raised, if it has.
        """
        method = _METHODS.get(endpoint, catalog.OTHER)
        if method is None:
            return
        if error is None:
            self._signed_in(method, "granted", request)
        elif _status(error) == 401 and not _callback_error.get():
            self._signed_in(method, "denied", request)
        else:
            self._signed_in(method, "error", request, error)

    def on_oauth_redirect(self, request: Any, error: BaseException | None) -> None:
        """Chainlit redirects a browser that came from an OAuth provider, because of an error.

        Args:
            request: The browser's request.
            error: The exception that Chainlit has caught, if it has.
        """
        if error is None:
            provider_error = request.query_params.get("error")
            failed = bool(_callback_error.get()) or provider_error in _PROVIDER_FAILURES
        else:
            failed = _raiser(error) != "validate_oauth_state_cookie" and _status(error) != 400
        self._signed_in("oauth", "error" if failed else "denied", request, error)

    def _signed_in(
        self, method: str, result: Result, request: Any, error: BaseException | None = None
    ) -> None:
        """Count a sign-in, and say in the span of its request what has come of it.

        There the user agent separates who is denied from those for whom the check fails: the metric
        has no label for what any client can make up.

        Args:
            method: The method.
            result: The result.
            request: The browser's request.
            error: The exception that Chainlit raised or has caught, if there was one.
        """
        self.record_attempt(method, result)
        span = get_current_span()
        if not span.is_recording():
            return
        span.set_attribute(catalog.ACCESS_METHOD.key, method)
        span.set_attribute(catalog.ACCESS_RESULT.key, result)
        span.set_attribute(catalog.USER_AGENT_NAME, _agent_of(request))
        failure = _callback_error.get() or (type(error).__qualname__ if error is not None else "")
        if result == "error" and failure:
            span.set_attribute(catalog.ERROR_TYPE, failure)

    def on_token_checked(self, error: BaseException | None) -> None:
        """A token was checked, and accepted if there was no exception."""
        if error is None:
            self.record_attempt("jwt", "granted")
        else:
            self.record_attempt("jwt", "denied" if _is_bad_token(error) else "error")

    # Sockets

    def on_connect(self) -> _AccessCheck | None:
        """Chainlit's `connect` handler is about to run."""
        return _AccessCheck() if import_module("chainlit.auth").require_login() else None

    def on_unauthenticated(self, error: BaseException) -> None:
        """The user of a socket that connects could not be authenticated."""
        if check := _current_check.get():
            # Chainlit answers 401 whatever the reason that it could not read the token.
            cause = error.__cause__
            check.failed = _status(error) != 401 or (cause is not None and not _is_bad_token(cause))

    def on_lookup(self) -> _AccessCheck | None:
        """The data layer is about to look up a thread; return the check that this is for."""
        check = _current_check.get()
        # A method of the data layer may call another one: Chainlit goes by the outer one's result.
        if check is None or check.is_looked_up:
            return None
        check.is_looked_up = True
        return check

    def on_connected(self, sid: str, check: _AccessCheck, error: BaseException | None) -> None:
        """Chainlit's `connect` handler has accepted or refused a socket."""
        _current_check.reset(check.token)
        refusal = str(error) if isinstance(error, ConnectionRefusedError) else ""
        refused = refusal in _REFUSALS
        if check.thread is not None:
            self._thread_checked(check, refused and _raiser(error) != "restore_existing_session")
        if error is None:
            self.record_attempt("websocket", "granted")
            session = import_module("chainlit.session").ws_sessions_sid.get(sid)
            if check.thread is not None and session is not None:
                self._with_checked_thread.add(session)
        elif check.failed or check.thread == "error":
            self.record_attempt("websocket", "error")
        elif refused:
            self.record_attempt("websocket", "denied")

    def on_resume(self) -> _AccessCheck:
        """A session is about to resume a stored thread."""
        return _AccessCheck()

    def on_resumed(self, session: ChainlitSession, check: _AccessCheck, refused: bool) -> None:
        """A session has resumed a stored thread, or was refused to."""
        _current_check.reset(check.token)
        # From Chainlit 2.8.5 on, the thread was checked when the socket connected.
        if check.thread == "error" or (
            check.thread is not None and session not in self._with_checked_thread
        ):
            self._thread_checked(check, refused)

    def _thread_checked(self, check: _AccessCheck, refused: bool) -> None:
        if check.thread == "error":
            self.record_attempt("thread", "error")
        else:
            self.record_attempt("thread", "denied" if refused else "granted")

    # HTTP

    def on_thread_requested(self, error: BaseException | None) -> None:
        """Chainlit has checked whether a user may have a thread."""
        if error is None:
            self.record_attempt("thread", "granted")
        else:
            self.record_attempt("thread", "denied" if _status(error) in (401, 404) else "error")


def _agent_of(request: Any) -> str:
    """Return the kind of client that a request says it comes from, of a closed set."""
    text = request.headers.get("user-agent", "")
    return next((name for name in _AGENTS if f"{name}/" in text), catalog.OTHER)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an exception of FastAPI or of httpx; None if it has none."""
    answer = getattr(error, "response", error)
    status = getattr(answer, "status_code", None)
    return status if isinstance(status, int) else None


def _raiser(error: BaseException | None) -> str:
    """Return the name of the function that raised an exception."""
    traceback = error.__traceback__ if error is not None else None
    name = ""
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_name
        traceback = traceback.tb_next
    return name


def _is_bad_token(error: BaseException) -> bool:
    invalid: type[Exception] = import_module("jwt").InvalidTokenError
    return isinstance(error, invalid)


def _wrap_authenticate_user(access: Access) -> Any:
    async def wrapper(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        endpoint = ""
        with access.guard:
            _, endpoint = calling_function(sys._getframe())
        try:
            response = await wrapped(*args, **kwargs)
        except Exception as error:
            with access.guard:
                access.on_signed_in(endpoint, args[0], error)
            raise
        with access.guard:
            access.on_signed_in(endpoint, args[0], None)
        return response

    return wrapper


def _wrap_get_oauth_redirect_error(access: Access) -> Any:
    def wrapper(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        with access.guard:
            # It is called inside the `except` clause, if there was an exception.
            access.on_oauth_redirect(args[0], sys.exc_info()[1])
        return wrapped(*args, **kwargs)

    return wrapper


def _wrap_decode_jwt(access: Access) -> Any:
    def wrapper(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        has_token = any((*args, *kwargs.values()))
        try:
            user = wrapped(*args, **kwargs)
        except Exception as error:
            with access.guard:
                if has_token:
                    access.on_token_checked(error)
            raise
        with access.guard:
            access.on_token_checked(None)
        return user

    return wrapper


def _wrap_is_thread_author(access: Access) -> Any:
    async def wrapper(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        try:
            result = await wrapped(*args, **kwargs)
        except Exception as error:
            with access.guard:
                access.on_thread_requested(error)
            raise
        with access.guard:
            access.on_thread_requested(None)
        return result

    return wrapper


def _wrap_authenticate_connection(access: Access) -> Any:
    async def wrapper(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        try:
            return await wrapped(*args, **kwargs)
        except Exception as error:
            with access.guard:
                access.on_unauthenticated(error)
            raise

    return wrapper


def _wrap_resume_thread(access: Access) -> Any:
    async def wrapper(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        check: _AccessCheck | None = None
        with access.guard:
            check = access.on_resume()
        thread = None
        try:
            thread = await wrapped(*args, **kwargs)
        finally:
            with access.guard:
                if check is not None:
                    access.on_resumed(args[0], check, refused=not thread)
        return thread

    return wrapper


def _wrap_connect(patches: Patches, access: Access, original: Any) -> Any:
    @wraps(original)
    async def connect(sid: str, environ: Any, *auth: Any) -> Any:
        check: _AccessCheck | None = None
        with access.guard:
            # Without auth this is python-socketio trying an older signature.
            if patches.active and auth:
                check = access.on_connect()
        error: BaseException | None = None
        try:
            return await original(sid, environ, *auth)
        except BaseException as raised:
            error = raised
            raise
        finally:
            with access.guard:
                if check is not None:
                    access.on_connected(sid, check, error)
            # A traceback holds this frame: without this they would keep each other alive.
            del error

    return connect


def _wrap_lookup(
    patches: Patches, access: Access, is_found: Callable[[Any], bool], original: Any
) -> Any:
    @wraps(original)
    async def look_up(*args: Any, **kwargs: Any) -> Any:
        if not patches.active:
            return await original(*args, **kwargs)
        check: _AccessCheck | None = None
        with access.guard:
            check = access.on_lookup()
        try:
            result = await original(*args, **kwargs)
        except Exception:
            if check is not None:
                check.thread = "error"
            raise
        with access.guard:
            if check is not None and is_found(result):
                check.thread = "found"
        return result

    return look_up
