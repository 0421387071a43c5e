"""Which installation the keys of a Redis belong to: two under one prefix would take each other's tasks."""

import asyncio

from redis.exceptions import RedisError

from shared.settings import SharedSettings
from shared.store.keys import Keys
from shared.store.outage import Outage
from shared.store.redis_client import connect

RETRY_SECONDS = 0.5


class PrefixTaken(Exception):
    """Another installation has these keys; the message says which one, and what to do."""


async def claim_prefix(settings: SharedSettings, outage: Outage) -> None:
    """Writes the installation's name where another one would find it; waits for Redis as long as it takes.

    Returns at once where the installation has no name. Raises PrefixTaken.
    """
    name = settings.installation
    if not name:
        return
    key = Keys(settings.key_prefix).owner
    redis = connect(settings, outage)
    try:
        while True:
            try:
                await redis.set(key, name, nx=True)
                owner = await redis.get(key)
            except (RedisError, OSError):  # the outage says what is wrong with Redis
                await asyncio.sleep(RETRY_SECONDS)
                continue
            assert owner is None or isinstance(owner, bytes)
            if owner == name.encode():
                return
            if owner is not None:
                raise PrefixTaken(
                    f"The keys {settings.key_prefix}* of this Redis belong to the installation "
                    f"{owner.decode(errors='replace')}, and this is {name}: give it a HEADRACE_KEY_PREFIX of its own "
                    f"(settings.keyPrefix of the chart) or another database. If the other one is gone for good, "
                    f"delete the key {key}."
                )
    finally:
        await redis.aclose()
