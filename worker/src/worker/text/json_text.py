"""JSON as models write it -> values, where there is no doubt what it means.

Models write nearly-JSON; read are, beside JSON itself, and nothing else:

- strings in 'single quotes', Python's True, False and None, a comma before a closing bracket,
- line breaks and tabs inside strings,
- at the very end: closing brackets that are missing behind a finished value, or are too many.

A string is always taken as far as its own quote, and what follows must be what may follow a string. Where a quote, a
comma or a bracket in the middle would have to be guessed, it is no JSON: a guess runs commands that nobody wrote. Two
values for one key, NaN, and numbers beyond a double are none either.
"""

import json
import re
from decimal import Decimal
from typing import Any, NoReturn

from worker.json_schema.document_check import MAX_DEPTH

WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}

_SPACE = re.compile(r"[ \t\r\n]*")
_BETWEEN = re.compile(r"[ \t\r\n;,]*")
_QUOTED = {'"': re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL), "'": re.compile(r"'(?:[^'\\]|\\.)*'", re.DOTALL)}
_QUOTES_INSIDE = re.compile(r"\\(.)|\"", re.DOTALL)
_WORD = re.compile(r"[^\s,:;\[\]{}\"']+")
_CLOSERS = re.compile(r"[\]}\s]*")


class NotJson(ValueError):
    """The text is no JSON, or not surely."""


def values_in(text: str, *, repair: bool) -> list[Any]:
    """The values that stand in the text after each other, lists flattened; numbers with a point as Decimal, as written.

    `repair`: read nearly-JSON too. Raises NotJson.
    """
    values: list[Any] = []
    at = _BETWEEN.match(text, 0).end()  # type: ignore[union-attr]  # matches anywhere
    while at < len(text):
        try:
            value, at = _STRICT.raw_decode(text, at)
        except (ValueError, ArithmeticError, RecursionError):
            if not repair:
                raise NotJson from None
            value, at = _NearlyJson(text).read(at)
        values += value if isinstance(value, list) else [value]
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if repair and values and _CLOSERS.fullmatch(text, at):
            break
    return values


def one_value(text: str) -> Any:
    """The one JSON value that the text is. Raises NotJson."""
    try:
        return _STRICT.decode(text)
    except (ValueError, ArithmeticError, RecursionError):
        raise NotJson from None


def plain(value: Any, depth: int = 1) -> Any:
    """The value with doubles for Decimals. Raises NotJson where there is no such double, and for deep nesting."""
    if depth > MAX_DEPTH:
        raise NotJson
    match value:
        case dict():
            return {key: plain(part, depth + 1) for key, part in value.items()}
        case list():
            return [plain(part, depth + 1) for part in value]
        case Decimal():
            number = float(value)
            if number in (float("inf"), -float("inf")) or (number == 0) != (value == 0):
                raise NotJson
            return number
        case _:
            return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise NotJson
    return members


def _no_number(_: str) -> NoReturn:
    raise NotJson


_STRICT = json.JSONDecoder(
    parse_float=Decimal, parse_constant=_no_number, object_pairs_hook=_object, strict=False
)  # `strict` is about control characters in strings


class _NearlyJson:
    """One text, read by the rules of this module."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def read(self, at: int) -> tuple[Any, int]:
        """The object or list at `at`, and the place behind it."""
        self._at = at
        if self._next() not in ("{", "["):
            raise NotJson
        return self._value(), self._at

    def _next(self) -> str:
        """The next character that is no space; empty at the end."""
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
        return self._text[self._at : self._at + 1]

    def _value(self, *, of_list: bool = False) -> Any:
        char = self._next()
        if of_list and char in ("{", "[") and _SPACE.fullmatch(self._text, self._at + 1):
            raise NotJson  # the text ends in an element that has not begun
        match char:
            case "{":
                return _object(self._members("}"))
            case "[":
                return self._members("]")
            case '"' | "'":
                return self._string()
            case _:
                return self._word()

    def _members(self, closer: str) -> list[Any]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotJson
        self._at += 1
        members: list[Any] = []
        char = self._next()
        while char and char != closer:
            members.append(self._member() if closer == "}" else self._value(of_list=True))
            char = self._next()
            if char == ",":
                self._at += 1
                char = self._next()
                if not char:
                    raise NotJson  # something was still to come
            elif not char:
                break  # behind a finished value: only brackets are missing
            elif char != closer:
                raise NotJson
        self._at += 1
        self._depth -= 1
        return members

    def _member(self) -> tuple[str, Any]:
        if self._next() not in ('"', "'"):
            raise NotJson
        key = self._string()
        if self._next() != ":":
            raise NotJson
        self._at += 1
        return key, self._value()

    def _string(self) -> str:
        written = _QUOTED[self._text[self._at]].match(self._text, self._at)
        if written is None:
            raise NotJson
        self._at = written.end()
        inside = _QUOTES_INSIDE.sub(_in_double_quotes, written[0][1:-1])
        return str(one_value(f'"{inside}"'))

    def _word(self) -> Any:
        word = _WORD.match(self._text, self._at)
        if word is None:
            raise NotJson
        self._at = word.end()
        return WORDS[word[0]] if word[0] in WORDS else one_value(word[0])


def _in_double_quotes(part: re.Match[str]) -> str:
    if part[0] == '"':
        return '\\"'
    return "'" if part[1] == "'" else part[0]
