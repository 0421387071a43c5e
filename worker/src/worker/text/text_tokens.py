"""Which of an answer's tokens its text is made of: told when the text is, so that both stay in step.

Text is held back (stop strings, half characters, what may be a tool call), and much of what a model writes is none
(reasoning, calls, tags). What comes out of a reader is a part of what went in, in order; what it holds back it says.
"""

from dataclasses import dataclass

from shared.wire.schemas import TokenLogprob


@dataclass(slots=True)
class _Open:
    """A token of which nothing is decided. Places are characters of the whole decoded answer."""

    logprob: TokenLogprob | None
    start: int
    end: int
    """Where `start` is, while it ends inside of a character: it belongs to the one that completes it."""
    special: bool = False
    """It has no text."""


class TextTokens:
    """The tokens of one answer, from when they are drawn to when their text is shown, or known to be none."""

    def __init__(self, *, specials: bool) -> None:
        """`specials`: tokens without a text (such as end-of-sequence) are told too."""
        self._specials = specials
        self._open: list[_Open] = []
        self._decided = 0
        """Characters that were shown or dropped."""
        self._waiting = ""
        """Those behind them that went into the reader."""
        self._told: list[TokenLogprob | None] = []
        self._decoded = 0

    @property
    def untold(self) -> bool:
        """Whether nothing is decided yet of some token."""
        return bool(self._open)

    def taken(self) -> list[TokenLogprob | None]:
        """The tokens of the text that was shown since the last call; None for those of which nothing was said."""
        told, self._told = self._told, []
        return told

    def draw(self, logprob: TokenLogprob | None, decoded: int, *, special: bool) -> None:
        """A new token; `decoded`: characters of the answer with it. `special`: it has no text."""
        if self._specials or not special:
            self._open.append(_Open(logprob, self._decoded, decoded, special))
        self._decoded = decoded

    def show(self, read: str, shown: str, held: int) -> None:
        """The reader was given `read`, has shown the text `shown` and holds back so many characters."""
        self._waiting += read
        certain = self._waiting[: len(self._waiting) - held]
        at = certain.rfind(shown)
        begin, end = (at, at + len(shown)) if at >= 0 else (0, len(certain))
        text = range(self._decided + begin, self._decided + end) if shown else range(0)
        self._decided += len(certain)
        self._waiting = self._waiting[len(certain) :]
        still: list[_Open] = []
        parts: list[_Open] = []
        for token in self._open:
            parts.append(token)
            if token.special and not still:
                self._told += [part.logprob for part in parts]
                parts = []
            if token.start == token.end:
                continue
            if token.start < text.stop and token.end > text.start:
                self._told += [part.logprob for part in parts]
            elif token.end > self._decided:
                still += parts
            parts = []
        self._open = still + parts

    def complete(self, decoded: int) -> None:
        """No more tokens come: those that end inside of a character are as much text as was made of them."""
        if self._open and decoded > self._decoded:
            self._open[-1].end = self._decoded = decoded

    def end(self) -> None:
        """No more text comes."""
        self._told += [token.logprob for token in self._open if token.special]
        self._open.clear()
