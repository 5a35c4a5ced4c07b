"""A limit on how often somebody may do something, shared by all processes of the app."""

from __future__ import annotations

from redis.asyncio import Redis

# KEYS: the count. ARGV: the window in milliseconds.
# In one script, or a process that dies between the two calls leaves a count that never ends.
_COUNT = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('PTTL', KEYS[1])}
"""


class RateLimit:
    """So many times in a window of time, which begins with the first of them.

    Args:
        redis: The client.
        name: What is limited; part of the keys.
        times: How often.
        window: Seconds.
    """

    def __init__(self, redis: Redis, name: str, *, times: int, window: float) -> None:
        self._redis = redis
        self._name = name
        self._times = times
        self._window = int(window * 1000)

    async def take(self, who: str) -> float:
        """Count one more time.

        Args:
            who: An id. Whoever is turned away does not make the window longer by asking again.

        Returns:
            0 if it is within the limit, else the seconds until the next try makes sense.

        Raises:
            redis.exceptions.RedisError: Redis cannot be asked.
        """
        key = f"limit:{self._name}:{who}"
        count, left = await self._redis.eval(_COUNT, 1, key, self._window)
        return 0.0 if count <= self._times else max(left, 1) / 1000
