"""Who is calling, and what that caller may do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from api.errors import Forbidden
from shared.store.limits import Account, Limits
from shared.wire.schemas import Priority, WireType

DEFAULT_TENANT = "default"
"""Of everybody, where no API keys are configured."""

Scope = Literal["ask", "read", "admin"]
"""`ask`: start tasks and cancel them, ask about tokens. `read`: tasks, their streams, the tenant's use. `admin`: the
use of other tenants."""


def _tenant_name(name: str) -> str:
    """The names of Redis keys are made of it, with a colon behind it."""
    if not name or ":" in name or not name.isprintable() or len(name) > 128:
        raise ValueError("a tenant's name must be 1 to 128 printable characters without ':'")
    return name


TenantName = Annotated[str, AfterValidator(_tenant_name)]


class Policy(WireType):
    """What a key may do; everything but `admin` where nothing is said."""

    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the models; null: all."""
    scopes: tuple[Scope, ...] = ("ask", "read")
    highest_priority: Priority = "high"
    """A request that asks for more gets this."""
    store: bool = True
    """False: all its requests are as those with `store: false`, and it makes no stored conversations."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1
    """Its share of a model's slots beside the shares of other tenants, while tasks wait."""
    limits: Limits = Limits()


PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""The highest first."""
OPEN = Policy()
NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sends a request, as its key tells."""

    tenant: str
    """Whose tasks and conversations are the caller's."""
    key_id: str = ""
    """Which of the tenant's keys it is; empty where there are none."""
    policy: Policy = OPEN

    def need(self, scope: Scope) -> None:
        """Raises Forbidden where the key does not have the scope."""
        if scope not in self.policy.scopes:
            raise Forbidden(f"this API key may not do that: it does not have the scope {scope!r}")

    def stores(self, wanted: bool) -> bool:
        """Whether a request of the caller's that is to be stored, or not, is."""
        return wanted and self.policy.store

    def need_store(self) -> None:
        """Raises Forbidden where nothing of what the key sends is stored."""
        if not self.policy.store:
            raise Forbidden("what this API key sends is not stored")

    def models_of(self, names: Sequence[str]) -> Sequence[str]:
        """Those of the installation's models that the caller may use."""
        allowed = self.policy.models
        return names if allowed is None else [name for name in names if name in allowed]

    def priority(self, wanted: Priority) -> Priority:
        """The one that a request gets which asks for this one."""
        return max(wanted, self.policy.highest_priority, key=PRIORITIES.index)

    @property
    def account(self) -> Account | None:
        """Against whose limits its tasks count; None where it has none."""
        limits = self.policy.limits
        return None if limits == NO_LIMITS else Account(f"{self.tenant}:{self.key_id}", limits)
