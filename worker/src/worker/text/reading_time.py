"""How long the patterns of a model's response template may work on one answer.

The patterns come from the model's files and work on the worker's event loop, on text that a client can bring about.
transformers matches them by `regex`, which stops when it is told to: `TimedRegex` stands in its place and tells it.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from time import thread_time
from typing import Any

import regex

SECONDS = 0.25
"""Of CPU, for one answer: what a hostile pattern may take from its neighbours, once."""
SECONDS_PER_CHARACTER = 50e-6
"""Beside that; a usual template takes a fifth of it."""
MOST_LOOKED_AT = 1_000_000_000
"""Characters: strings of a call times its length. Each of them is put back by another look through all of it."""


class _Clock(threading.local):
    ends = 0.0
    """The thread's CPU time at which its patterns stop; nothing is matched by those that nobody has given time."""


_clock = _Clock()


class ReadingTime:
    """What is left for one answer."""

    def __init__(self) -> None:
        self._left = SECONDS

    @contextlib.contextmanager
    def running(self, characters: int = 0) -> Iterator[None]:
        """Patterns that work meanwhile raise TimeoutError when it is spent. `characters`: of the answer, new ones."""
        began = thread_time()
        _clock.ends = began + self._left + characters * SECONDS_PER_CHARACTER
        try:
            yield
        finally:
            self._left -= max(0.0, thread_time() - began - characters * SECONDS_PER_CHARACTER)
            _clock.ends = 0.0


def _seconds_left() -> float:
    left = _clock.ends - thread_time()
    if left <= 0:
        raise TimeoutError("the patterns of the model's response template take too long")
    return left


class TimedPattern:
    """A compiled pattern."""

    def __init__(self, pattern: Any) -> None:
        self._pattern = pattern
        self.groupindex: dict[str, int] = pattern.groupindex

    def search(self, text: str, at: int = 0, *, partial: bool = False) -> Any:
        return self._pattern.search(text, at, partial=partial, timeout=_seconds_left())

    def finditer(self, text: str) -> Iterator[Any]:
        return iter(list(self._pattern.finditer(text, timeout=_seconds_left())))


class TimedRegex:
    """The module `regex`, as far as response templates are read by it."""

    DOTALL = regex.DOTALL
    error = regex.error
    escape = staticmethod(regex.escape)

    @staticmethod
    def compile(pattern: str, flags: int = 0) -> TimedPattern:
        return TimedPattern(regex.compile(pattern, flags))

    @staticmethod
    def finditer(pattern: str, text: str, flags: int = 0) -> Iterator[Any]:
        return TimedRegex.compile(pattern, flags).finditer(text)

    @staticmethod
    def sub(pattern: str, new: str | Callable[[Any], str], text: str, flags: int = 0) -> str:
        if not isinstance(new, str):
            new = _few(new, MOST_LOOKED_AT // max(1, len(text)))
        return str(regex.sub(pattern, new, text, flags=flags, timeout=_seconds_left()))


def _few(new: Callable[[Any], str], most: int) -> Callable[[Any], str]:
    count = 0

    def counted(match: Any) -> str:
        nonlocal count
        count += 1
        if count > most:
            raise TimeoutError("a call has more strings than can be read in its length")
        return new(match)

    return counted
