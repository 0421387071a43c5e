"""A client's regular expressions (`shared.json_schema.ecma_patterns`) in bounded time: the keyword `pattern`, paid for.

A pattern is matched by Rust's linear `regex` if that can read it, whatever the pattern says. What it cannot read, look-
arounds and backreferences, goes to `fancy-regex`, which backtracks: a limit and a bound on the text keep it short.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, RegexOptions

from worker.json_schema.allowance import Allowance

MAX_HARD_TEXT = 256
"""Characters that a backtracking pattern is matched against: its time may grow with their third power."""

PLAIN = RegexOptions(size_limit=100_000)
HARD = FancyRegexOptions(backtrack_limit=1_000, size_limit=100_000)


@dataclass(frozen=True, slots=True)
class Matcher:
    """One way to match one pattern."""

    matches: Callable[[str], bool]
    cost: Callable[[int], int]
    """Units for a text of so many characters."""
    hard: bool = False
    """By backtracking."""


class BoundedPattern:
    """One `pattern` of a schema, compiled when it is first needed."""

    def __init__(self, pattern: str, allowance: Allowance, *, needed: bool) -> None:
        """`needed`: there is no verdict if no engine reads the pattern; else it has no say then."""
        self._pattern = pattern
        self._allowance = allowance
        self._needed = needed
        self._matcher: Matcher | None = None

    def validate(self, instance: object) -> None:
        """Raises ValueError for a text that does not match, or is not looked at: then the allowance says why."""
        if not isinstance(instance, str):
            return
        allowance = self._allowance
        self._matcher = matcher = self._matcher or matcher_of(self._pattern, allowance)
        if matcher is None:
            if not (self._needed or allowance.refusal):
                return
            allowance.refuse(f"the pattern {self._pattern[:100]!r} cannot be read")
        elif matcher.hard and len(instance) > MAX_HARD_TEXT:
            allowance.refuse(f"{len(instance)} characters are too many for the pattern {self._pattern[:100]!r}")
        elif allowance.pay(matcher.cost(len(instance)), "its patterns") and matcher.matches(instance):
            return
        raise ValueError(allowance.refusal or "no match")


def hard_cost(length: int) -> int:
    """Units that a backtracking pattern may take for a text of so many characters."""
    return 1 + length**3 // 128


_WAYS: list[tuple[Any, int, Callable[[int], int]]] = [
    # For each: what compiling may cost. A state of the automaton takes some 50 bytes, a character may visit all states.
    (PLAIN, 1_000, lambda length: 1 + length),
    (RegexOptions(size_limit=1_000_000), 10_000, lambda length: 1 + 4 * length),
    (RegexOptions(size_limit=10_000_000), 50_000, lambda length: 1 + 20 * length),
    (HARD, 1_000, hard_cost),
]


def reads(options: Any, pattern: str) -> bool:
    """Whether an engine can read the pattern."""
    try:
        Draft202012Validator({"pattern": pattern}, pattern_options=options, offline=True)
    except ValueError:
        return False
    return True


def matcher_of(pattern: str, allowance: Allowance) -> Matcher | None:
    """The cheapest way to match the pattern; None where none can read it, or the allowance ends before."""
    for options, price, cost in _WAYS:
        if not allowance.pay(price, "its patterns"):
            break
        try:
            validator = Draft202012Validator({"pattern": pattern}, pattern_options=options, offline=True)
        except ValueError:
            continue
        return Matcher(validator.is_valid, cost, hard=options is HARD)
    return None
