"""The verdict of a client's JSON schema on a document, in bounded time, whatever schema and document are.

Both come from outside: the schema from a client, the document from a model. The check runs on the worker's event loop,
between two steps of the engine: its work is counted and stopped, and a validator that raises gives no verdict.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jsonschema_rs import Draft202012Validator

from shared.json_schema.schema_dialects import Schema, in_one_dialect
from worker.json_schema.allowance import Allowance, CannotBeJudged
from worker.json_schema.bounded_patterns import HARD, MAX_HARD_TEXT, PLAIN, BoundedPattern, hard_cost, reads
from worker.json_schema.bounded_references import METER, ReferenceMeters, size_of_schema
from worker.panics import LEAVING

MAX_DEPTH = 128
"""Levels of a document. Pydantic writes 255 at most, and several JSON readers stop at 128."""
MAX_KEY_PATTERNS = 100
"""`patternProperties` of one schema."""
MAX_LOOKS = 50_000_000
"""Values of a document times parts of the schema, at some 10 ns."""
UNITS = 250_000
"""The allowance of one task, for all its documents: what a hostile one may take from its neighbours, about 0.1 s."""


class DocumentCheck:
    """One schema of one task, compiled once."""

    def __init__(self, schema: Schema, *, of_tool: bool = False, allowance: Allowance | None = None) -> None:
        """`schema`: one that the door has let in. `of_tool`: patterns that nothing reads have no say, as at the door.
        `allowance`: shared with the other schemas of the task; None: a new one of UNITS.

        Never raises: by a schema that cannot be used no document can be judged. Takes a tenth of a millisecond, but
        tens of them for the largest schemas: not for an event loop.
        """
        self._allowance = allowance or Allowance(UNITS)
        self._of_tool = of_tool
        self._refusal = ""
        self._parts = 0
        self._key_patterns = 0
        self._hard_keys = False
        """A key pattern needs backtracking."""
        self._validator: Draft202012Validator
        try:
            self._compile(in_one_dialect(schema))
        except LEAVING:
            raise
        except BaseException as error:
            self._refusal = f"the schema cannot be used: {_told(error)}"

    def accepts(self, document: object) -> bool:
        """Whether the schema is known to accept the document."""
        try:
            return self.judge(document)
        except CannotBeJudged:
            return False

    def judge(self, document: object) -> bool:
        """Whether the schema accepts the document. Raises CannotBeJudged."""
        if self._refusal:
            raise CannotBeJudged(self._refusal)
        size = size_of(document)
        if size.values * self._parts > MAX_LOOKS:
            raise CannotBeJudged("schema and document together are too large")
        allowance = self._allowance
        allowance.refusal = ""
        if self._key_patterns:
            if self._hard_keys and size.longest_key > MAX_HARD_TEXT:
                raise CannotBeJudged(f"a key of {size.longest_key} characters is too long for its patternProperties")
            allowance.pay(self._key_patterns * (size.hard_key_units if self._hard_keys else size.key_units), "its keys")
        accepted = False
        try:
            if not allowance.refusal:
                accepted = self._validator.is_valid(document)
        except LEAVING:
            raise
        except BaseException as error:
            raise CannotBeJudged(f"the validator failed: {_told(error)}") from error
        if allowance.refusal:
            raise CannotBeJudged(allowance.refusal)
        return accepted

    def _compile(self, schema: dict[str, Any]) -> None:
        meters = ReferenceMeters(schema, self._allowance)
        self._parts = size_of_schema(schema)
        self._key_patterns, self._hard_keys = _key_patterns(meters.parts, needed=not self._of_tool)
        self._validator = Draft202012Validator(
            schema,
            keywords={"pattern": self._pattern, METER: meters.of},  # type: ignore[dict-item]  # a function makes them
            pattern_options=HARD if self._hard_keys else PLAIN,
            offline=True,
        )

    def _pattern(self, _schema: object, pattern: str, _path: object) -> BoundedPattern:
        return BoundedPattern(pattern, self._allowance, needed=not self._of_tool)


@dataclass(frozen=True, slots=True)
class Size:
    """Of a document."""

    values: int
    longest_key: int
    """Characters."""
    key_units: int
    """Work of one linear pattern on all keys."""
    hard_key_units: int
    """The same for a pattern that backtracks."""


def size_of(document: object) -> Size:
    """Raises CannotBeJudged for what JSON cannot hold (NaN, infinities, half a surrogate pair) and for deep nesting."""
    values = longest_key = key_units = hard_key_units = 0
    pending: list[tuple[object, int]] = [(document, 1)]
    while pending:
        value, depth = pending.pop()
        values += 1
        if depth > MAX_DEPTH:
            raise CannotBeJudged(f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(value, dict):
            for key in value:
                _check_text(key)
                key_units += 1 + len(key)
                hard_key_units += hard_cost(len(key))
                longest_key = max(longest_key, len(key))
            pending += [(part, depth + 1) for part in value.values()]
        elif isinstance(value, list):
            pending += [(part, depth + 1) for part in value]
        elif isinstance(value, str):
            _check_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise CannotBeJudged(f"{value} is no number of JSON")
    return Size(values, longest_key, key_units, hard_key_units)


def _key_patterns(parts: Iterable[dict[str, Any]], *, needed: bool) -> tuple[int, bool]:
    """How many patterns for keys there are, and whether one of them needs backtracking.

    One that no engine reads is left out unless it is `needed`.
    """
    count, hard = 0, False
    for part in parts:
        for pattern in list(part.get("patternProperties", ())):
            count += 1
            if count > MAX_KEY_PATTERNS:
                raise CannotBeJudged(f"it has more than {MAX_KEY_PATTERNS} patternProperties")
            if not reads(PLAIN, pattern):
                hard = True
                if not needed and not reads(HARD, pattern):
                    del part["patternProperties"][pattern]
    return count, hard


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CannotBeJudged("a text holds half a surrogate pair") from None


def _told(error: BaseException) -> str:
    """The first line of what was raised: the rest may be the whole schema."""
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
