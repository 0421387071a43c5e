"""What reads an answer's text as it grows, whatever form the model writes in."""

from typing import Protocol

from shared.wire.schemas import ToolCall
from worker.text.reasoning import Said


class AnswerReader(Protocol):
    """Text goes in as it is generated; text, reasoning and calls come out once it is certain which they are."""

    @property
    def special_tokens(self) -> frozenset[str] | None:
        """Those whose text it must see, the others are none of the answer's; None: all but the ones that end it."""

    @property
    def in_reasoning(self) -> bool:
        """Whether what comes next is reasoning."""

    @property
    def held(self) -> int:
        """Characters at the end of what was read of which it is not certain what they are."""

    @property
    def has_call(self) -> bool:
        """Whether a call was read that is no draft so far."""

    def add(self, delta: str) -> Said:
        """What is certain after this delta."""

    def finish(self, *, complete: bool) -> tuple[Said, list[ToolCall]]:
        """The rest, and the calls; `complete` is False for an answer that was cut short."""
