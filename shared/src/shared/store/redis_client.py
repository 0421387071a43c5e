"""Connections to Redis or Valkey: one asyncio client per process, plain, TLS or through Sentinel."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from shared.settings import SharedSettings

MAX_CONNECTIONS = 32
"""Of one process. More callers wait for a free connection instead of opening another."""


def connect(settings: SharedSettings, *, retries: int = 0) -> Redis:
    """A client that opens its connections on first use.

    Replies are bytes. `retries`: how often a command is sent again over a new connection when the old one turns out to
    be closed; only for a caller whose commands may all run twice. A command that timed out is never repeated.
    Raises redis.exceptions.RedisError from the commands; a silent server raises TimeoutError after `redis_timeout`.
    """
    url = settings.redis_url.get_secret_value()
    options = {
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_timeout,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "retry": Retry(ConstantBackoff(0.05), retries, supported_errors=(ConnectionError,)),
        # With these (a feature of Redis Cloud, on by default) redis-py hands out pooled connections that the server
        # has closed: after a restart of Redis each of them would fail a command.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if urlsplit(url).scheme != "sentinel":
        pool = BlockingConnectionPool.from_url(
            url, max_connections=MAX_CONNECTIONS, timeout=settings.redis_timeout, **options
        )
        return Redis.from_pool(pool)
    parts = [urlsplit(part) for part in url.split(";")]
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py has not typed it
        [(part.hostname or "127.0.0.1", part.port or 26379) for part in parts],
        sentinel_kwargs={key: options[key] for key in ("socket_timeout", "socket_connect_timeout")},
        **options,
    )
    first = parts[0]
    client: Redis = sentinel.master_for(
        settings.redis_sentinel_service,
        db=int(first.path.strip("/") or 0),
        username=first.username,
        password=first.password,
    )
    return client


@asynccontextmanager
async def answered_within(seconds: float) -> AsyncIterator[None]:
    """Bounds all commands inside together. Raises redis.exceptions.TimeoutError when they take longer."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise RedisTimeoutError(f"no answer within {seconds:g} s") from None
        raise


async def now_ms(redis: Redis) -> int:
    """Milliseconds of Redis's own clock, so that replicas with skewed clocks agree on leases and deadlines."""
    seconds, microseconds = await redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000
