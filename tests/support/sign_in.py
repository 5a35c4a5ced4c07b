"""Signing in as a browser does."""

from __future__ import annotations

import httpx


async def sign_in(url: str, name: str, password: str = "demo") -> dict[str, str]:
    """The headers of a browser that has signed in; without a cookie if it was not let in."""
    async with httpx.AsyncClient(timeout=60, verify=False) as client:
        await client.post(f"{url}/login", data={"username": name, "password": password})
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    return {"Cookie": cookies}
