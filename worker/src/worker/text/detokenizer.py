"""Token ids -> text, as it grows; and the watch over a generation that runs in circles."""

from collections import deque
from collections.abc import Collection, Iterable, Sequence

from tokenizers import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

MAX_UNDECIDED = 8
"""Tokens that may wait for the rest of a character, which has four bytes at most: more are no text at all."""


def skipped_ids(tokenizer: Tokenizer, keep: Collection[str] = ()) -> frozenset[int]:
    """Ids of the special tokens that are no text; those named in `keep` (markers of tool calls) stay."""
    added = tokenizer.get_added_tokens_decoder().items()
    return frozenset(token_id for token_id, token in added if token.special and token.content not in keep)


class Detokenizer:
    """The text of one answer. Feeding the same ids again, in whatever portions, gives the same text.

    `tokenizers.decoders.DecodeStream` does the first half of this, but it has no way to get at the text it still holds
    when the answer ends, raises on some byte-level fallbacks, and decodes an answer's every special token again.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), skip: frozenset[int] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._skip = skip
        self._window: list[int] = []
        """The last tokens; the first `_seen` of them are in the text, and are context for the others: decoders treat
        the start of their input in a special way (SentencePiece drops a leading space)."""
        self._seen = 0
        self._seen_text = ""
        self._held = ""
        """Decoded, but maybe the start of a stop string."""
        self._parts: list[str] = []
        self.stopped: str | None = None
        """The stop string that ended the answer; the text ends before it."""

    @property
    def text(self) -> str:
        """Everything that was handed out so far."""
        return "".join(self._parts)

    @property
    def held(self) -> int:
        """Characters that are decoded and not handed out."""
        return len(self._held)

    def skips(self, token_id: int) -> bool:
        """Whether the token is no text."""
        return token_id in self._skip

    def add(self, ids: Iterable[int]) -> str:
        """The text that is certain now and was not before; nothing after a stop string."""
        return "".join([self._released(self._decoded(token_id)) for token_id in ids if token_id not in self._skip])

    def finish(self) -> str:
        """What was still held back: the answer has no more tokens."""
        if self.stopped is not None:
            return ""
        decoded = self._decode(self._window)[len(self._seen_text) :]
        self._window, self._seen, self._seen_text = [], 0, ""
        rest = self._released(decoded) + self._held
        if self.stopped is None:
            self._parts.append(self._held)
            self._held = ""
        return rest

    def _decoded(self, token_id: int) -> str:
        """The new text that this token completes; empty while it ends inside a character."""
        self._window.append(token_id)
        text = self._decode(self._window)
        if not text.endswith(REPLACEMENT):
            return self._cut(len(self._window), text)
        if len(self._window) - self._seen < MAX_UNDECIDED:
            return ""
        # A run of bytes that are no text. The last three may still start a character, what is before them may not.
        for at in range(len(self._window) - 3, self._seen, -1):
            settled = self._decode(self._window[:at])
            if settled + self._decode(self._window[at:]) == text:
                return self._cut(at, settled)
        return self._cut(len(self._window), text)

    def _cut(self, at: int, text: str) -> str:
        """The new part of `text`, which the first `at` tokens of the window make; they become context."""
        new = text[len(self._seen_text) :]
        if new:
            self._window = self._window[self._seen :]
            self._seen = at - self._seen
            self._seen_text = self._decode(self._window[: self._seen])
        return new

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _released(self, new: str) -> str:
        """The part of held and new text that cannot belong to a stop string; notices a complete one.

        Of several stop strings the one complete first wins: the cut does not depend on where tokens end.
        """
        if self.stopped is not None or not new:
            return ""
        text = self._held + new
        found = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.stopped = min(found)
            released, self._held = text[:at], ""
        else:
            keep = max((overlap(text, stop) for stop in self._stop), default=0)
            released, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self._parts.append(released)
        return released


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` starts with, without being it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class RepetitionDetector:
    """Notices that a generation repeats the same few tokens and nothing else.

    It waits long on purpose: a table of zeros, `ha ha ha` or a line of dashes is an answer, and cutting one short is
    worse than a few hundred wasted tokens.
    """

    def __init__(self, max_period: int = 64, min_tokens: int = 256, min_repeats: int = 5) -> None:
        """A cycle of up to `max_period` tokens counts once it fills `min_tokens` and was seen `min_repeats` times."""
        self._recent: deque[int] = deque(maxlen=max_period)
        self._runs = [0] * max_period
        """At index p - 1: how many tokens at the end equal the token p places before them."""
        self._needed = [max(min_tokens, min_repeats * period) - period for period in range(1, max_period + 1)]
        self._shortest = min(self._needed)
        self.period: int | None = None
        """Tokens of the cycle, once it was noticed."""

    def add(self, ids: Iterable[int]) -> bool:
        """Whether the generation runs in circles, at these ids or before."""
        for token_id in ids:
            runs = [
                run + 1 if token_id == earlier else 0 for run, earlier in zip(self._runs, self._recent, strict=False)
            ]
            self._runs[: len(runs)] = runs
            self._recent.appendleft(token_id)
            if self.period is None and runs and max(runs) >= self._shortest:
                at = [run >= needed for run, needed in zip(runs, self._needed, strict=False)]
                self.period = at.index(True) + 1 if True in at else None
        return self.period is not None
