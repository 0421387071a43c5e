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
from worker.text.call_regions import CLOSE, FORMS, Region, RegionEnd
from worker.text.reasoning import COMMON, Block, Said, Tags, Thoughts, marker_tokens
from worker.text.tool_calls import NamedCall, OfferedTools, numbered

CALL_MARKERS = (*FORMS, CLOSE, "[ARGS]", "[CALL_ID]")
"""Special tokens of some models that the detokenizer must leave in the text while tools are offered."""

_QUOTATION_MARKS = ("`", '"', "'")

MAX_READ_AGAIN = 8
"""Times that the end of an answer is read once more because what it was taken for had no end itself. Each time costs as
much as the whole answer."""


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """An answer taken apart."""

    text: str
    tool_calls: list[ToolCall]
    reasoning: str = ""


def parse_answer(text: str, tools: Sequence[Tool], task_id: str, *, complete: bool = True) -> ParsedAnswer:
    """Take a whole answer apart, as an AnswerStream does in portions."""
    stream = AnswerStream(tools, task_id)
    said = stream.add(text)
    rest, calls = stream.finish(complete=complete)
    return ParsedAnswer(said.text + rest.text, calls, said.reasoning + rest.reasoning)


class AnswerStream:
    """Text goes in as it is generated, and comes out as soon as it is certain what it is.

    It is read character by character, so what comes out does not depend on how it is cut into deltas. Reasoning is told
    apart, and no call in it counts: not between its tags, and not before a closing tag that nothing had opened. White
    space before a call and behind reasoning, and at the end of an answer with calls, is dropped.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        task_id: str,
        *,
        known: Sequence[Tags] = COMMON,
        opened: Tags | None = None,
        leading_only: bool = False,
    ) -> None:
        """`known`: the tags around reasoning. `opened`: those in which the prompt ends. `leading_only`: they mean
        something in front of the answer alone."""
        self._offered = OfferedTools(tools)
        self.special_tokens = marker_tokens(known) | (frozenset(CALL_MARKERS) if self._offered else frozenset())
        self._task_id = task_id
        self._leading_only = leading_only
        self._look_for(known)
        self._held = ""
        """Text that waits: white space and what may be the start of a marker."""
        self._region: Region | None = None
        self._block = Block(opened, leading=True) if opened else None
        self._calls: list[NamedCall] = []
        self._drafts: list[str] = []
        """The text of those calls."""
        self._out: list[str] = []
        self._thoughts = Thoughts()
        self._untouched = True
        """Nothing but white space and reasoning so far: a JSON object here may be a call without a marker."""
        self._shown_any = False
        self._previous = ""
        """The last character that was shown."""
        self._skips_space = False

    def _look_for(self, known: Sequence[Tags]) -> None:
        self._openings = {tags.opening: tags for tags in known}
        self._closings = frozenset(tags.closing for tags in known)
        self._markers = (*(FORMS if self._offered else ()), *self._openings, *self._closings)
        self._longest = max(map(len, self._markers), default=0)
        self._beginnings = frozenset(marker[0] for marker in self._markers)

    @property
    def in_reasoning(self) -> bool:
        return self._block is not None

    @property
    def held(self) -> int:
        region = len(self._region.text) if self._region is not None else 0
        block = len(self._block.before) + len(self._block.finish()) if self._block is not None else 0
        return len(self._held) + region + block

    @property
    def has_call(self) -> bool:
        return bool(self._calls) and not self.in_reasoning

    def add(self, delta: str) -> Said:
        """What is certain after this delta."""
        if self._is_plain(delta):
            self._show(delta)
        else:
            self._read(delta)
        return self._flushed()

    def finish(self, *, complete: bool = True) -> tuple[Said, list[ToolCall]]:
        """The rest, and the calls.

        `complete` is False when the answer was cut short (length, stop string, loop): a call without its end is then
        text, where a complete answer gets it repaired. Run with half its arguments it could do harm.
        """
        for _ in range(MAX_READ_AGAIN):
            if self._region is not None:
                region = self._region
                self._read(self._closed(region, region.finish(complete)))
        if self._region is not None:
            self._held += self._region.text
        if self._block is not None and self._block.leading:
            self._thoughts.add(self._block.finish())
        elif self._block is not None:
            self._held = self._block.before + self._block.finish()
        self._show(self._held.rstrip() if self._calls else self._held)
        self._held = ""
        return self._flushed(), numbered(self._task_id, self._calls)

    def _is_plain(self, delta: str) -> bool:
        """Whether there is nothing to look for in the delta: most of them need not be read by the character."""
        if not self._markers:
            return not (self._held or self._block or self._skips_space)
        waiting = self._held or self._region or self._block or self._untouched or self._skips_space
        ends_in_space = self._space_waits and delta[-1:].isspace()
        return not (waiting or ends_in_space or not self._beginnings.isdisjoint(delta))

    @property
    def _space_waits(self) -> bool:
        """White space may have to go."""
        return bool(self._offered) or self._untouched or self._skips_space

    def _read(self, text: str) -> None:
        waiting = deque(text)
        while waiting:
            char = waiting.popleft()
            if self._block is not None:
                self._block_char(self._block, char)
            elif self._region is None:
                waiting.extendleft(reversed(self._text_char(char)))
            elif over := self._region.take(char):
                waiting.extendleft(reversed(self._closed(self._region, over)))

    def _closed(self, region: Region, over: RegionEnd) -> str:
        """Take the calls of a region, or show it; returns the text behind it, which is still to be read."""
        self._region = None
        read = region.text[: over.end]
        if over.calls:
            self._calls += over.calls
            self._drafts.append(read)
        else:
            self._show(self._held + read)
        self._held = ""
        self._begin_answer()
        return region.text[over.end :]

    def _block_char(self, block: Block, char: str) -> None:
        self._thoughts.add(block.take(char))
        if block.closed:
            self._end_reasoning(block.before)

    def _end_reasoning(self, before: str) -> None:
        self._block = None
        self._held = before
        self._skips_space = True
        self._thoughts.begin()
        if self._leading_only:
            self._look_for(())

    def _begin_answer(self) -> None:
        self._untouched = False
        if self._leading_only:
            self._look_for(())

    def _text_char(self, char: str) -> str:
        """Returns text that is to be read again, for it is something else."""
        if char.isspace() and self._space_waits:
            self._held += "" if self._skips_space else char
            return ""
        self._skips_space = False
        self._held += char
        text = self._held.lstrip()
        if self._offered and self._untouched and text[0] in "{[" and not self._may_be_marker(text):
            self._held = self._held[: -len(text)]
            self._region = Region("bare", self._offered)
            return text
        size = len(self._held)
        start = next(
            (at for at in range(max(0, size - self._longest), size) if self._may_be_marker(self._held[at:])), size
        )
        marker = self._held[start:]
        text = self._held[:start].rstrip() if self._space_waits else self._held[:start]
        self._show(text)
        self._held = self._held[len(text) :]
        if marker in self._markers:
            self._held = self._held[: -len(marker)]
            self._marker(marker)
        return ""

    def _may_be_marker(self, text: str) -> bool:
        return any(marker.startswith(text) for marker in self._markers)

    def _marker(self, marker: str) -> None:
        """Something begins or ends here; behind a quotation mark the answer only speaks of it."""
        if self._offered and marker in FORMS:
            self._region = Region(FORMS[marker], self._offered)
        elif not self._held and self._previous in _QUOTATION_MARKS:
            self._show(marker)
        elif marker in self._openings:
            before = "" if self._untouched else self._held
            self._block = Block(self._openings[marker], leading=self._untouched, before=before)
            self._held = ""
        elif self._untouched or self._calls:
            # The reasoning began without a tag: calls that came before were drafts.
            self._thoughts.add("\n".join(self._drafts))
            self._calls, self._drafts = [], []
            self._end_reasoning("" if self._untouched else self._held)
        else:
            self._show(self._held + marker)
            self._held = ""

    def _show(self, text: str) -> None:
        if self._calls and not self._shown_any:
            text = text.lstrip()
        if text:
            self._out.append(text)
            self._previous = text[-1]
            self._shown_any = True
            if self._untouched and text.strip():
                self._begin_answer()

    def _flushed(self) -> Said:
        said = Said("".join(self._out), self._thoughts.taken())
        self._out.clear()
        return said
