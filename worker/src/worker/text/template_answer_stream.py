"""An answer as it grows, for a tokenizer that brings a response template: transformers' own parser reads it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shared.wire.chat import Tool
from shared.wire.schemas import ToolCall
from worker.text.tool_calls import NamedCall, OfferedTools, numbered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TemplateAnswerStream:
    """The same face as AnswerStream: `content` is shown, `tool_calls` are judged, other fields (thinking) are dropped.

    The detokenizer must leave every special token but the last in the text. The parser is fed by the character: so a
    region that it cannot read is known to the last one and can be shown as text, and what comes out does not depend on
    how the text is cut into deltas.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", prompt: str, tools: Sequence[Tool], task_id: str) -> None:
        """`prompt` is the rendered prompt: templates open the answer's first region in it."""
        declared: list[dict[Any, Any] | Callable[..., Any]] = [tool.model_dump() for tool in tools]
        self._parser: Any = tokenizer.get_response_parser(prefix=prompt, tools=declared)
        self._offered = OfferedTools(tools)
        self._task_id = task_id
        self._calls: list[NamedCall] = []
        self._region = ""
        """Text of the call that is being read."""
        self._plain = False
        """The parser gave up: all that follows is text."""

    def add(self, delta: str) -> str:
        """The text to show after this delta."""
        return "".join([self._char(char) for char in delta])

    def finish(self, *, complete: bool = True) -> tuple[str, list[ToolCall]]:
        """The rest of the text, and the calls. A call that was cut short is text."""
        shown = ""
        if not self._plain and (complete or not self._region):
            try:
                _, events = self._parser.finalize()
                shown = self._shown(events)
            except ValueError:
                pass
        return shown + self._region, numbered(self._task_id, self._calls)

    def _char(self, char: str) -> str:
        if self._plain:
            return char
        try:
            return self._shown(self._parser.feed(char))
        except ValueError:
            text, self._region, self._plain = self._region + char, "", True
            return text

    def _shown(self, events: Sequence[dict[str, Any]]) -> str:
        shown = []
        for event in events:
            match event:
                case {"type": "region_chunk", "field": "content", "text": str(text)}:
                    shown.append(text)
                case {"type": "region_chunk", "field": "tool_calls", "text": str(text)}:
                    self._region += text
                case {"type": "region_close", "field": "tool_calls", "value": value}:
                    shown.append(self._closed(value if isinstance(value, list) else [value]))
        return "".join(shown)

    def _closed(self, values: Sequence[object]) -> str:
        """Take the calls of a region; its text if they are not all valid."""
        calls = [call for call in map(self._offered.call_of, values) if call is not None]
        text, self._region = self._region, ""
        if not calls or len(calls) < len(values):
            return text
        self._calls += calls
        return ""
