"""The answers of the scripted engine: deterministic words, and directives that make it misbehave.

Logprobs are made up: by place and token alone, with the token itself as the likeliest.

Source `scripted:?token_ms=20&context=8192&tokens=32`. Token i of an answer depends on the prompt (or the seed, when it
is not 0) and on i alone. Directives are lines of the last user message:

    !say TEXT        answer TEXT (the rest of the message), then stop
    !draw TEXTS      answer one text of a JSON list, the one at the seed modulo their number, then stop
    !rounds TEXTS    answer one text of a JSON list, the one at the number of answers since, at most the last, then stop
    !sampling        answer with the request's temperature, top-p and top-k, then stop
    !tokens N        stop after N words
    !crash [K]       the process dies before token K (default 0)
    !hang [K]        no step any more from token K on, for all requests
    !hold-gil S      before the first token: hold the interpreter for S seconds
    !slow MS         MS more per token
    !fail TEXT       the engine reports TEXT as this request's error
"""

import json
import re
import zlib
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from worker.engine_options import SCRIPT
from worker.engine_protocol import Generate, Logprobs, SamplingDefaults

EOS = 0
FIRST_BYTE = 1
"""Token 1 + b is the byte b; prompts and `!say` are written in these."""
FIRST_WORD = FIRST_BYTE + 256
WORDS = tuple(
    f" {a}{b}" for a in ("ba", "de", "fi", "go", "ku", "la", "me", "ni") for b in ("ra", "so", "ti", "vu", "xe", "yo")
)
LAST_USER = "\x02"
"""Stands before the last user message in a scripted prompt, and once more for each answer behind it."""


@dataclass(frozen=True, slots=True)
class Script:
    """The options behind `scripted:`."""

    token_ms: float
    """Length of a step; 0: as fast as it goes."""
    context: int
    tokens: int
    """Words of an answer without a directive."""
    start_ms: float
    fail_start: str
    """Not empty: the engine does not start, and says this."""
    fail_if: str
    """A path: the engine does not start once there is a file."""
    sampling: SamplingDefaults
    """Stands for a model's generation config: `temperature`, `top_p`, `top_k`."""

    @classmethod
    def parse(cls, source: str) -> "Script":
        """Raises ValueError for an unknown option or a value that is no number."""
        given = dict(parse_qsl(source.removeprefix(SCRIPT).removeprefix("?")))
        script = cls(
            token_ms=float(given.pop("token_ms", 5.0)),
            context=int(given.pop("context", 8192)),
            tokens=int(given.pop("tokens", 32)),
            start_ms=float(given.pop("start_ms", 0.0)),
            fail_start=given.pop("fail_start", ""),
            fail_if=given.pop("fail_if", ""),
            sampling=SamplingDefaults(
                temperature=float(given.pop("temperature", 0.0)),
                top_p=float(given.pop("top_p", 1.0)),
                top_k=int(given.pop("top_k", 0)),
            ),
        )
        if given:
            raise ValueError(f"The scripted engine has no option {', '.join(sorted(given))}.")
        return script


@dataclass
class ScriptedAnswer:
    """How far one request is."""

    generate: Generate
    index: int
    said: tuple[int, ...] | None
    tokens: int
    directives: dict[str, str]
    key: int
    fresh: bool = field(default=True)

    @classmethod
    def of(cls, generate: Generate, script: Script) -> "ScriptedAnswer":
        spelled = (token - FIRST_BYTE for token in generate.prompt_ids if FIRST_BYTE <= token < FIRST_WORD)
        prompt = bytes(spelled).decode(errors="replace")
        message = prompt.rpartition(LAST_USER)[2]
        said = re.search(r"^!say (.*)", message, re.MULTILINE | re.DOTALL)
        text = said[1] if said else None
        directives = dict(re.findall(r"^!(\w[\w-]*) ?(.*)$", message, re.MULTILINE))
        if "draw" in directives:
            texts: list[str] = json.loads(directives["draw"])
            text = texts[generate.seed % len(texts)]
        if "rounds" in directives:
            texts = json.loads(directives["rounds"])
            text = texts[min(prompt.count(LAST_USER), len(texts)) - 1]
        if "sampling" in directives:
            text = f"{generate.temperature} {generate.top_p} {generate.top_k}"
        return cls(
            generate=generate,
            index=len(generate.generated_ids),
            said=None if text is None else tuple(FIRST_BYTE + byte for byte in text.encode()),
            tokens=int(directives.get("tokens") or script.tokens),
            directives=directives,
            key=generate.seed or hash(generate.prompt_ids),
        )

    def at(self, directive: str) -> bool:
        return directive in self.directives and self.index == int(self.directives[directive] or 0)

    def logprobs(self, index: int, token: int) -> Logprobs:
        """Made up, of the token at a place of prompt and answer; the likeliest others are words."""
        own = -(zlib.crc32(b"%d %d" % (index, token)) % 1000 + 1) / 1000
        others = ((FIRST_WORD + (token + at) % len(WORDS), own - at) for at in range(1, self.generate.logprobs or 0))
        return Logprobs(own, ((token, own), *others) if self.generate.logprobs else ())

    def next_token(self) -> int:
        if self.said is not None:
            return self.said[self.index] if self.index < len(self.said) else EOS
        if self.index >= self.tokens:
            return EOS
        return FIRST_WORD + zlib.crc32(self.index.to_bytes(4), self.key & 0xFFFFFFFF) % len(WORDS)
