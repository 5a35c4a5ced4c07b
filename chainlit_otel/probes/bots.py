"""Bots: Chainlit's own apps for Slack, Teams and Discord.

Each of them handles a message by a function of its own, which makes an HTTP session, calls the same
callbacks as the page, and sends by an emitter of its own: neither the handlers of the sockets nor
`sio.emit` are called. Their modules are imported only if a token for them is set, so each is
wrapped at its import.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import wrapt

from chainlit_otel.core.turns import Turn
from chainlit_otel.guard import Guard, log
from chainlit_otel.patching import Patches, wraps
from chainlit_otel.probes.chainlit_types import ChainlitSession
from chainlit_otel.probes.messages import Messages, current_turn
from chainlit_otel.probes.probe import Probe, ProbeContext

Function = Callable[..., Any]
Method = Callable[..., Awaitable[Any]]


class _Bot(NamedTuple):
    """One of the apps.

    Attributes:
        module: Its module.
        process: Name of the function that handles a message.
        init_context: Name of the function that gets the session of the message.
        emitter: Name of the class that sends.
        text: Returns the text of the first argument of `process`.
    """

    module: str
    process: str
    init_context: str
    emitter: str
    text: Callable[[Any], object]


_BOTS = (
    _Bot(
        "chainlit.slack.app",
        "process_slack_message",
        "init_slack_context",
        "SlackEmitter",
        lambda event: event.get("text"),
    ),
    _Bot(
        "chainlit.teams.app",
        "process_teams_message",
        "init_teams_context",
        "TeamsEmitter",
        lambda turn_context: turn_context.activity.text,
    ),
    _Bot(
        "chainlit.discord.app",
        "process_discord_message",
        "init_discord_context",
        "DiscordEmitter",
        lambda message: message.content,
    ),
)


class _Incoming:
    """A message that has arrived, and its turn, which starts once it has a session."""

    __slots__ = ("arrived", "message", "turn")

    def __init__(self, message: Any) -> None:
        self.arrived = time.monotonic_ns()
        self.message = message
        self.turn: Turn | None = None


_incoming: ContextVar[_Incoming | None] = ContextVar("chainlit_otel_incoming", default=None)


class Bots(Probe):
    """The messages that bots receive and send."""

    name = "bots"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._messages = context.get(Messages)

    def install(self, patches: Patches) -> None:
        """Wrap each of the apps as soon as it is imported."""
        for bot in _BOTS:
            wrap = functools.partial(_wrap_bot, patches, self, bot)
            wrapt.register_post_import_hook(wrap, bot.module)

    def on_session(self, bot: _Bot, incoming: _Incoming, session: ChainlitSession | None) -> None:
        """A message is about to be answered, in a session made for it; None if it has failed."""
        incoming.turn = self._messages.start_turn(session, "bot", incoming.arrived)
        self._messages.start_span(incoming.turn, session)
        self._messages.on_received(bot.text(incoming.message))

    def on_end(self, bot: _Bot, incoming: _Incoming, error: BaseException | None) -> None:
        """A message is handled, ignored or has failed."""
        if incoming.turn is None and error is not None:
            self.on_session(bot, incoming, None)
        if incoming.turn is not None:
            self._messages.end_turn(incoming.turn, error)

    def on_step(self, step: Any) -> None:
        """A step was sent, of which bots show only messages of the app that are not empty."""
        if (turn := current_turn.get()) is not None:
            # What a user of a bot judges is the run that the answer is in.
            self._messages.judgements.message_sent(step["id"], turn)
        if step["type"] == "assistant_message" and step.get("output"):
            self._messages.on_message_sent(step, is_new=True)
        elif step["type"] == "user_message" and turn is not None:
            # Teams and Discord are sent the message of the user, too.
            turn.message_id = step["id"]

    def on_element(self, element: Any) -> None:
        """A file was sent, of which bots show only those with the display `inline`."""
        if element.get("display") == "inline":
            self._messages.on_output(element)


def _wrap_bot(patches: Patches, bots: Bots, bot: _Bot, module: Any) -> None:
    """Wrap one of the apps. It runs inside the application's import, so it must not raise."""
    if not patches.active:
        return
    with bots.guard:
        for name in (bot.process, bot.init_context, bot.emitter):
            if not hasattr(module, name):
                log(logging.WARNING, "turns of %s are not counted: no %s", bot.module, name)
                return
        emitter = getattr(module, bot.emitter)
        patches.replace_attribute(
            module, bot.process, functools.partial(_wrap_process, patches, bots, bot)
        )
        patches.replace_attribute(
            module,
            bot.init_context,
            functools.partial(_wrap_init_context, patches, bots, bot),
        )
        for name, sent in (("send_step", bots.on_step), ("send_element", bots.on_element)):
            patches.replace_attribute(
                emitter, name, functools.partial(_wrap_send, patches, bots.guard, sent)
            )


def _wrap_process(patches: Patches, bots: Bots, bot: _Bot, original: Method) -> Method:
    @wraps(original)
    async def process(*args: Any, **kwargs: Any) -> Any:
        if not patches.active:
            return await original(*args, **kwargs)
        incoming = _Incoming(_first(args, kwargs))
        token = _incoming.set(incoming)
        error: BaseException | None = None
        try:
            return await original(*args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            with bots.guard:
                _incoming.reset(token)
                bots.on_end(bot, incoming, error)
            # A traceback holds this frame: without this they would keep each other alive.
            del error

    return process


def _wrap_init_context(patches: Patches, bots: Bots, bot: _Bot, original: Function) -> Function:
    @wraps(original)
    def init_context(*args: Any, **kwargs: Any) -> Any:
        context = original(*args, **kwargs)
        with bots.guard:
            incoming = _incoming.get()
            # A reaction to a message makes a session, too, and is no message.
            if patches.active and incoming is not None and incoming.turn is None:
                bots.on_session(bot, incoming, context.session)
        return context

    return init_context


def _wrap_send(
    patches: Patches, guard: Guard, sent: Callable[[Any], None], original: Method
) -> Method:
    @wraps(original)
    async def send(emitter: Any, *args: Any, **kwargs: Any) -> Any:
        # If the service raises, nothing was sent.
        result = await original(emitter, *args, **kwargs)
        with guard:
            if patches.active:
                sent(_first(args, kwargs))
        return result

    return send


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the first argument of a call, whether by position or by name."""
    return next(iter((*args, *kwargs.values())), None)
