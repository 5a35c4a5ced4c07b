"""What a call of a model costs: by a file of one's own, else by the dated list of `genai-prices`.

In US dollars, as that list is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chainlit_otel.core.usage import ModelCall, without_provider
from chainlit_otel.guard import Guard
from chainlit_otel.settings import Settings, warn

_MILLION = 1_000_000
_FIELDS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
}
_LIST = "genai_prices"


class Prices:
    """The prices of models.

    Args:
        own: Prices of a million tokens by type, by the name of a model, or by how it begins if a
            `*` follows. They go before those of the list.
        guard: Holds what goes wrong in the list.
    """

    def __init__(self, own: Mapping[str, Mapping[str, float]], guard: Guard) -> None:
        self._own = own
        self._guard = guard
        self._list: Any = None

    def load_list(self) -> None:
        """Load `genai-prices`, if it is installed; it takes half a second.

        Not in another thread: imports of two threads may meet, and then one of them, which may be
        the app's, gets half a module.
        """
        with self._guard:
            if find_spec(_LIST) is not None:
                self._list = import_module(_LIST)

    def cost_of(self, call: ModelCall) -> float | None:
        """Return what a call has cost in US dollars; None if there is no price for it."""
        for name in _names(call.requested, call.responded):
            if (prices := self._find(name)) is not None:
                return _cost(call.tokens, prices)
        with self._guard:
            return self._listed(call)
        return None

    def _find(self, name: str) -> Mapping[str, float] | None:
        if (exact := self._own.get(name)) is not None:
            return exact
        # The longest beginning says the most of a model.
        starts = [key for key in self._own if key.endswith("*") and name.startswith(key[:-1])]
        return self._own[max(starts, key=len)] if starts else None

    def _listed(self, call: ModelCall) -> float | None:
        if self._list is None:
            return None
        tokens = call.tokens
        usage = self._list.Usage(
            input_tokens=tokens.get("input"),
            output_tokens=tokens.get("output"),
            cache_read_tokens=tokens.get("cache_read"),
            cache_write_tokens=tokens.get("cache_write"),
        )
        # What has answered has a price; what was asked for may be an alias of it.
        for name in _names(call.responded, call.requested):
            for provider in dict.fromkeys((call.provider or None, None)):
                try:
                    price = self._list.calc_price(usage, name, provider_id=provider)
                except LookupError:
                    continue
                return float(price.total_price)
        return None


def _names(*names: str) -> list[str]:
    """Return by which names a price is looked for: as they are, then without a provider."""
    bare = map(without_provider, names)
    return [name for name in dict.fromkeys((*names, *bare)) if name]


def build_prices(settings: Settings, guard: Guard) -> Prices:
    """Return the prices that the settings name, and those of `genai-prices`.

    Args:
        settings: The settings.
        guard: Holds what goes wrong in the list.
    """
    return Prices({} if settings.prices_file is None else read_prices(settings.prices_file), guard)


def read_prices(path: str) -> dict[str, dict[str, float]]:
    """Return the prices of a million tokens by type, by model; what is wrong is one line.

    Args:
        path: The file, in JSON.
    """

    def problem(text: str) -> None:
        warn(f"CHAINLIT_OTEL_PRICES_FILE={path!r}: {text}")

    try:
        read = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        problem(f"cannot be read, so no price of it holds: {error.strerror}")
        return {}
    except ValueError as error:
        problem(f"is not JSON, so no price of it holds: {error}")
        return {}
    if not isinstance(read, dict):
        problem('must be an object, such as {"my-model": {"input_mtok": 2.5, "output_mtok": 10}}')
        return {}
    prices: dict[str, dict[str, float]] = {}
    for model, fields in read.items():
        if (wrong := _wrong(fields)) is not None:
            problem(f"{model!r} is left out: {wrong}")
        else:
            prices[model] = {_FIELDS[key]: float(value) for key, value in fields.items()}
    return prices


def _wrong(fields: object) -> str | None:
    if not isinstance(fields, dict) or not {"input_mtok", "output_mtok"} <= fields.keys():
        return "it needs input_mtok and output_mtok, US dollars for a million tokens"
    if unknown := fields.keys() - _FIELDS.keys():
        return f"{min(unknown)!r} is none of {', '.join(_FIELDS)}"
    for key, value in fields.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            return f"{key} must be a number that is not negative"
    return None


def _cost(tokens: Mapping[str, int], prices: Mapping[str, float]) -> float:
    """Return the cost of tokens; those of caches are input with a price of its own."""
    read, written = tokens.get("cache_read", 0), tokens.get("cache_write", 0)
    fresh = max(0, tokens.get("input", 0) - read - written)
    return (
        fresh * prices["input"]
        + read * prices.get("cache_read", prices["input"])
        + written * prices.get("cache_write", prices["input"])
        + tokens.get("output", 0) * prices["output"]
    ) / _MILLION
