"""Regular expressions as JSON Schema has them, ECMA-262's -> the syntax of Rust's `regex`, which judges and enforces.

Most of both is the same. Rewritten is what Rust reads otherwise or not at all: `[^]`, `[]`, `\\cJ`, `\\0`, pairs of
surrogates, brackets and braces that stand for themselves, `[\\w-.]`, `[\\b]`. Python's `\\Z` is taken for what its
writers mean. Lookarounds and backreferences stay as they are: a backtracking engine reads them.
"""

import re

MAX_PATTERN = 10_000
"""Characters."""

_QUANTIFIER = re.compile(r"\{\d+(,\d*)?\}")
_SURROGATE_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_ESCAPE = re.compile(
    r"\\(?:c(?P<control>[A-Za-z])|x(?P<hex>[0-9a-fA-F]{2})|u(?P<unit>[0-9a-fA-F]{4})|u\{(?P<point>[0-9a-fA-F]{1,8})\}"
    r"|(?P<property>[pP]\{[^{}]{1,64}\})|(?P<set>[dDwWsS])|(?P<nul>0)(?![0-9])|(?P<other>.))",
    re.DOTALL,
)
_CONTROLS = "tnrfv"


class InvalidPattern(ValueError):
    """This is no regular expression, or none that can be read; the message says why."""


def rust_pattern(pattern: str) -> str:
    """The pattern in Rust's syntax. Whether it is a regular expression at all, the engine that compiles it says.

    Raises InvalidPattern for escapes that stand for no character, for unclosed classes and for too long a pattern.
    """
    if len(pattern) > MAX_PATTERN:
        raise InvalidPattern(f"it has more than {MAX_PATTERN} characters")
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            text, at, _ = _escape(pattern, at, in_class=False)
            out.append(text)
            continue
        if char == "[":
            text, at = _class(pattern, at)
            out.append(text)
            continue
        stands_for_itself = char in "]}" or (char == "{" and not _QUANTIFIER.match(pattern, at))
        if char == "{" and not stands_for_itself:
            end = pattern.index("}", at) + 1
            out.append(pattern[at:end])
            at = end
            continue
        out.append("\\" + char if stands_for_itself else char)
        at += 1
    return "".join(out)


def _escape(pattern: str, at: int, *, in_class: bool) -> tuple[str, int, bool]:
    """One escape sequence at `at`: its text, the place behind it, and whether it stands for several characters."""
    if pair := _SURROGATE_PAIR.match(pattern, at):
        high, low = int(pair[1], 16), int(pair[2], 16)
        return _character(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)), pair.end(), False
    escape = _ESCAPE.match(pattern, at)
    if escape is None:
        raise InvalidPattern("it ends with a backslash")
    end = escape.end()
    kind, given = escape.lastgroup, escape[escape.lastgroup or 0]
    match kind:
        case "control":
            return _character(ord(given) % 32), end, False
        case "hex" | "unit" | "point":
            return _character(int(given, 16)), end, False
        case "nul":
            return _character(0), end, False
        case "property" | "set":
            return "\\" + given, end, True
    if in_class:
        if given == "b":
            return _character(8), end, False
        return ("\\" + given if given in _CONTROLS else _character(ord(given))), end, False
    if given in "bB" + _CONTROLS or given.isdigit() or given == "k":
        return "\\" + given, end, False
    if given in "AzZ":
        return {"A": r"\A", "z": r"\z", "Z": r"\z"}[given], end, False
    return _character(ord(given)), end, False


def _character(point: int) -> str:
    if 0xD800 <= point <= 0xDFFF:
        raise InvalidPattern(f"\\u{point:04x} is half a surrogate pair, which no text contains")
    if point > 0x10FFFF:
        raise InvalidPattern(f"\\u{{{point:x}}} is beyond Unicode")
    return f"\\x{{{point:X}}}"


def _class(pattern: str, start: int) -> tuple[str, int]:
    """The class that opens at `start`, and the place behind it."""
    at = start + 1
    negated = pattern.startswith("^", at)
    at += negated
    parts: list[tuple[str, bool]] = []
    """Text, and whether it stands for several characters."""
    while True:
        if at >= len(pattern):
            raise InvalidPattern(f"the class at character {start} is not closed")
        char = pattern[at]
        if char == "]":
            break
        if char == "\\":
            text, at, several = _escape(pattern, at, in_class=True)
            parts.append((text, several))
        else:
            parts.append((char if char.isalnum() or char == "-" else _character(ord(char)), False))
            at += 1
    if not parts:
        return (r"[\s\S]" if negated else r"[^\s\S]"), at + 1
    return f"[{'^' if negated else ''}{_ranges(parts)}]", at + 1


def _ranges(parts: list[tuple[str, bool]]) -> str:
    """The parts of a class, with every hyphen that is no range written as a character."""
    out: list[str] = []
    at = 0
    while at < len(parts):
        text, several = parts[at]
        ends = parts[at + 2] if at + 2 < len(parts) and parts[at + 1][0] == "-" else None
        if ends is not None and not several and not ends[1]:
            out.append(f"{_plain(text)}-{_plain(ends[0])}")
            at += 3
        else:
            out.append(_plain(text))
            at += 1
    return "".join(out)


def _plain(text: str) -> str:
    return _character(ord("-")) if text == "-" else text
