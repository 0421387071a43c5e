"""What clients write stays text: only a model's template writes control tokens.

transformers does this from 5.21 on; older versions take the argument that asks for it, and do nothing.
"""

import re
from typing import Any

from worker.text.chat_tokenizer import ChatTokenizer

BEGIN, END = "\U0010fffd", "\U0010fffc"
"""Around what a client wrote that spells a control token: private characters, taken out of clients' texts before."""


class ControlTokens:
    """Those of one tokenizer: its special tokens, and added ones that its template writes."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        template = str(tokenizer.chat_template or "")
        added = tokenizer.added_tokens_decoder.values()
        spelt = {one.content for one in added if one.content.strip() and (one.special or one.content in template)}
        # The longest first: one may begin like another.
        pattern = "|".join(re.escape(text) for text in sorted(spelt, key=len, reverse=True)) or "(?!)"
        self._spelt = re.compile(pattern)
        self._marks = re.compile(f"{BEGIN}({pattern}){END}|[{BEGIN}{END}]")
        self._newline: list[int] = tokenizer.encode("\n", add_special_tokens=False)

    def marked(self, value: Any) -> Any:
        """Messages or tools, with marks around what spells a control token, in keys too."""
        match value:
            case str():
                return self._spelt.sub(f"{BEGIN}\\g<0>{END}", value.replace(BEGIN, "").replace(END, ""))
            case dict():
                return {self.marked(key): self.marked(item) for key, item in value.items()}
            case list():
                return [self.marked(item) for item in value]
        return value

    def ids(self, prompt: str) -> list[int]:
        """The tokens of a prompt rendered from such values. Raises ValueError for what cannot be said as text."""
        first, *others = self._marks.split(prompt)
        ids: list[int] = self._tokenizer.encode(first, add_special_tokens=False)
        # By turns what was between marks and what follows. A template may have torn a pair apart: None, and its halves
        # stay apart.
        for spelt, meant in zip(others[::2], others[1::2], strict=True):
            if spelt:
                ids += self._behind_a_newline(spelt, as_text=True)
            if meant:
                ids += self._behind_a_newline(meant, as_text=False)
        return ids

    def _behind_a_newline(self, text: str, *, as_text: bool) -> list[int]:
        """Encoded as in the middle of a text: at its beginning many tokenizers put a space in front."""
        encoded = self._as_text("\n" + text) if as_text else self._encoded("\n" + text)
        if encoded[: len(self._newline)] == self._newline:
            encoded = encoded[len(self._newline) :]
        else:
            encoded = self._as_text(text) if as_text else self._encoded(text)
        if as_text and self._backend.token_to_id(text) in encoded:
            raise ValueError(
                f"{text!r} cannot be said to this model: it is a control token, and its tokenizer knows no other"
            )
        return encoded

    def _encoded(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _as_text(self, text: str) -> list[int]:
        """Without any added token."""
        backend = self._backend
        text = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
        return [token.id for word in words for token in backend.model.tokenize(word)]
