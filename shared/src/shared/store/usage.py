"""What tenants have used, by day and model. The ledger's scripts write it when a task ends (lua/accounts.lua)."""

from datetime import UTC, date, datetime, timedelta
from typing import cast

from redis.asyncio import Redis

from shared.store.keys import Keys
from shared.wire.usage import DayOfUse, ModelUse

EPOCH = date(1970, 1, 1)


class UsageRecords:
    """The use of all tenants. Days are those of UTC; a task counts on the day of its end."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def of_tenant(self, tenant: str, days: int) -> list[DayOfUse]:
        """The last `days` of this tenant, today first; days without use are left out."""
        today = datetime.now(UTC).date()
        wanted = [today - timedelta(days=back) for back in range(days)]
        pipeline = self._redis.pipeline(transaction=False)
        for day in wanted:
            pipeline.hgetall(self._keys.usage(f"{tenant}:{(day - EPOCH).days}"))
        found = [_by_model(fields) for fields in cast(list[dict[bytes, bytes]], await pipeline.execute())]
        return [
            DayOfUse(day=day.isoformat(), models=models) for day, models in zip(wanted, found, strict=True) if models
        ]


def _by_model(fields: dict[bytes, bytes]) -> dict[str, ModelUse]:
    """From fields named `tasks MODEL`, `prompt MODEL` and `answer MODEL`."""
    counts: dict[str, dict[str, int]] = {}
    for field, value in fields.items():
        kind, _, model = field.decode().partition(" ")
        counts.setdefault(model, {})[kind] = int(value)
    return {
        model: ModelUse(
            tasks=count.get("tasks", 0), prompt_tokens=count.get("prompt", 0), completion_tokens=count.get("answer", 0)
        )
        for model, count in sorted(counts.items())
    }
