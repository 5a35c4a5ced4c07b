"""Visitors that talk to a Chainlit app as its page does. Public."""

from chainlit_otel.testing.client import Visitor

__all__ = ["Visitor"]
