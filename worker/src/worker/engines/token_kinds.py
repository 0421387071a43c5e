"""What kinds of tokens a tokenizer has, as far as JSON text is concerned: masks of them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray

Bitmask = NDArray[np.int32]
"""Shape (1, vocabulary / 32): bit i of word w allows token 32 w + i."""

_BRIEF = re.compile(rb'[ ,:]*(""|\[\]|\{\})')


@dataclass(frozen=True, slots=True)
class TokenKinds:
    """What a constraint knows of its tokenizer."""

    tokenizer: LLTokenizer
    closing: Bitmask
    """Outside of strings: tokens of closing brackets alone, and end-of-sequence."""
    quoting: Bitmask
    """Inside a string: tokens that end it, with closing brackets or nothing behind the quote."""
    beginning: Bitmask
    """Outside of strings: tokens that begin something."""
    going_on: Bitmask
    """Inside a string: tokens that end it and begin something else."""
    brief: Bitmask
    """Outside of strings: tokens of separators and empty values, which get on without beginning anything."""
    lengths: NDArray[np.int16]
    """Of every token's text, for all bits of a mask; 0 for special tokens and beyond the vocabulary."""

    @classmethod
    def of(cls, tokenizer: LLTokenizer, vocabulary: int, eos_token_ids: Sequence[int]) -> "TokenKinds":
        """The kinds of the tokens of a vocabulary."""
        texts = {i: tokenizer.decode_bytes([i]) for i in range(vocabulary) if not tokenizer.is_special_token(i)}
        lengths = np.zeros((vocabulary + 31) // 32 * 32, dtype=np.int16)
        lengths[list(texts)] = [len(text) for text in texts.values()]

        def tokens(belongs: Callable[[bytes], bool], also: Sequence[int] = ()) -> Bitmask:
            mask = np.zeros(len(lengths), dtype=np.uint8)
            mask[[*(i for i, text in texts.items() if text and belongs(text)), *also]] = 1
            return np.packbits(mask, bitorder="little").view(np.int32)[None]

        return cls(
            tokenizer,
            closing=tokens(lambda text: not text.strip(b"]}"), eos_token_ids),
            quoting=tokens(lambda text: text.startswith(b'"') and not text[1:].strip(b"]}")),
            beginning=tokens(lambda text: any(char in text for char in b'{[",')),
            going_on=tokens(lambda text: bool(text.partition(b'"')[2].strip(b"]}"))),
            brief=tokens(lambda text: _BRIEF.fullmatch(text) is not None),
            lengths=lengths,
        )


def only(token_id: int, mask: Bitmask) -> Bitmask:
    only = np.zeros_like(mask).view(np.uint32)
    only[0, token_id // 32] = 1 << (token_id % 32)
    return only.view(np.int32)


def holds(mask: Bitmask, token_id: int) -> bool:
    return bool(int(mask[0, token_id // 32]) >> (token_id % 32) & 1)


def ids_of(mask: Bitmask) -> NDArray[np.int64]:
    """The tokens of a mask, in order."""
    words = np.flatnonzero(mask[0])
    rows, bits = np.nonzero(np.unpackbits(mask[0, words].view(np.uint8).reshape(-1, 4), axis=1, bitorder="little"))
    return words[rows] * 32 + bits


def first_of(mask: Bitmask) -> int:
    word = int(np.flatnonzero(mask[0])[0])
    bits = int(mask[0, word]) & 0xFFFFFFFF
    return word * 32 + (bits & -bits).bit_length() - 1
