"""Finding the data layer, whichever it is.

Chainlit asks `get_data_layer` for it at every use, by a name that each of its modules has imported
for itself. So each of these names is wrapped, and the layer is seen when it is first used. Its
methods are then put before those of its class on the one instance: a layer of the app need not
have a base class that could be wrapped.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches, SeamMissing

logger = logging.getLogger("chainlit_otel")

_NAME = "get_data_layer"

Method = Callable[..., Awaitable[Any]]


def watch(patches: Patches, guard: Guard, found: Callable[[Any], None]) -> None:
    """Have `found` told of the data layer, once, before its first use.

    Raises:
        SeamMissing: This version of Chainlit gets its data layer elsewhere.
    """
    original = vars(import_module("chainlit.data")).get(_NAME)
    if original is None:
        raise SeamMissing(f"chainlit.data.{_NAME}")
    known: list[Any] = []

    @functools.wraps(original)
    def get_data_layer() -> Any:
        layer = original()
        with guard:
            if patches.active and not any(layer is other for other in known):
                known.append(layer)
                if layer is not None and not hasattr(layer, "__dict__"):
                    logger.warning("%s is not observed: it has __slots__", type(layer).__name__)
                elif layer is not None:
                    found(layer)
        return layer

    # A copy first: the thread of the admin server may be importing, and it would change meanwhile.
    loaded = list(sys.modules.items())
    for module in [m for name, m in loaded if name.startswith("chainlit.")]:
        if vars(module).get(_NAME) is original:
            patches.replace(vars(module), _NAME, lambda _: get_data_layer)


def shadow(patches: Patches, layer: Any, name: str, make: Callable[[Method], Method]) -> None:
    """Put a method of a data layer before that of its class, if it has it.

    Args:
        patches: Puts it there.
        layer: The data layer.
        name: Name of the method.
        make: Makes the method from the one that was there.
    """
    # A layer of the app may lack what it has no use for.
    if inspect.iscoroutinefunction(getattr(layer, name, None)):
        patches.shadow(layer, name, make)
