"""What the worker and its engine process say to each other over one pipe: plain frozen dataclasses, pickled."""

from dataclasses import dataclass, field
from typing import Literal

from shared.telemetry.logs import LogOptions

FinishReason = Literal["stop", "length"]
"""`stop`: an end-of-sequence token, or the grammar is complete; `length`: `max_new_tokens` reached."""


Quantization = Literal["none", "bitsandbytes-8bit", "bitsandbytes-4bit"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["auto", "sdpa", "per_request", "flash_attention_2", "flash_attention_3"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Everything the engine process needs to start; picklable, the worker's settings filled in."""

    model: str
    """`org/name` or `hf://org/name`, a folder of safetensors, a `.gguf` file, or `package://package/file.gguf`."""
    cache_dir: str
    """Where converted GGUF weights and tokenizers are kept between starts."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    offline: bool = False
    """Never ask the hub; use what is already downloaded."""
    dtype: Dtype = "auto"
    """`auto`: float32 on a CPU, bfloat16 on a GPU."""
    quantization: Quantization = "none"
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    device_map: str | None = None
    """accelerate's placement over several GPUs (`auto`, `balanced`, ...); `None`: all on `device`, or `auto` when
    `device` is `auto` and there are several GPUs."""
    attention: Attention = "auto"
    """`auto`: `per_request` on a CPU; on a GPU flash attention where it is installed, else `sdpa`."""
    slots: int = 32
    """Most requests in one batch."""
    context_length: int | None = None
    """Most tokens of prompt and answer together; `None`: the model's own limit. Less where the KV cache is smaller."""
    max_batch_tokens: int | None = None
    """Most tokens one step computes while no request is decoding; `None`: chosen for the device."""
    prefill_chunk: int | None = None
    """Most prompt tokens one step computes beside decoding requests; `None`: chosen for the device."""
    page_size: int | None = None
    """Tokens per page of the KV cache, the grain of prefix caching; `None`: chosen for the device."""
    kv_memory_gib: float | None = None
    """Memory of the KV cache; `None`: 1 GiB on a CPU, most of what the weights leave free on a GPU."""
    threads: int | None = None
    """Torch threads on a CPU; `None`: torch's own choice."""
    cuda_graphs: bool | None = None
    """`None`: on where the attention allows them."""
    logs: LogOptions = field(default_factory=LogOptions)


@dataclass(frozen=True, slots=True)
class Grammar:
    """A constraint on the output, enforced while decoding."""

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    """The JSON schema, the regular expression or the Lark grammar (llguidance's dialect)."""


@dataclass(frozen=True, slots=True)
class Generate:
    """Start one request."""

    request_id: str
    """Unique among the requests that the engine holds."""
    prompt_ids: tuple[int, ...]
    generated_ids: tuple[int, ...] = ()
    """Tokens that an earlier attempt already produced: prefilled after the prompt, the grammar and the random
    numbers go on behind them. Not repeated in the output."""
    max_new_tokens: int = 256
    """Counts `generated_ids` too."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    seed: int = 0
    """The token at position i of the answer is drawn from (seed, i), whatever else is in the batch."""
    grammar: Grammar | None = None


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
class Ready:
    """The model is loaded and warm."""

    context_length: int
    revision: str
    eos_token_ids: tuple[int, ...]
    slots: int
    device: str
    dtype: str
    load_seconds: float


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The engine cannot start; it exits non-zero after this."""

    message: str
    """What, why, what to do; no traceback."""


@dataclass(frozen=True, slots=True)
class Output:
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


@dataclass(frozen=True, slots=True)
class Stats:
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


@dataclass(frozen=True, slots=True)
class Step:
    """Everything that one engine step produced; also sent empty once a second while idle, as a sign of life."""

    outputs: tuple[Output, ...] = ()
    stats: Stats = field(default_factory=Stats)


Message = Loading | Ready | StartFailed | Step
