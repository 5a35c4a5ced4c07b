"""What stands for ids and users outside of this process."""

from __future__ import annotations

import hashlib
import hmac


def hashed(id: object) -> str:
    """Return the hash that is exported in place of a session id, the same on every replica.

    Whoever knows the id itself can restore the session if the app has no sign-in.
    """
    return hashlib.sha256(str(id).encode(errors="surrogatepass")).hexdigest()[:16]


def hashed_user(key: str | None, identifier: str) -> str:
    """Return what stands for a user in records: HMAC-SHA-256, 16 hex digits.

    Args:
        key: The key; without one nobody can tell users from each other.
        identifier: The identifier of the user.
    """
    if key is None:
        return ""
    digest = hmac.new(
        key.encode(errors="surrogatepass"), identifier.encode(errors="surrogatepass"), "sha256"
    )
    return digest.hexdigest()[:16]
