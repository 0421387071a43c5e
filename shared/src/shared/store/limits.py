"""What a key may use: its limits, what a task is expected to need of them, and what is left of them.

They are counted in the ledger's scripts (lua/accounts.lua), in the same step in which a task is accepted or ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from shared.wire.schemas import WireType

LimitName = Literal[
    "tenant_rate",
    "requests_per_minute",
    "tokens_per_minute",
    "tokens_per_day",
    "unfinished_tasks",
    "waiting_tasks",
]

Bound = Annotated[int, Field(ge=1, le=10**12)] | None


class Limits(WireType):
    """The bounds of one key; null: none."""

    requests_per_minute: Bound = None
    """Accepted tasks. So many may come at once; what was used comes back evenly within a minute."""
    tokens_per_minute: Bound = None
    """Of prompts and answers, counted in the same way. A task takes what it may need at most, and gives back at its end
    what it has not used."""
    tokens_per_day: Bound = None
    """The same, from midnight to midnight in UTC."""
    unfinished_tasks: Bound = None
    """That wait or run."""
    waiting_tasks: Bound = None
    """That wait for a worker."""
    open_streams: Bound = None
    """Answers that it reads at the same time, at each replica: this one is counted where it is read, not in Redis."""


@dataclass(frozen=True, slots=True)
class Account:
    """Against whose limits tasks count."""

    name: str
    """Of all accounts of the installation only this one's: `tenant:key`."""
    limits: Limits


@dataclass(frozen=True, slots=True)
class Rate:
    """A bound on the accepted tasks of a tenant."""

    tasks: int
    seconds: int
    """In which so many may be accepted."""


@dataclass(frozen=True, slots=True)
class ExpectedTokens:
    """What a task takes of its account's tokens until it has ended."""

    prompt: int
    """About as many as the prompt has: only workers have a tokenizer."""
    answer: int
    """Most of them."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of one limit."""

    limit: int
    remaining: int
    """Below zero after a task that needed more than was expected."""
    reset_seconds: float
    """Until all of it is there again, if nothing more is used."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of an account's limits per minute; None where it has no such limit."""

    requests: Left | None
    tokens: Left | None


def read_allowance(limits: Limits, numbers: Sequence[int]) -> Allowance:
    """From what lua/accounts.lua answers: remaining and milliseconds until the reset, of requests and of tokens."""

    def left(limit: int | None, remaining: int, reset_ms: int) -> Left | None:
        return None if limit is None else Left(limit, remaining, reset_ms / 1000)

    return Allowance(left(limits.requests_per_minute, *numbers[:2]), left(limits.tokens_per_minute, *numbers[2:4]))
