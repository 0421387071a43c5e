"""The client of Redis or Valkey: one asyncio client per process, plain, TLS or through Sentinel."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError, NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from shared.settings import SharedSettings
from shared.store.connections import REPORTING, Checked, MasterPool, ReportingMaster, ReportingSentinel
from shared.store.outage import Outage, kind_of

MAX_CONNECTIONS = 32
"""Of one process. More callers wait for a free connection instead of opening another."""


def connect(settings: SharedSettings, outage: Outage, *, retries: int = 0) -> Redis:
    """A client that opens its connections on first use and tells `outage` what they meet.

    Replies are bytes. `retries`: how often a command is sent again over a new connection when the old one turns out to
    be closed; only for a caller whose commands may all run twice. A command that timed out is never repeated.
    Raises redis.exceptions.RedisError from the commands; a silent server raises TimeoutError after `redis_timeout`.
    """
    url = settings.redis_url.get_secret_value()
    sockets: dict[str, Any] = {
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_timeout,
        "socket_keepalive": True,
        # With these (a feature of Redis Cloud, on by default) redis-py hands out pooled connections that the server
        # has closed: after a restart of Redis each of them would fail a command.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    options = {
        **sockets,
        "health_check_interval": 5,
        "retry": Retry(ConstantBackoff(0.05), retries, supported_errors=(ConnectionError,)),
    }
    if urlsplit(url).scheme != "sentinel":
        named: dict[str, Any] = dict(parse_url(url))
        named["connection_class"] = REPORTING[named.get("connection_class")]
        waiting = {"max_connections": MAX_CONNECTIONS, "timeout": settings.redis_timeout}
        return Redis.from_pool(BlockingConnectionPool(outage=outage, **{**options, **waiting, **named}))
    parts = [urlsplit(part) for part in url.split(";")]
    retry = Retry(ConstantBackoff(0.05), 0)
    sentinels = [
        Redis.from_pool(
            ConnectionPool(
                Checked,
                host=part.hostname or "127.0.0.1",
                port=part.port or 26379,
                retry=retry,
                **{**sockets, **settings.sentinel_login},
            )
        )
        for part in parts
    ]
    sentinel = ReportingSentinel(sentinels, outage, connection_class=ReportingMaster, **options)
    first = parts[0]
    client: Redis = sentinel.master_for(
        settings.redis_sentinel_service,
        connection_pool_class=MasterPool,
        db=int(first.path.strip("/") or 0),
        username=unquote(first.username) if first.username else None,
        password=unquote(first.password) if first.password else None,
    )
    return client


async def replies_of(pipeline: Pipeline) -> list[Any]:
    """The reply to each command of a pipeline over several tasks' keys; where one was refused, the ResponseError.

    Raises redis.exceptions.RedisError where it is not about one command alone: then it is nobody's reply.
    """
    return each_its_own(await pipeline.execute(raise_on_error=False))


def each_its_own(replies: list[Any]) -> list[Any]:
    """The replies, each about one task. Raises the redis.exceptions.RedisError among them that is about all."""
    for reply in replies:
        if isinstance(reply, NoScriptError) or (isinstance(reply, Exception) and kind_of(reply) is not None):
            raise reply
    return replies


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
