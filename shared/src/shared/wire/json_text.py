"""JSON text of others, read strictly and within bounds: no text holds its reader up for long."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue
from pydantic_core import from_json

MAX_VALUES = 100_000
"""Members of all lists and objects of one text. Four megabytes of `[],` are a million lists; the parser does not let go
of the interpreter before it has made them all, not in a thread either."""
_SHORT_BYTES = 64 * 1024
"""Has so few values, whatever it is, that they need not be counted."""


def parse_json(text: str | bytes) -> JsonValue:
    """Strict JSON: UTF-8, no NaN or Infinity, no number beyond a double's range, no half of a surrogate pair, at most
    200 levels deep and MAX_VALUES values. Raises ValueError, which says what is wrong and in which member.
    """
    body = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if len(body) > _SHORT_BYTES and _has_too_many_values(body):
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        value: JsonValue = from_json(body)
    except ValueError as error:
        raise ValueError(_explained(str(error), body)) from None
    _check_numbers(value)
    return value


def _explained(error: str, body: bytes) -> str:
    """The parser's error in words, with the member that it was reading."""
    told = _TOLD.fullmatch(error)
    if told is None:
        return error
    reason, line, column = told[1], int(told[2]), int(told[3])
    start = sum(len(one) + 1 for one in body.split(b"\n", line - 1)[: line - 1])
    before = body[: start + column - 1]
    match reason:
        case "unexpected end of hex escape" | "lone leading surrogate in hex escape":
            reason, before = HALF_PAIR, before[: before.rfind(b"\\u")]
        case "invalid unicode code point":
            reason = "not UTF-8"
        case "recursion limit exceeded":
            reason = "nested too deeply, beyond 200 levels"
        case "number out of range":
            reason, before = OUT_OF_RANGE, before.rstrip(b"0123456789") + b"null"
        case _:
            return error
    place = _path(_way_to_the_end(before))
    return f"{reason} ({place}{', ' if place else ''}line {line} column {column})"


_TOLD = re.compile(r"(.+) at line (\d+) column (\d+)")
HALF_PAIR = "half a surrogate pair, which is no character"
OUT_OF_RANGE = f"a number is out of range: none may be beyond {sys.float_info.max:.4g}"
MAX_PATH = 100
"""Characters of a place in an error; names of members can be as long as the text."""


def _way_to_the_end(text: bytes) -> list[str | int]:
    """The names and indices that lead to what stands last in a text that was cut off."""
    value: JsonValue = None
    for ending in (b'":null', b""):  # in the name of a member, or elsewhere
        try:
            value = from_json(text + ending, allow_partial="trailing-strings")
            break
        except ValueError:
            continue
    way: list[str | int] = []
    while isinstance(value, dict | list) and value:
        step: Any = next(reversed(value)) if isinstance(value, dict) else len(value) - 1
        way.append(step)
        value = value[step]
    return way


def _path(way: Sequence[str | int]) -> str:
    """`in params.messages[0].content`; empty for the text as a whole."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in way[:MAX_PATH]).removeprefix(".")
    return f"in {path if len(path) <= MAX_PATH else path[:MAX_PATH] + '…'}" if path else ""


def _has_too_many_values(body: bytes) -> bool:
    """Counted before anything is made of them. Each step is one pass at the speed of memory, and none looks back.

    Of text that is not JSON, what stands before its first fault is counted right, and the parser reads no further.
    """
    without_escapes = body.replace(rb"\\", b"").replace(rb"\"", b"")
    most_strings = 2 * MAX_VALUES  # a name and a value each
    pieces = without_escapes.split(b'"', 2 * most_strings)
    outside = b"".join(pieces[::2])  # of strings
    # Before each member of a list or an object stands a comma or the bracket.
    values = sum(outside.count(mark) for mark in (b",", b"[", b"{"))
    return values > MAX_VALUES or len(pieces) > 2 * most_strings


def _check_numbers(value: JsonValue) -> None:
    """The parser makes infinity of 1e999, and of 4,000 digits an integer of as many; it takes the word NaN."""
    largest = sys.float_info.max
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)
        elif isinstance(one, int | float) and not -largest <= one <= largest:
            place = _path(_way_to(one, value))
            raise ValueError((OUT_OF_RANGE if one == one else "NaN is not JSON") + (f" ({place})" if place else ""))


def _way_to(part: JsonValue, value: JsonValue) -> list[str | int]:
    """The names and indices that lead to this very object inside of the value."""
    pending: list[tuple[list[str | int], JsonValue]] = [([], value)]
    while pending:
        way, one = pending.pop()
        if one is part:
            return way
        if isinstance(one, dict):
            pending.extend(([*way, name], inner) for name, inner in one.items())
        elif isinstance(one, list):
            pending.extend(([*way, at], inner) for at, inner in enumerate(one))
    return []
