"""Visitors that talk to a Chainlit app as its page does. Public."""

from chainlit_otel.testing.client import Question, Visitor
from chainlit_otel.testing.errors import (
    ConnectionLost,
    NoAnswer,
    Refused,
    Unreachable,
    VisitError,
)
from chainlit_otel.testing.http import Upload
from chainlit_otel.testing.page import Action, Answer, Call, Element, Event, Step

__all__ = [
    "Action",
    "Answer",
    "Call",
    "ConnectionLost",
    "Element",
    "Event",
    "NoAnswer",
    "Question",
    "Refused",
    "Step",
    "Unreachable",
    "Upload",
    "VisitError",
    "Visitor",
]
