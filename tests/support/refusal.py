"""What a visitor hears whom the app refuses."""

from __future__ import annotations

import importlib.metadata

import pytest
from packaging.version import Version

from chainlit_otel.testing import Refused, Unreachable, Visitor

# Older releases do not know the exception by which Chainlit refuses, and tell the browser nothing.
_TOLD = Version("5.14.3") <= Version(importlib.metadata.version("python-socketio"))


async def be_refused(visitor: Visitor, patience: float = 5) -> str:
    """Connect and be refused; return the reason, which is empty where the browser hears none.

    Args:
        visitor: who is refused.
        patience: seconds to wait in vain, long enough for the app to be asked.
    """
    if not _TOLD:
        visitor.timeout = patience
    with pytest.raises(Refused if _TOLD else Unreachable) as refusal:
        await visitor.connect()
    return str(refusal.value) if _TOLD else ""
