"""Finding the data layer, whichever it is.

Chainlit asks `get_data_layer` for it at every use, by a name that each of its modules has imported
for itself. So each of these names is wrapped, and the layer is seen when it is first used. Its
methods are then put before those of its class on the one instance: a layer of the app need not
have a base class that could be wrapped.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches, SeamMissing

_NAME = "get_data_layer"


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
                # With `__slots__` alone it takes no attributes.
                if hasattr(layer, "__dict__"):
                    found(layer)
        return layer

    for module in [m for name, m in sys.modules.items() if name.startswith("chainlit.")]:
        if vars(module).get(_NAME) is original:
            patches.replace(vars(module), _NAME, lambda _: get_data_layer)
