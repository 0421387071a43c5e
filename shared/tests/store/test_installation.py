"""One installation per prefix."""

import asyncio

import pytest
from redis.asyncio import Redis

from shared.settings import SharedSettings
from shared.store.installation import PrefixTaken, claim_prefix
from shared.store.keys import Keys
from shared.store.outage import Outage
from testbed.valkey import Valkey


def named(settings: SharedSettings, installation: str, prefix: str = "headrace:") -> SharedSettings:
    return settings.model_copy(update={"installation": installation, "key_prefix": prefix})


async def test_the_first_installation_has_the_prefix_and_may_start_again(
    shared_settings: SharedSettings, redis: Redis, keys: Keys
) -> None:
    first = named(shared_settings, "ml/headrace")
    await asyncio.gather(*(claim_prefix(first, Outage()) for _ in range(5)))
    assert await redis.get(keys.owner) == b"ml/headrace"


async def test_another_one_is_refused_with_what_to_do(shared_settings: SharedSettings) -> None:
    await claim_prefix(named(shared_settings, "ml/headrace"), Outage())
    with pytest.raises(PrefixTaken) as refusal:
        await claim_prefix(named(shared_settings, "test/headrace"), Outage())
    for part in ("headrace:* of this Redis belong to the installation ml/headrace", "this is test/headrace"):
        assert part in str(refusal.value)
    assert "HEADRACE_KEY_PREFIX" in str(refusal.value)
    assert "delete the key headrace:owner" in str(refusal.value)


async def test_of_two_at_the_same_time_one_is_refused(shared_settings: SharedSettings) -> None:
    both = [claim_prefix(named(shared_settings, name), Outage()) for name in ("a", "b")]
    refused = [error for error in await asyncio.gather(*both, return_exceptions=True) if error]
    assert [type(error) for error in refused] == [PrefixTaken]


async def test_another_prefix_and_no_name_are_nobodys_business(shared_settings: SharedSettings, redis: Redis) -> None:
    await claim_prefix(named(shared_settings, "ml/headrace"), Outage())
    await claim_prefix(named(shared_settings, "test/headrace", "test:"), Outage())
    await claim_prefix(shared_settings, Outage())
    assert sorted(await redis.keys("*owner")) == [b"headrace:owner", b"test:owner"]


async def test_it_waits_for_a_redis_that_is_away(shared_settings: SharedSettings, valkey: Valkey) -> None:
    valkey.stop()
    claim = asyncio.create_task(claim_prefix(named(shared_settings, "ml/headrace"), Outage()))
    done, _ = await asyncio.wait([claim], timeout=0.3)
    assert not done
    valkey.start()
    async with asyncio.timeout(10):
        await claim
