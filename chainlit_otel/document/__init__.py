"""What pages without a script are made of: their style, and pictures in its colours."""

from __future__ import annotations

from importlib.resources import files

from markupsafe import Markup


def style() -> Markup:
    """Return the style sheet."""
    return Markup((files(__name__) / "style.css").read_text(encoding="utf-8"))
