"""Asking a server of this machine, over plain HTTP."""

from __future__ import annotations

from typing import Any

import httpx


def fetch(url: httpx.URL | str, *, timeout: float = 30.0, **options: Any) -> httpx.Response:
    """Like `httpx.get`.

    A client of httpx reads all certificates of the system, each time, which takes 40 ms of a CPU.
    Who waits for a server asks twenty times a second, and takes from it what it needs to start.
    """
    return httpx.get(url, timeout=timeout, verify=False, **options)
