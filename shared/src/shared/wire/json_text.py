"""JSON text of others, read strictly and within bounds: no text holds its reader up for long."""

import sys

from pydantic import JsonValue
from pydantic_core import from_json

MAX_VALUES = 100_000
"""Members of all lists and objects of one text. Four megabytes of `[],` are a million lists; the parser does not let go
of the interpreter before it has made them all, not in a thread either."""
_SHORT_BYTES = 64 * 1024
"""Has so few values, whatever it is, that they need not be counted."""


def parse_json(text: str | bytes) -> JsonValue:
    """Strict JSON: UTF-8, no NaN or Infinity, no number beyond a double's range, no lone surrogates, at most 200 levels
    deep and MAX_VALUES values. Raises ValueError.
    """
    body = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if len(body) > _SHORT_BYTES and _has_too_many_values(body):
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        value: JsonValue = from_json(body)
    except ValueError as error:
        if str(error).startswith("recursion limit"):
            raise ValueError(f"nested too deeply ({error})") from None
        raise
    _check_numbers(value)
    return value


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
            if one != one:
                raise ValueError("NaN is not JSON")
            raise ValueError(f"a number is out of range: none may be beyond {largest:.4g}")
