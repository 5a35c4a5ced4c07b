"""A chat with sign-in whose threads live in Redis, and which is observed down to the pool."""

import hmac
import logging
import os

import chainlit as cl
from chainlit.types import ThreadDict
from opentelemetry import metrics
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError
from sessions.layer import RedisDataLayer
from sessions.limits import RateLimit

import chainlit_otel

chainlit_otel.enable()
logger = logging.getLogger(__name__)


def connect(name: str, url: str) -> Redis:
    """Make a client with a pool that all of the app shares, and which is observed."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=int(os.environ.get("REDIS_CONNECTIONS", "10")),
        timeout=5,  # seconds to wait for a free connection
        decode_responses=True,
        client_name=f"chat-{name}",
        socket_timeout=5,
        socket_connect_timeout=2,
        # A connection that broke while it was idle is noticed when it is used. Not for long: a
        # user waits, and an outage should show.
        retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), 3),
    )
    chainlit_otel.watch_pool(name, pool)
    return Redis.from_pool(pool)


redis = connect("redis", os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
replica_url = os.environ.get("REDIS_REPLICA_URL")
layer = RedisDataLayer(
    redis,
    connect("redis-replica", replica_url) if replica_url else None,
    replica_lag=float(os.environ.get("REDIS_REPLICA_LAG", "1")),
    ttl=float(os.environ.get("SESSION_TTL", "0")),
)
chainlit_otel.watch_cache("users", layer.users)
chainlit_otel.watch_cache("threads", layer.threads)
# What only this app has gets metrics of its own; they are served with the others.
metrics.get_meter("chat").create_observable_up_down_counter(
    "chat.writes.waiting",
    [lambda _: [metrics.Observation(layer.writer.waiting)]],
    unit="{write}",
    description="Writes that wait for the next batch to Redis.",
)

limit = RateLimit(
    redis,
    "messages",
    times=int(os.environ.get("MESSAGE_LIMIT", "20")),
    window=float(os.environ.get("MESSAGE_WINDOW", "60")),
)
# In the place of your own directory of users.
passwords = dict(pair.split("=", 1) for pair in os.environ.get("CHAT_USERS", "").split(",") if pair)


@cl.data_layer
def data_layer() -> RedisDataLayer:
    return layer


@cl.on_app_startup
async def look_for_redis() -> None:
    try:
        await redis.ping()
    except RedisError as error:
        logger.error("No Redis (REDIS_URL): %s. The chat answers, and keeps nothing.", error)


@cl.password_auth_callback
async def sign_in(name: str, password: str) -> cl.User | None:
    expected = passwords.get(name, "")
    matches = hmac.compare_digest(expected.encode(), password.encode())
    return cl.User(identifier=name) if expected and matches else None


@cl.on_chat_start
async def greet() -> None:
    await cl.Message("Hello. What is it about?").send()


@cl.on_chat_resume
async def resume(thread: ThreadDict) -> None:
    # Chainlit shows the thread by itself, but only to an app that resumes threads.
    pass


@cl.on_message
async def answer(message: cl.Message) -> None:
    wait = await seconds_to_wait(cl.user_session.get("user").identifier)
    if wait:
        chainlit_otel.access_denied("rate_limit", "messages")
        await cl.Message(f"That was quick. Go on in {wait:.0f} s, please.").send()
        return
    await cl.Message(f"You said: {message.content}").send()


async def seconds_to_wait(user: str) -> float:
    """How long a user has to wait for the next message; 0 if not at all."""
    try:
        wait: float = await limit.take(user)
    except RedisError as error:
        # The limit guards costs, not secrets: without Redis it is better to answer.
        logger.warning("The rate limit cannot be checked: %s", error)
        return 0.0
    return wait
