"""A stretch of an answer that may be a tool call, read character by character from its marker on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.text.tool_calls import CALL_KEYS, NamedCall, OfferedTools

OPEN, CLOSE, LISTED, PYTHON = "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"

Form = Literal["tagged", "listed", "python", "bare"]

FORMS: dict[str, Form] = {OPEN: "tagged", LISTED: "listed", PYTHON: "python"}
"""The marker with which a region of each form begins; `bare` has none."""

MAX_BEFORE_KEY = 1_000
"""Characters of JSON without a marker in which its first key must come."""

_HEADER = re.compile(r"\s*([\w-]{1,64})\s*(\[CALL_ID\]\s*\w{1,64}\s*)?(\[ARGS\]\s*)?", re.ASCII)
_HEADER_SO_FAR = re.compile(r"[\s\w-]{0,80}(\[[A-Z_\s]{0,9}(\]([\s\w]{0,80}(\[[A-Z\s]{0,6}\]?\s*)?)?)?)?", re.ASCII)
_FIRST_KEY = re.compile(r"[\s\[]*\{\s*[\"'](\w*)([\"']?)", re.ASCII)
_BEFORE_FIRST_KEY = re.compile(r"[\s\[]*(\{\s*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RegionEnd:
    """The region has ended; what follows `end` is ordinary text again."""

    end: int
    """Characters of the region, its marker included."""
    calls: Sequence[NamedCall]
    """Empty: all of it is text."""


class Region:
    """Follows the JSON of a possible call far enough to know where it ends.

    `tagged` ends at its closing tag, at the next opening tag, or where something else follows the JSON; tags inside
    JSON strings do not count. `listed` ends with its JSON. `python` and `bare` are JSON up to the end of the answer.
    """

    def __init__(self, form: Form, offered: OfferedTools) -> None:
        self._form = form
        self._offered = offered
        self.text = next((marker for marker, kind in FORMS.items() if kind == form), "")
        """What was read, marker included."""
        self._body = len(self.text)
        self._value = -1
        """Where the JSON starts; -1 before."""
        self._ended = -1
        """Where the last complete value ended; -1 before."""
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._tag = ""
        """The part of a tag that was read outside of strings."""

    def take(self, char: str) -> RegionEnd | None:
        """Read one more character; tells when the region ends with it, or ended before it."""
        self.text += char
        if self._value < 0:
            return self._before_json(char)
        if self._form == "bare" and not self._may_be_call():
            return self._false_alarm()
        if self._in_string:
            self._inside_string(char)
            return None
        if self._form == "tagged" and (self._tag or char == "<"):
            return self._tag_char(char)
        return self._json_char(char)

    def finish(self, complete: bool) -> RegionEnd:
        """The answer is over. In one that was cut short only what is JSON as it stands counts as a call."""
        size = len(self.text)
        if self._value < 0:
            return RegionEnd(size, [])
        if self._depth == 0 and not self._in_string:
            return self._judged(self._ended, size, repair=complete)
        if not complete:
            return self._judged(self._ended, self._ended, repair=False) if self._ended > 0 else RegionEnd(size, [])
        if not self._in_string:
            return self._judged(size - len(self._tag), size)
        # The string has no end, or a quote inside of it was not escaped: then the first closing tag decides.
        close = self.text.find(CLOSE, self._value) if self._form == "tagged" else -1
        return self._judged(close, close + len(CLOSE)) if close >= 0 else RegionEnd(size, [])

    def _before_json(self, char: str) -> RegionEnd | None:
        header = self.text[self._body :]
        if self._form == "listed":
            if char == "{" or (char == "[" and not header[:-1].strip()):
                named = header[:-1].strip()
                if named and not _HEADER.fullmatch(named):
                    return self._false_alarm()
            else:
                return None if _HEADER_SO_FAR.fullmatch(header) else self._false_alarm()
        elif char.isspace():
            return None
        elif char not in "{[":
            return self._false_alarm()
        self._value = len(self.text) - 1
        self._depth = 1
        return None

    def _may_be_call(self) -> bool:
        """For JSON without a marker: whether its first key is one that calls have."""
        key = _FIRST_KEY.match(self.text)
        if key and key[2]:
            return key[1] in CALL_KEYS
        if len(self.text) > MAX_BEFORE_KEY:
            return False
        if key is None:
            return _BEFORE_FIRST_KEY.fullmatch(self.text) is not None
        return any(known.startswith(key[1]) for known in CALL_KEYS)

    def _inside_string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False

    def _tag_char(self, char: str) -> RegionEnd | None:
        tag = self._tag + char
        start = len(self.text) - len(tag)
        if tag == CLOSE:
            return self._judged(start, len(self.text))
        if tag == OPEN:
            return self._judged(start, start)
        if CLOSE.startswith(tag) or OPEN.startswith(tag):
            self._tag = tag
            return None
        if self._depth == 0:
            return self._judged(self._ended, self._ended)
        self._tag = "<" if char == "<" else ""
        return self._json_char(char)

    def _json_char(self, char: str) -> RegionEnd | None:
        if char in "{[":
            self._depth += 1
        elif char in "}]":
            if self._depth == 1:
                self._ended = len(self.text)
            self._depth = max(0, self._depth - 1)
            if self._depth == 0 and self._form == "listed":
                return self._judged(self._ended, self._ended)
        elif self._depth == 0:
            if char.isspace() or char in ";,":
                return None
            return self._false_alarm() if self._form == "bare" else self._judged(self._ended, self._ended)
        elif char == '"':
            self._in_string = True
        return None

    def _judged(self, json_end: int, end: int, *, repair: bool = True) -> RegionEnd:
        """The calls in the JSON up to `json_end`, for a region that reaches to `end`."""
        body = self.text[self._value : json_end]
        named = _HEADER.fullmatch(self.text[self._body : self._value].strip()) if self._form == "listed" else None
        if named:
            return RegionEnd(end, self._offered.named_call(named[1], body, repair=repair))
        return RegionEnd(end, self._offered.calls_in(body, bare=self._form == "bare", repair=repair))

    def _false_alarm(self) -> RegionEnd:
        """Not a call: all but the last character is text, and that one may begin something else."""
        return RegionEnd(len(self.text) - 1, [])
