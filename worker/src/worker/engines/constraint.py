"""The state of one request's grammar while its answer is decoded."""

import logging
from collections.abc import Callable
from typing import TypeVar

import llguidance.numpy
import numpy as np
from llguidance import LLMatcher

from worker.engines.token_kinds import Bitmask, TokenKinds, first_of, ids_of, only
from worker.panics import LEAVING

log = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")

SLACK = 8
"""Tokens kept back beyond the rest of the document: the model may close it in smaller tokens."""
LONGEST_REST = 512
"""Tokens where the search for the rest gives up; a document that needs more may end in its middle."""
MAX_GROWN = 16
"""Tokens in a row where it gives up on a string that may not end: patterns are where a look is slow, up to 30 ms."""
UNKNOWN_REST = 64
"""Tokens that a rest is taken to have which was not found; it is searched for again after a quarter of them."""
MAX_TRIED = 32
"""Tokens of one step that are tried out."""
MAX_LOOKS = 128
"""Looks at what may follow while they are, 0.05 ms each."""


class InvalidGrammar(Exception):
    """The grammar cannot be compiled, or the tokens of the earlier attempt do not follow it."""


class JsonText:
    """Whether JSON text, as far as it is written, ends inside a string."""

    def __init__(self, in_string: bool = False, escaped: bool = False) -> None:
        self.in_string, self.escaped = in_string, escaped

    def add(self, written: bytes) -> None:
        """Reads on."""
        for byte in written:
            if self.escaped:
                self.escaped = False
            elif byte == 0x22:
                self.in_string = not self.in_string
            elif byte == 0x5C:
                self.escaped = self.in_string

    def copy(self) -> "JsonText":
        """The same place in a text of its own."""
        return JsonText(self.in_string, self.escaped)


class Constraint:
    """Says which tokens may come next, and whether the document is complete.

    Where the tokens left just suffice to end the document, only such tokens may come that close what is open. When the
    grammar becomes too much for the matcher, the request goes on under a wider one, which its tokens follow too.
    """

    def __init__(
        self, matcher: LLMatcher, tokens: TokenKinds, largest_part: int, wider: Callable[[], LLMatcher] | None = None
    ) -> None:
        """`wider` compiles the grammar to go on under; it may raise InvalidGrammar. `largest_part`: as in `Grammar`."""
        self._matcher = matcher
        self._tokens = tokens
        self._largest_part = largest_part
        self._wider = wider
        self._taken: list[int] = []
        self._text = JsonText()
        self._rest: list[int] | None = None
        """Tokens that ended the document from where it was searched for; None: no end was found."""
        self._rest_holds = False
        """Whether they end it from here, too."""
        self._search_at = 2**31
        """With so many tokens left it is searched for again."""
        self._looks = 0
        """Counts how often it was looked at what may follow."""
        self._look_at: int | None = None
        """With so many tokens left the rest is looked at again: before, the document cannot have grown beyond them."""

    @property
    def complete(self) -> bool:
        """Whether nothing but end-of-sequence can follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self, remaining: int) -> Bitmask:
        """The tokens that may come next when `remaining` may still be generated. Raises InvalidGrammar.

        End-of-sequence alone when the document is complete.
        """
        mask = self._guarded(lambda: self._mask(self._matcher))
        if self._look_at is not None and remaining > self._look_at:
            return mask
        rest = self._guarded(lambda: self._rest_from_here(remaining))
        if rest is None:
            closing = mask & self._closing(self._text)
            return closing if remaining <= UNKNOWN_REST and closing.any() else mask
        spare = remaining - SLACK - len(rest)
        if spare > self._largest_part:
            self._look_at = remaining - 1 - (spare - self._largest_part) // (self._largest_part + 1)
            return mask
        self._look_at = remaining
        if spare <= 0 and (closing := mask & self._closing(self._text)).any():
            return closing
        fitting = self._guarded(lambda: self._fitting(mask, remaining - 1)) if remaining > len(rest) else None
        return fitting if fitting is not None and fitting.any() else only(rest[0], mask)

    def shortest(self) -> int:
        """Tokens, about, that end the document from here; 0 where that cannot be found out."""
        return len(self._guarded(self._found_rest) or ())

    def take(self, token_id: int) -> bool:
        """Notes the token; True when nothing but end-of-sequence can follow. Raises InvalidGrammar."""
        stopped = self._guarded(lambda: self._consumed(token_id))
        self._taken.append(token_id)
        self._text.add(self._tokens.tokenizer.decode_bytes([token_id]))
        if self._rest and self._rest_holds and self._rest[0] == token_id:
            self._rest = self._rest[1:]
        else:
            self._rest_holds = False
        return stopped

    def _guarded(self, step: Callable[[], Outcome]) -> Outcome:
        """The step's outcome, under the wider grammar where the matcher fails at this one."""
        try:
            return step()
        except LEAVING:
            raise
        except BaseException as error:
            if self._wider is None:
                raise InvalidGrammar(str(error)) from error
            log.warning("A grammar is too much for its matcher; the answer goes on under a wider one: %s", error)
            self._matcher, self._wider = self._wider(), None
            self._rest, self._rest_holds, self._look_at = None, False, None
            for token_id in self._taken:
                self._consumed(token_id)
        return self._guarded(step)

    def _consumed(self, token_id: int) -> bool:
        if not self._matcher.consume_token(token_id) or self._matcher.is_error():
            raise InvalidGrammar(reason_of(self._matcher))
        return bool(self._matcher.is_stopped())

    def _mask(self, matcher: LLMatcher) -> Bitmask:
        self._looks += 1
        mask = np.empty_like(self._tokens.closing)
        llguidance.numpy.fill_next_token_bitmask(matcher, mask)
        if matcher.is_error():
            raise InvalidGrammar(reason_of(matcher))
        return mask

    def _closing(self, text: JsonText) -> Bitmask:
        """Tokens that close what is open in the text."""
        if not text.in_string:
            return self._tokens.closing
        return np.zeros_like(self._tokens.closing) if text.escaped else self._tokens.quoting

    def _rest_from_here(self, remaining: int) -> list[int] | None:
        """Tokens that end the document; those of the last search as long as they do."""
        if not self._rest_holds and (self._rest is None or not self._ends_with(self._rest)):
            if remaining > self._search_at:
                return None
            self._rest = self._found_rest()
            self._search_at = remaining - UNKNOWN_REST // 4 if self._rest is None else remaining
        self._rest_holds = self._rest is not None
        return self._rest

    def _ends_with(self, rest: list[int]) -> bool:
        matcher = self._matcher.deep_copy()
        return matcher.consume_tokens(rest) and matcher.is_accepting()

    def _found_rest(self) -> list[int] | None:
        """A short end of the document: what is open is closed, what must come is written as briefly as is easy."""
        for last in (False, True):
            rest = self._searched_rest(self._matcher.deep_copy(), self._text.copy(), LONGEST_REST, last=last)
            if rest is not None:
                return rest
        return None

    def _searched_rest(self, matcher: LLMatcher, text: JsonText, most: int, *, last: bool = False) -> list[int] | None:
        """The rest of at most `most` tokens; where nothing can be closed, the first or the last token that may come."""
        rest: list[int] = []
        grown = 0
        while len(rest) <= most and grown < MAX_GROWN:
            if matcher.is_stopped():
                return rest
            if matcher.is_accepting():
                return [*rest, self._tokens.tokenizer.eos_token]
            written = matcher.compute_ff_tokens() or [self._next(self._mask(matcher), text, last=last)]
            grown = grown + 1 if text.in_string else 0
            if not matcher.consume_tokens(written):
                return None
            rest += written
            text.add(self._tokens.tokenizer.decode_bytes(written))
        return None

    def _next(self, mask: Bitmask, text: JsonText, *, last: bool) -> int:
        """The token that gets on with the document."""
        closing = mask & self._closing(text)
        if closing.any():
            return first_of(closing)
        # A string must grow before it may end.
        longest = mask if text.in_string else mask & self._tokens.brief
        if longest.any():
            ids = ids_of(longest)
            return int(ids[self._tokens.lengths[ids].argmax()])
        return int(ids_of(mask)[-1]) if last else first_of(mask)

    def _fitting(self, mask: Bitmask, remaining: int) -> Bitmask:
        """Without the tokens behind which the document does not end within `remaining`."""
        ids = ids_of(mask)
        if len(ids) > MAX_TRIED and self._text.in_string:
            return mask & ~self._tokens.going_on
        if len(ids) > MAX_TRIED:
            ids = ids_of(mask & self._tokens.beginning)
        fitting = mask.copy().view(np.uint32)
        self._looks = 0
        for at, token_id in enumerate(ids.tolist()):
            if at >= MAX_TRIED or self._looks > MAX_LOOKS or not self._fits(token_id, remaining):
                fitting[0, token_id // 32] &= ~(1 << (token_id % 32)) & 0xFFFFFFFF
        return fitting.view(np.int32)

    def _fits(self, token_id: int, remaining: int) -> bool:
        assert self._rest is not None
        matcher = self._matcher.deep_copy()
        if not matcher.consume_token(token_id):
            return False
        known = matcher.deep_copy()
        if len(self._rest) <= remaining and known.consume_tokens(self._rest) and known.is_accepting():
            return True
        text = self._text.copy()
        text.add(self._tokens.tokenizer.decode_bytes([token_id]))
        rest = self._searched_rest(matcher, text, min(remaining, LONGEST_REST))
        return rest is not None and len(rest) <= remaining


def reason_of(matcher: LLMatcher) -> str:
    """llguidance's own words, without its dump of the parser's state."""
    return str(matcher.get_error()).partition("\n")[0]
