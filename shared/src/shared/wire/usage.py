"""What a tenant has used, as it is told."""

from typing import Annotated

from pydantic import Field

from shared.wire.schemas import WHOLE, WireType


class UsageParams(WireType):
    """Parameters of `usage`."""

    days: Annotated[int, Field(ge=1, le=40), WHOLE] = 1
    """How many days, today first."""
    tenant: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Whose use; another one's than the caller's own needs the scope `admin`."""


class ModelUse(WireType):
    """What the tasks that ended on one day had of one model."""

    tasks: int
    """However they ended."""
    prompt_tokens: int
    """Of a task that did not succeed: about as many as its prompt has, if a worker had begun with it."""
    completion_tokens: int
    """Those of reasoning too."""


class DayOfUse(WireType):
    """One day in UTC."""

    day: str
    """`2026-11-26`."""
    models: dict[str, ModelUse]


class TenantUsage(WireType):
    """The result of `usage`."""

    tenant: str
    days: list[DayOfUse]
    """Those with any use."""
