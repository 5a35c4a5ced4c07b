"""What can go wrong for a visitor."""

from __future__ import annotations


class VisitError(Exception):
    """Something that a visitor has tried did not succeed."""


class Unreachable(VisitError):
    """Nothing answers at the address, or what answers does not speak Chainlit's protocol."""


class Refused(VisitError):
    """The app does not let this visitor in, or do this; the message is the app's reason.

    Attributes:
        status: of the HTTP answer; None when it was refused over the socket.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NoAnswer(VisitError):
    """The app did not answer in time."""


class ConnectionLost(VisitError):
    """The connection ended while something was still expected from it."""
