"""An answer as it grows, for a tokenizer that brings a response template: transformers' own parser reads it."""

from collections.abc import Callable, Sequence
from typing import Any

from shared.wire.chat import Tool
from shared.wire.schemas import ToolCall
from worker.panics import LEAVING
from worker.text.chat_tokenizer import ChatTokenizer
from worker.text.json_text import NotJson, one_value
from worker.text.reading_time import ReadingTime
from worker.text.reasoning import Said, Thoughts
from worker.text.tool_calls import NamedCall, OfferedTools, numbered

FIELDS = frozenset({"content", "tool_calls"})
"""Fields of a message that are no reasoning; templates call that `thinking`, `reasoning`, `reasoning_content`."""


class TemplateAnswerStream:
    """The same face as AnswerStream: `content` is text, `tool_calls` are judged, every other field is reasoning.

    The detokenizer must leave every special token but the last in the text. The parser is fed by the character: so a
    region that it cannot read is known to the last one and can be shown as text, and what comes out does not depend on
    how the text is cut into deltas.
    """

    def __init__(self, tokenizer: ChatTokenizer, prompt: str, tools: Sequence[Tool], task_id: str) -> None:
        """`prompt` is the rendered prompt: templates open the answer's first region in it. Raises whatever the model's
        template brings about, TimeoutError where its patterns take too long."""
        declared: list[dict[Any, Any] | Callable[..., Any]] = [tool.model_dump() for tool in tools]
        with ReadingTime().running():
            self._parser: Any = tokenizer.get_response_parser(prefix=prompt, tools=declared)
        self._time = ReadingTime()
        self._offered = OfferedTools(tools)
        self._task_id = task_id
        self._calls: list[NamedCall] = []
        self._region = ""
        """Text of the call that is being read."""
        self._taken = 0
        """Characters of the parser's region that it has told."""
        self._plain = False
        """The parser gave up: all that follows is text."""
        self._out: list[str] = []
        self._thoughts = Thoughts()
        self._shown_any = False
        self.in_reasoning = False
        self.special_tokens = None
        # What the prompt has of the answer is no text of it, but says where it begins.
        self._take([event for event in self._parser.initial_events if event["type"] != "region_chunk"])

    @property
    def held(self) -> int:
        return 0 if self._plain else len(self._region) + len(self._parser._buffer) - self._parser._pos

    @property
    def has_call(self) -> bool:
        return bool(self._calls)

    def add(self, delta: str) -> Said:
        """What is certain after this delta."""
        with self._time.running(len(delta)):
            for char in delta:
                if not self._plain:
                    self._feed(char)
                else:
                    self._show(char)
        return self._flushed()

    def finish(self, *, complete: bool = True) -> tuple[Said, list[ToolCall]]:
        """The rest, and the calls. A call that was cut short counts only if it is JSON as it stands."""
        if not self._plain and (complete or not self._region or _is_json(self._region)):
            try:
                with self._time.running():
                    self._take(self._parser.finalize()[1])
            except LEAVING:
                raise
            except BaseException:
                self._give_up()
        self._show(self._region)
        return self._flushed(), numbered(self._task_id, self._calls)

    def _feed(self, char: str) -> None:
        try:
            self._take(self._parser.feed(char))
        except LEAVING:
            raise
        except BaseException:  # whatever a template's patterns and transforms make of what a model wrote
            self._give_up()

    def _give_up(self) -> None:
        """What the parser has not told is text too."""
        parser = self._parser
        text = self._region + parser._body[self._taken :] + parser._buffer[parser._pos :]
        self._region, self._plain, self.in_reasoning = "", True, False
        self._show(text)

    def _take(self, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            self._taken = self._taken + len(event["text"]) if event["type"] == "region_chunk" else 0
            match event:
                case {"type": "region_open", "field": str(field)} if field not in FIELDS:
                    self.in_reasoning = True
                    self._thoughts.begin()
                case {"type": "region_close", "field": str(field)} if field not in FIELDS:
                    self.in_reasoning = False
                case {"type": "region_chunk", "field": "content", "text": str(text)}:
                    self._show(text)
                case {"type": "region_chunk", "field": "tool_calls", "text": str(text)}:
                    self._region += text
                case {"type": "region_chunk", "text": str(text)}:
                    self._thoughts.add(text)
                case {"type": "region_close", "field": "tool_calls", "value": value} if self._region:
                    self._closed(value if isinstance(value, list) else [value])

    def _closed(self, values: Sequence[object]) -> None:
        """Take the calls of a region; show its text if they are not all valid."""
        calls = [call for call in map(self._offered.call_of, values) if call is not None]
        text, self._region = self._region, ""
        if calls and len(calls) == len(values):
            self._calls += calls
        else:
            self._show(text)

    def _show(self, text: str) -> None:
        """Behind reasoning an answer does not begin with white space."""
        if not self._shown_any and self._thoughts.any:
            text = text.lstrip()
        if text:
            self._out.append(text)
            self._shown_any = True

    def _flushed(self) -> Said:
        said = Said("".join(self._out), self._thoughts.taken())
        self._out.clear()
        return said


def _is_json(text: str) -> bool:
    try:
        one_value(text)
    except NotJson:
        return False
    return True
