"""What a model writes for itself before it answers, told apart from the answer by the tags around it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from worker.text.detokenizer import overlap


class Said(NamedTuple):
    """New text of an answer."""

    text: str = ""
    reasoning: str = ""


def joined(parts: Sequence[Said]) -> Said:
    """What was said one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Said("".join(part.text for part in parts), "".join(part.reasoning for part in parts))


@dataclass(frozen=True, slots=True)
class Tags:
    """Where reasoning begins and ends."""

    opening: str
    closing: str
    tokens: tuple[str, ...] = ()
    """Special tokens in them, where those are not the tags themselves."""


COMMON = (Tags("<think>", "</think>"), Tags("<thinking>", "</thinking>"), Tags("[THINK]", "[/THINK]"))
"""Understood from any model: few keep to one form, and a call that was drafted there must not be run."""

OF_TEMPLATES = (
    Tags("<thought>", "</thought>"),
    Tags("<reasoning>", "</reasoning>"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("◁think▷", "◁/think▷"),
    Tags("<|channel>thought", "<channel|>", ("<|channel>", "<channel|>")),
)
"""Understood from models whose chat template has them; from others such tags may be what the client asked for."""


def tags_known_to(template: str) -> tuple[Tags, ...]:
    """The tags that answers to a chat template may have."""
    return (*COMMON, *(tags for tags in OF_TEMPLATES if tags.opening in template or tags.closing in template))


def marker_tokens(known: Collection[Tags]) -> frozenset[str]:
    """Special tokens that must stay in the text."""
    return frozenset(token for tags in known for token in (tags.opening, tags.closing, *tags.tokens))


def named_by(template: str) -> Tags | None:
    """The tags that a chat template speaks of: its model reasons, whether or not the prompt opens it."""
    return next(
        (tags for tags in tags_known_to(template) if tags.opening in template or tags.closing in template), None
    )


def opened_by(prompt: str, known: Sequence[Tags]) -> Tags | None:
    """The tags that a rendered prompt has opened at its very end, where the answer goes on."""
    end = prompt.rstrip()
    return next((tags for tags in known if end.endswith(tags.opening)), None)


class Block:
    """One stretch of reasoning, read character by character behind its opening tag."""

    def __init__(self, tags: Tags, *, leading: bool, before: str = "") -> None:
        """`leading`: nothing of the answer came before, so that this is reasoning and need not wait for its closing
        tag. `before`: white space that came before and still waits."""
        self._tags = tags
        self._waits = "" if leading else tags.opening
        """Read and not handed out."""
        self.leading = leading
        self.before = before
        self.closed = False

    def take(self, char: str) -> str:
        """Read one more character, after which it may be `closed`; the reasoning that this makes certain."""
        self._waits += char
        closing = self._tags.closing
        self.closed = self._waits.endswith(closing)
        if self.closed:
            return self._waits[0 if self.leading else len(self._tags.opening) : -len(closing)]
        if not self.leading:
            return ""
        certain = len(self._waits) - overlap(self._waits, closing)
        shown, self._waits = self._waits[:certain], self._waits[certain:]
        return shown

    def finish(self) -> str:
        """The rest, where there is no closing tag; of a block that does not lead with its opening tag."""
        return self._waits


class Thoughts:
    """Reasoning as it is shown: without white space at the ends of its stretches, an empty line between two of them."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._space = ""
        """Stands between what was shown and what will be."""
        self.any = False
        self._fresh = True
        """Nothing of this stretch was shown."""

    def begin(self) -> None:
        """A new stretch."""
        self._fresh, self._space = True, "\n\n" if self.any else ""

    def add(self, text: str) -> None:
        """More of this stretch."""
        text = text.lstrip() if self._fresh else text
        said = text.rstrip()
        if said:
            self._out += [self._space, said]
            self._fresh, self._space, self.any = False, "", True
        self._space += text[len(said) :]

    def taken(self) -> str:
        """What is new."""
        new = "".join(self._out)
        self._out.clear()
        return new
