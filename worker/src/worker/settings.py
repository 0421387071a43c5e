"""The worker's settings: which model, how it is loaded, how tasks are run, when the worker gives up."""

import os
import socket
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from shared.settings import SharedSettings
from shared.wire.schemas import DEFAULT_MAX_TOKENS
from worker.engine_options import OPTIONS, EngineOptions, TransformersOptions, VllmOptions
from worker.engine_protocol import SIGN_OF_LIFE_SECONDS, SamplingDefaults


class WorkerSettings(SharedSettings, TransformersOptions, VllmOptions):
    """Read once in app.py: the installation's settings, those of the engine, and the worker's own."""

    model_config = SettingsConfigDict(extra="ignore")  # a `.env` file has variables of others too

    model_name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9.]*[a-z0-9])?$")] = "smollm2-135m-instruct"
    """What clients send as `model`; names the queues."""

    worker_name: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """Unique among the workers; a pod's name is."""
    default_max_tokens: Annotated[int, Field(ge=1)] = DEFAULT_MAX_TOKENS
    """Most tokens of an answer whose request sets no `maxTokens`."""
    default_temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Of requests that set none; `None`: the model's own, from its generation config. 0 is greedy."""
    default_top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of requests that set none; `None`: the model's own, from its generation config. 1 is off."""
    stop_loops: bool = True
    """End a generation that repeats the same few tokens and nothing else, with `finishReason: loop`."""
    max_redraws: Annotated[int, Field(ge=0)] = 2
    """Times that an answer is drawn anew, and warmer, because the schema refuses the finished document; then the task
    ends as `schema_not_met`."""

    engine_start_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """An engine that is not ready by then is ended. Includes a download."""
    engine_stall_seconds: Annotated[float, Field(ge=2 * SIGN_OF_LIFE_SECONDS)] = 60.0
    """An engine silent for so long is hung: it is killed, and its tasks go on elsewhere. A prefill step on a CPU is
    the longest legitimate silence."""
    engine_start_attempts: Annotated[int, Field(ge=1)] = 3
    """Failed restarts in a row after which the worker exits non-zero."""
    drain_seconds: Annotated[float, Field(ge=0)] = 20.0
    """After SIGTERM: how long running tasks may go on before they are handed over."""
    handover_seconds: Annotated[float, Field(gt=0)] = 6.0
    """After the drain: within how long the process is gone, whatever is stuck. Both together fit a notice of 30 s."""
    deletion_cost: bool = False
    """In a cluster: a busy worker raises its pod's deletion cost, so that scaling in takes an idle one."""
    task_events: bool = False
    """Send Celery's task events and heartbeats, which Flower shows: a few messages per task and worker."""
    internal_port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """/healthz, /readyz, /metrics; 0 switches them off."""
    internal_host: str = "0.0.0.0"
    """Address of that port."""
    consumption_stall_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Liveness: how long the broker may be reachable without this worker asking it for work."""

    @model_validator(mode="after")
    def _no_setting_of_another_engine(self) -> Self:
        own = OPTIONS[self.engine].model_fields
        for kind, options in OPTIONS.items():
            for name, field in options.model_fields.items():
                if name not in own and getattr(self, name) != field.default:
                    raise ValueError(f"{name} is a setting of the engine {kind}, not of {self.engine}: leave it out")
        return self

    def sampling(self, own: SamplingDefaults) -> SamplingDefaults:
        """How tokens are chosen for requests that do not say: the model's own way, but for what is set here."""
        return SamplingDefaults(
            temperature=own.temperature if self.default_temperature is None else self.default_temperature,
            top_p=own.top_p if self.default_top_p is None else self.default_top_p,
            top_k=own.top_k,
        )

    @property
    def engine_options(self) -> EngineOptions:
        """What the engine's process needs of all this."""
        options = OPTIONS[self.engine]
        return options.model_validate({name: getattr(self, name) for name in options.model_fields})
