"""What a model call costs: by one's own file, by the dated list, or not known."""

from __future__ import annotations

import json
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
import pytest

from chainlit_otel.core.usage import ModelCall
from chainlit_otel.guard import Guard
from chainlit_otel.prices import Prices, build_prices, read_prices
from chainlit_otel.settings import Settings
from tests.conftest import InternalErrors


def call(model: str, answered: str = "", provider: str = "", **tokens: Any) -> ModelCall:
    return ModelCall(model, answered, provider, tokens)


def listed() -> Prices:
    prices = Prices({}, Guard("model_calls"))
    prices.load_list()
    return prices


def flat(price: object) -> Decimal:
    assert isinstance(price, Decimal), "another price above some number of tokens"
    return price


@pytest.fixture(scope="module")
def prices() -> Prices:
    return listed()


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "openai"),
        ("gpt-4o-mini", ""),
        ("claude-haiku-4-5", "anthropic"),
        ("gpt-4o", "azure.ai.openai"),
        ("openai/gpt-4o", "openai"),
        ("gpt-4o", "a gateway of one's own"),
    ],
)
def test_the_cost_is_that_of_the_list(prices: Prices, model: str, provider: str) -> None:
    cost = prices.cost_of(
        call(model, provider=provider, input=1_000_000, output=500_000, cache_read=400_000)
    )
    known = model.rpartition("/")[2]
    price = genai_prices.calc_price(genai_prices.Usage(input_tokens=1), known).model_price
    # By hand, from the three prices of the list.
    expected = (
        flat(price.input_mtok) * Decimal("0.6")
        + flat(price.cache_read_mtok) * Decimal("0.4")
        + flat(price.output_mtok) * Decimal("0.5")
    )
    assert cost == pytest.approx(float(expected), rel=1e-12)


def test_a_model_that_nobody_prices_has_no_price(prices: Prices) -> None:
    assert prices.cost_of(call("a-model-of-ours", input=1, output=1)) is None
    assert prices.cost_of(call("", input=1, output=1)) is None


def test_without_the_list_nothing_has_a_price() -> None:
    assert Prices({}, Guard("model_calls")).cost_of(call("gpt-4o", input=1, output=1)) is None


def test_the_list_goes_by_what_has_answered(prices: Prices) -> None:
    alias = prices.cost_of(call("my-deployment", "gpt-4o-2024-08-06", input=1000, output=10))
    assert alias == prices.cost_of(call("gpt-4o-2024-08-06", input=1000, output=10))
    assert alias is not None


def test_prices_of_ones_own_go_first(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(
        json.dumps(
            {
                "gpt-4o": {"input_mtok": 1, "output_mtok": 2},
                "ours-*": {"input_mtok": 10, "output_mtok": 20},
                "ours-large-*": {
                    "input_mtok": 100,
                    "output_mtok": 200,
                    "cache_read_mtok": 5,
                    "cache_write_mtok": 125,
                },
            }
        )
    )
    prices = build_prices(Settings(prices_file=str(path)), Guard("model_calls"))
    million: dict[str, Any] = {"input": 1_000_000, "output": 1_000_000}
    assert prices.cost_of(call("gpt-4o", **million)) == 3
    assert prices.cost_of(call("ours-small", **million)) == 30
    assert prices.cost_of(call("ours-large-2", **million)) == 300
    cached = call("ours-large-2", **million, cache_read=500_000, cache_write=200_000)
    assert prices.cost_of(cached) == pytest.approx(0.3 * 100 + 0.5 * 5 + 0.2 * 125 + 200)
    assert prices.cost_of(call("their-alias", "ours-small", **million)) == 30
    assert prices.cost_of(call("openai/gpt-4o", **million)) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object, such as"),
        ('{"m": {"input_mtok": 1}}', "'m' is left out: it needs input_mtok and output_mtok"),
        ('{"m": 3}', "'m' is left out: it needs input_mtok and output_mtok"),
        (
            '{"m": {"input_mtok": 1, "output_mtok": -1}}',
            "'m' is left out: output_mtok must be a number that is not negative",
        ),
        (
            '{"m": {"input_mtok": NaN, "output_mtok": 1}}',
            "'m' is left out: input_mtok must be a number that is not negative",
        ),
        (
            '{"m": {"input_mtok": 1, "output_mtok": 1, "inptu": 1}}',
            "'m' is left out: 'inptu' is none of input_mtok, output_mtok,",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    text: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with caplog.at_level(logging.WARNING, logger="chainlit_otel"):
        assert read_prices(str(path)) == {}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"CHAINLIT_OTEL_PRICES_FILE={str(path)!r}: ")
    assert said in line
    assert "\n" not in line


def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "none.json"
    with caplog.at_level(logging.WARNING, logger="chainlit_otel"):
        assert read_prices(str(path)) == {}
    assert "cannot be read, so no price of it holds: No such file or directory" in caplog.text


def test_a_list_that_fails_costs_a_price_and_no_more(
    monkeypatch: pytest.MonkeyPatch, expected_internal_errors: InternalErrors
) -> None:

    guard = Guard("model_calls")
    prices = Prices({}, guard)

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    monkeypatch.setattr(prices, "_list", Broken())
    assert prices.cost_of(call("gpt-4o", input=1, output=1)) is None
    assert guard.errors == 1
