"""That the order in which pip decides on OpenTelemetry's releases stays the one that ends soon."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_BASE = "opentelemetry-instrumentation"


def _required_by(name: str) -> dict[str, Requirement]:
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return {}
    wanted = [Requirement(line) for line in lines]
    return {
        canonicalize_name(r.name): r
        for r in wanted
        if r.marker is None or r.marker.evaluate({"extra": ""})
    }


def _below(name: str) -> set[str]:
    found: set[str] = set()
    left = [name]
    while left:
        new = set(_required_by(left.pop())) - found
        found |= new
        left += new
    return found


def _operators(requirement: Requirement) -> set[str]:
    return {part.operator for part in requirement.specifier}


def test_all_that_pins_a_release_below_chainlit_decides_before_what_we_add() -> None:
    pinning = {
        name
        for name in _below("chainlit")
        if name.startswith(f"{_BASE}-")
        and _BASE in (required := _required_by(name))
        and "==" in _operators(required[_BASE])
    }
    ours = _required_by("chainlit-otel")
    bounded = {name for name, requirement in ours.items() if requirement.specifier}
    assert pinning
    assert pinning <= bounded
    assert f"{_BASE}-fastapi" in ours
    assert f"{_BASE}-fastapi" not in bounded


def test_nothing_of_opentelemetry_has_an_upper_bound() -> None:
    ours = _required_by("chainlit-otel")
    telemetry = {n: r for n, r in ours.items() if n.startswith("opentelemetry-")}
    assert str(telemetry["opentelemetry-sdk"].specifier) == ">=1.28.1"
    assert all(_operators(requirement) <= {">="} for requirement in telemetry.values())
