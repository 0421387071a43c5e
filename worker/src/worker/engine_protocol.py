"""What the worker and its engine process say to each other over one pipe, pickled: plain frozen dataclasses, and tuples
where one comes with every token, as a frozen dataclass takes three times as long to read."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

SIGN_OF_LIFE_SECONDS = 1.0
"""A ready engine sends a `Step` at least so often while it is idle, and one for each step while it computes. Silence is
how a hang is noticed."""
STOP_SECONDS = 3.0
"""After `Stop` or SIGTERM an engine leaves within this, whatever step it is in."""
KILL_SECONDS = 4.0
"""After `Stop` one that has not left is killed: later than the engine's own bound, so that the two never race, and
early enough that the worker still says good-bye within its hand-over."""

LinearLayers = Literal["packed", "plain"]

FinishReason = Literal["stop", "length"]
"""`stop`: an end-of-sequence token, or the grammar is complete; `length`: `max_new_tokens` reached."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What a model writes for itself in front of the answer that a grammar holds."""

    closing: str
    """The tag that ends it; the grammar begins behind."""
    opening: str = ""
    """The tag that the model may begin it with, or go without; empty: the prompt has opened it."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A constraint on the output, enforced while decoding."""

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    """The JSON schema, the regular expression or the Lark grammar (llguidance's dialect)."""
    wider: str = ""
    """A simple grammar of the same kind that allows all that `source` allows, to go on under where that is too much;
    empty: there is none, and the request fails then."""
    largest_part: int = 32
    """Tokens, about, of the largest thing that one token may begin and that must then be ended."""
    reasoning: Reasoning | None = None
    """Free text in front of it, of at most half of the tokens."""


@dataclass(frozen=True, slots=True)
class Generate:
    """Start one request. The worker sends only what needs a step: a prompt with tokens, room for an answer behind it in
    the context, an answer that has not ended. The engine may rely on that."""

    request_id: str
    """Unique among the requests that the engine holds."""
    prompt_ids: tuple[int, ...]
    generated_ids: tuple[int, ...] = ()
    """Tokens that an earlier attempt already produced: prefilled after the prompt, the grammar and the random
    numbers go on behind them. Not repeated in the output."""
    max_new_tokens: int = 256
    """Counts `generated_ids` too; with the prompt at most the context."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    seed: int = 0
    """The token at position i of the answer is drawn from (seed, i), whatever else is in the batch."""
    grammar: Grammar | None = None
    logprobs: int | None = None
    """Tell the logprobs of each token, with so many alternatives; None: not at all."""
    scores_prompt: bool = False
    """With `logprobs`: tell those of the prompt's tokens too, before the first token."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop one request; unknown ids are ignored. The slot is free after the current step. No output follows."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave: free the device and exit 0."""


Command = Generate | Cancel | Stop


@dataclass(frozen=True, slots=True)
class Loading:
    """Progress of the start."""

    detail: str
    """For a person: `loading weights`, `converting GGUF`."""
    fraction: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """How the model's authors want a token chosen where a request does not say. As they stand here: greedy."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """1 is off."""
    top_k: int = 0
    """0 is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The model is loaded and warm; this is what it is."""

    context_length: int
    """Most tokens of prompt and answer together."""
    revision: str
    """Changes with whatever changes the answers: weights, quantization, tokenizer."""
    eos_token_ids: tuple[int, ...]
    slots: int
    """Requests that fit into the batch."""
    device: str
    dtype: str
    load_seconds: float
    sampling: SamplingDefaults
    grammars: bool
    """Whether it enforces grammars, also behind tokens of an earlier attempt; else the worker sends it none."""
    continues_draws: bool
    """Whether token i of a sampled answer depends on model, prompt, seed and i alone: then an answer that another
    process goes on with is the one that an undisturbed process would have given. Greedy ones are so in any case."""
    linear_layers: LinearLayers | None = None
    """How they keep their weights, where the engine has chosen."""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The engine cannot start; it exits non-zero after this."""

    message: str
    """What, why, what to do; no traceback."""


class Logprobs(NamedTuple):
    """How likely a token was by the model alone: before temperature, top-p, top-k and grammar."""

    own: float | None
    """The natural logarithm of its probability; None for a prompt's first token, which nothing stands before."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens in its place and theirs, best first."""


class Output(NamedTuple):
    """What one request got in one step."""

    request_id: str
    token_ids: tuple[int, ...]
    """New tokens, in order; the end-of-sequence token included."""
    finish: FinishReason | None = None
    error: str | None = None
    """Set when the engine could not go on with this request alone; no more output follows."""
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache; set on the first output of a request."""
    admitted_at: float = 0.0
    """When the request first entered the batch, by CLOCK_MONOTONIC; set on its first output, 0 where it never did."""
    logprobs: tuple[Logprobs, ...] = ()
    """Of these tokens, where the request asks for them."""
    prompt_logprobs: tuple[Logprobs, ...] = ()
    """Of the prompt's next tokens. No output follows the first token that has any."""

    @property
    def ends(self) -> bool:
        """True when no more output follows."""
        return self.finish is not None or self.error is not None


class Stats(NamedTuple):
    """The engine's gauges after a step."""

    step_seconds: float = 0.0
    running: int = 0
    """Requests in the batch."""
    waiting: int = 0
    """Requests the engine holds but has not admitted."""
    kv_used: float = 0.0
    """Fraction of the KV cache in use, 0 to 1."""
    preemptions: int = 0
    """Since start."""


class Step(NamedTuple):
    """Everything that one engine step produced; also sent empty once a second while idle, as a sign of life."""

    outputs: tuple[Output, ...] = ()
    stats: Stats = Stats()


Message = Loading | Ready | StartFailed | Step
