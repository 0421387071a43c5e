"""An answer as it grows: which text may be shown now, which must wait because it may be a tool call.

Models announce calls in one of these forms; all are understood from any model, since few keep to one:

    <tool_call>{"name": ..., "arguments": {...}}</tool_call>          Hermes, Qwen, and the default tool prompt
    [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]              Mistral
    [TOOL_CALLS]name[ARGS]{...}                                       Mistral, newer
    <|python_tag|>{"name": ..., "parameters": {...}}; {...}           Llama
    {"name": ..., "parameters": {...}}                                Llama, when it is the whole answer
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from shared.wire.chat import Tool
from shared.wire.schemas import ToolCall
from worker.text.call_regions import CLOSE, FORMS, LISTED, Over, Region
from worker.text.tool_calls import NamedCall, OfferedTools, numbered

CALL_MARKERS = (*FORMS, CLOSE, "[ARGS]", "[CALL_ID]")
"""Special tokens of some models that the detokenizer must leave in the text while tools are offered."""

MAX_READ_AGAIN = 8
"""Times that the end of an answer is read once more because what it was taken for had no end itself. Each time costs as
much as the whole answer."""


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """An answer taken apart."""

    text: str
    tool_calls: list[ToolCall]


def parse_answer(text: str, tools: Sequence[Tool], task_id: str, *, complete: bool = True) -> ParsedAnswer:
    """Take a whole answer apart, as an AnswerStream does in portions."""
    stream = AnswerStream(tools, task_id)
    shown = stream.add(text)
    rest, calls = stream.finish(complete=complete)
    return ParsedAnswer(shown + rest, calls)


class AnswerStream:
    """Text goes in as it is generated, and comes out as soon as it is certain not to belong to a call.

    It is read character by character, so what comes out does not depend on how it is cut into deltas. White space
    before a call, and at the end of an answer with calls, is dropped.
    """

    def __init__(self, tools: Sequence[Tool], task_id: str) -> None:
        self._offered = OfferedTools(tools)
        self._task_id = task_id
        self._held = ""
        """Text that waits: white space and what may be the start of a marker."""
        self._region: Region | None = None
        self._calls: list[NamedCall] = []
        self._out: list[str] = []
        self._untouched = True
        """Nothing but white space so far: a JSON object here may be a call without a marker."""
        self._shown_any = False

    def add(self, delta: str) -> str:
        """The text to show after this delta."""
        if not self._offered:
            return delta
        self._read(delta)
        return self._flushed()

    def finish(self, *, complete: bool = True) -> tuple[str, list[ToolCall]]:
        """The rest of the text, and the calls.

        `complete` is False when the answer was cut short (length, loop, deadline): a call without its end is then text,
        where a complete answer gets it repaired. Run with half its arguments it could do harm.
        """
        for _ in range(MAX_READ_AGAIN):
            if self._region is not None:
                self._after(self._region, self._region.finish(complete))
        if self._region is not None:
            self._held += self._region.text
        self._show(self._held.rstrip() if self._calls else self._held)
        self._held = ""
        return self._flushed(), numbered(self._task_id, self._calls)

    def _read(self, text: str) -> None:
        waiting = deque(text)
        while waiting:
            char = waiting.popleft()
            if self._region is None:
                self._text_char(char)
            elif over := self._region.take(char):
                waiting.extendleft(reversed(self._closed(self._region, over)))
            elif self._region.text == LISTED:
                self._region = Region("listed", self._offered)

    def _after(self, region: Region, over: Over) -> None:
        self._read(self._closed(region, over))

    def _closed(self, region: Region, over: Over) -> str:
        """Take the calls of a region, or show it; returns the text behind it, which is still to be read."""
        self._region = None
        if over.calls:
            self._calls += over.calls
        else:
            self._show(self._held + region.text[: over.end])
        self._held = ""
        self._untouched = False
        return region.text[over.end :]

    def _text_char(self, char: str) -> None:
        self._held += char
        if char.isspace():
            return
        if self._untouched and self._held.lstrip() in ("{", "["):
            self._held = self._held[:-1]
            self._region = Region("bare", self._offered)
            self._region.take(char)
            return
        start = _marker_start(self._held)
        marker = self._held[start:]
        text = self._held[:start].rstrip()
        self._show(text)
        self._held = self._held[len(text) :]
        if marker in FORMS:
            self._held = self._held[: -len(marker)]
            self._region = Region(FORMS[marker], self._offered)

    def _show(self, text: str) -> None:
        if self._calls and not self._shown_any:
            text = text.lstrip()
        if text:
            self._out.append(text)
            self._shown_any = True
            self._untouched = self._untouched and not text.strip()

    def _flushed(self) -> str:
        text = "".join(self._out)
        self._out.clear()
        return text


def _marker_start(text: str) -> int:
    """Where the longest end of `text` begins that a marker starts with; its length if there is none."""
    for start in range(max(0, len(text) - max(map(len, FORMS))), len(text)):
        if any(marker.startswith(text[start:]) for marker in FORMS):
            return start
    return len(text)
