"""The text of single tokens, and how likely they are, for clients."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from shared.wire.schemas import LikelyToken, TokenLogprob
from worker.engine_protocol import Logprobs

LEAST = -9999.0
"""OpenAI's word for a token that is next to impossible; JSON has no infinity."""


class TokenText(NamedTuple):
    """A token as clients see it."""

    token: str
    bytes: list[int] | None
    """Of one that is only a part of a character."""


class TokenTexts:
    """Of one tokenizer. `decode` does not tell what a token alone is: it drops leading spaces and half characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
        steps = list(_steps(json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder is not None else {}))
        kinds = {step["type"] for step in steps}
        self._byte_of = _bytes_of_letters() if "ByteLevel" in kinds else {}
        self._byte_fallback = "ByteFallback" in kinds
        self._replaced = [
            *((step["pattern"].get("String", ""), step["content"]) for step in steps if step["type"] == "Replace"),
            *((step["replacement"], " ") for step in steps if step["type"] == "Metaspace"),
        ]
        self._known: dict[int, TokenText] = {}

    def of(self, token_id: int) -> TokenText:
        """The token's text."""
        if token_id not in self._known:
            spelled = self.spelled(token_id)
            try:
                self._known[token_id] = TokenText(spelled.decode(), None)
            except UnicodeDecodeError:
                self._known[token_id] = TokenText(spelled.decode(errors="backslashreplace"), list(spelled))
        return self._known[token_id]

    def spelled(self, token_id: int) -> bytes:
        """Its bytes; none of a number that is no token, which the scores of some models have room for."""
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self._tokenizer.id_to_token(token_id) or ""
        if self._byte_of:
            return b"".join(self._byte_of.get(letter, letter.encode()) for letter in piece)
        if self._byte_fallback and len(piece) == 6 and piece.startswith("<0x"):
            return bytes.fromhex(piece[3:5])
        for written, meant in self._replaced:
            piece = piece.replace(written, meant) if written else piece
        return piece.encode()

    def told(self, token_ids: Sequence[int], logprobs: Sequence[Logprobs]) -> list[TokenLogprob]:
        """What an engine says of tokens, for clients."""
        return [self._told(*pair) for pair in zip(token_ids, logprobs, strict=True)]

    def _told(self, token_id: int, logprobs: Logprobs) -> TokenLogprob:
        text = self.of(token_id)
        top = [
            LikelyToken(token=likely.token, bytes=likely.bytes, logprob=_plain(logprob))
            for likely, logprob in ((self.of(other), logprob) for other, logprob in logprobs.top)
        ]
        own = None if logprobs.own is None else _plain(logprobs.own)
        return TokenLogprob(token=text.token, bytes=text.bytes, logprob=own, top_logprobs=top)


def _plain(logprob: float) -> float:
    return max(LEAST, round(logprob, 6) + 0.0)


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder.get("type") == "Sequence":
        for inner in decoder["decoders"]:
            yield from _steps(inner)
    elif decoder:
        yield decoder


def _bytes_of_letters() -> dict[str, bytes]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for the letters from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): bytes([byte]) for byte in plain}
    return letters | {chr(0x100 + at): bytes([byte]) for at, byte in enumerate(others)}
