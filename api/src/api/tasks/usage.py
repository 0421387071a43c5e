"""What callers are told of their tenant's use."""

from api.tenants import audit
from api.tenants.caller import Caller
from shared.store.redis_client import answered_within
from shared.store.usage import UsageRecords
from shared.wire.usage import TenantUsage, UsageParams


class Usage:
    """The use of tenants, each for callers of its own and for those with the scope `admin`."""

    def __init__(self, records: UsageRecords, *, redis_timeout: float) -> None:
        """`redis_timeout`: in seconds, for each call."""
        self._records = records
        self._redis_timeout = redis_timeout

    async def of(self, caller: Caller, wanted: UsageParams) -> TenantUsage:
        """Raises Forbidden, or redis.exceptions.RedisError."""
        tenant = caller.tenant if wanted.tenant is None else wanted.tenant
        with audit.noted("usage", caller, of=tenant):
            caller.need("read" if tenant == caller.tenant else "admin")
        async with answered_within(self._redis_timeout):
            return TenantUsage(tenant=tenant, days=await self._records.of_tenant(tenant, wanted.days))
