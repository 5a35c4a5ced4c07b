"""What a callback's code is known by."""

from __future__ import annotations

import gc
from typing import Any

from chainlit_otel.probes.callbacks import Callbacks
from tests.support.probes import probe_context


def compiled() -> Any:
    """The code of a function that is made anew, equal to that of the last time."""
    namespace: dict[str, Any] = {}
    exec(compile("async def f(): ...", "app.py", "exec"), namespace)
    return namespace["f"].__code__


def test_code_that_is_loaded_again_keeps_its_name_when_the_old_is_gone() -> None:
    callbacks = probe_context().get(Callbacks)
    old, new, other = compiled(), compiled(), compiled()
    assert old == new
    callbacks._remember(old, "on_message")
    callbacks._remember(new, "on_message")
    assert callbacks.name_of(other) is None
    del old
    gc.collect()
    assert callbacks.name_of(new) == "on_message"
    del new
    gc.collect()
    assert callbacks._names == {}
