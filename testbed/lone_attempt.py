"""An attempt at a task without an engine: claimed and prepared as the task runner does, its tokens given by a test."""

from typing import Any

from shared.store.task_record import Claim
from shared.wire.schemas import InferenceRequest
from testbed.task_client import LEASE_SECONDS, SCRIPTED_MODEL, TaskClient
from worker.engine_protocol import FinishReason, Output, Ready, SamplingDefaults
from worker.engines.scripted.prompts import ScriptedPrompts
from worker.engines.scripted.script import EOS, FIRST_BYTE
from worker.status.metrics import WorkerMetrics
from worker.tasks.attempt import Attempt
from worker.tasks.attempt_telemetry import AttemptTelemetry
from worker.tasks.prepared import Prepared, prepare
from worker.text.codec import Codec

CODEC = Codec(ScriptedPrompts(), [EOS], stop_loops=False)
READY = Ready(
    context_length=8192,
    revision="r",
    eos_token_ids=(EOS,),
    slots=8,
    device="cpu",
    dtype="none",
    load_seconds=0,
    sampling=SamplingDefaults(),
    grammars=False,
    continues_draws=True,
)


def no_metrics() -> WorkerMetrics:
    """Metrics that nobody reads."""
    return WorkerMetrics(SCRIPTED_MODEL, tasks=lambda: 0, restarts=lambda: 0)


async def attempt_at(client: TaskClient, text: str, **fields: Any) -> Attempt:
    """The first attempt at a new task."""
    return await claimed(client, await client.accept(text, **fields))


async def claimed(client: TaskClient, task_id: str, *, revision: str = "r", worker: str = "here") -> Attempt:
    """The next attempt at a task that waits."""
    claim = await client.ledger.claim(task_id, worker=worker, lease_seconds=LEASE_SECONDS, revision=revision)
    assert isinstance(claim, Claim), claim
    request = InferenceRequest.model_validate_json(claim.record.request)
    telemetry = AttemptTelemetry(no_metrics(), model=SCRIPTED_MODEL, task_id=task_id, context="")
    attempt = Attempt(claim, request, telemetry)
    prepared = prepare(CODEC, task_id, request, READY, default_max_tokens=1000)
    assert isinstance(prepared, Prepared), prepared
    attempt.begin(prepared)
    return attempt


def spelled(text: str) -> tuple[int, ...]:
    """The tokens of a text, one a byte."""
    return tuple(FIRST_BYTE + byte for byte in text.encode())


def generated(attempt: Attempt, text: str, finish: FinishReason | None = None, **fields: Any) -> Output:
    """What one engine step says of it."""
    ends = (EOS,) if finish == "stop" else ()
    return Output(attempt.request_id, (*spelled(text), *ends), finish, **fields)
