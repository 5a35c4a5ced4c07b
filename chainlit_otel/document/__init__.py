"""What pages without a script are made of: frame, style, and pictures in its colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup


def rendered(
    package: str, name: str, filters: Mapping[str, Callable[..., Any]], **values: object
) -> str:
    """Return a page that needs neither a script nor a network.

    Args:
        package: The package that has the template, which extends `base.html`.
        name: File name of the template.
        filters: What the template calls, by name.
        values: What the template shows.
    """
    templates = {
        "base.html": _text(__name__, "base.html"),
        name: _text(package, name),
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(templates), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(filters)
    return environment.get_template(name).render(style=style(), **values)


def style() -> Markup:
    """Return the style sheet."""
    return Markup(_text(__name__, "style.css"))


def _text(package: str, name: str) -> str:
    return (files(package) / name).read_text(encoding="utf-8")
