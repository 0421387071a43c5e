"""The life of a task on this worker: claim, submit, follow; its ending is `endings.py`'s."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from redis.exceptions import RedisError

from shared.cancellation import cancel_and_wait
from shared.store.event_stream import EventStream, TokenWriter
from shared.store.task_ledger import TaskLedger
from shared.store.task_record import Claim, NoClaim
from shared.wire.schemas import InferenceRequest
from worker.engine_protocol import Generate, Ready, SamplingDefaults, Step
from worker.engines.supervisor import Engine
from worker.panics import LEAVING
from worker.settings import WorkerSettings
from worker.status.metrics import WorkerMetrics
from worker.tasks.attempt import Attempt
from worker.tasks.attempt_telemetry import AttemptTelemetry
from worker.tasks.emitter import Emitter
from worker.tasks.endings import Endings
from worker.tasks.outcomes import AttemptEnd, Crashed, Dropped, Errored, GivenBack, HandedOver, Lost, MessageEnd
from worker.tasks.prepared import Prepared, prepare
from worker.tasks.redis_retry import persist
from worker.tasks.redraws import redraw_sampling
from worker.tasks.suspect_gate import SuspectGate
from worker.text.codec import Codec

log = logging.getLogger(__name__)

FAULT = "The task %s met a fault of the worker's own."
OWN_FAULT = Errored("internal", "Internal error in the worker; see its log.")


class TaskRunner:
    """All tasks this worker holds, and the engine that works on them. Lives on one event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        ledger: TaskLedger,
        stream: EventStream,
        engine: Engine,
        codec: Codec,
        metrics: WorkerMetrics,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._stream = stream
        self._engine = engine
        self._codec = codec
        self._metrics = metrics
        self._gate = SuspectGate()
        self._in_engine: dict[str, Attempt] = {}
        """By request id."""
        self._empty = asyncio.Event()
        self._empty.set()
        self.emitter = Emitter(stream, self._lose, self._break)
        self._endings = Endings(settings, ledger, self.emitter, metrics)
        self.held: set[Attempt] = set()
        self.draining = False

    def take_step(self, step: Step) -> None:
        """Hands the outputs of one engine step to their tasks. What one raises over its own ends that task alone."""
        for output in step.outputs:
            attempt = self._in_engine.get(output.request_id)
            if attempt is None:
                continue
            try:
                attempt.take(output)
            except LEAVING:
                raise
            except BaseException:
                self._fault(attempt)
            if output.ends:
                del self._in_engine[output.request_id]
            self.emitter.mark(attempt.writer)

    def lose_engine(self) -> None:
        """The engine died: what it worked on starts again, here or elsewhere."""
        for attempt in self._in_engine.values():
            attempt.end(Crashed())
        self._in_engine.clear()

    async def drain(self, seconds: float) -> None:
        """Takes no more tasks, lets the held ones go on for `seconds`, hands them over; returns when none is left."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            log.info("The time to drain is over; %d tasks are handed over.", len(self.held))
        for attempt in self.held:
            attempt.end(GivenBack())
        await self._empty.wait()

    async def run(
        self, message_id: str, context: str = "", *, took: Callable[[str, str], None] | None = None
    ) -> MessageEnd:
        """Takes a task to its ending, or finds that there is nothing to do: the one that the message was sent for.

        With `took`, the task that is next goes before that one, if any waits: `took` is told its id and its place in
        its trace (`telemetry.context_text`), which is `context` for the message's own.
        """
        engine = self._engine.info
        if self.draining or engine is None:
            # The message was on its way when this worker stopped taking.
            return HandedOver()
        telemetry = self._telemetry(message_id, context)
        claim, _ = await persist(
            lambda: self._ledger.claim(
                message_id,
                worker=self._settings.worker_name,
                lease_seconds=self._settings.lease_seconds,
                revision=engine.revision,
                context=telemetry.context,
                next_of=self._settings.model_name if took else None,
            )
        )
        task_id = claim.task_id if isinstance(claim, NoClaim) else claim.record.task_id
        if isinstance(claim, NoClaim):
            if took:
                took(task_id, context)
            return await self._unclaimed(claim)
        if task_id != message_id:
            context = claim.record.context
            telemetry = self._telemetry(task_id, context)
            if telemetry.context:
                with contextlib.suppress(RedisError):  # then nobody could tell of this attempt if it were lost
                    await self._ledger.note_context(task_id, claim.attempt, telemetry.context)
        if took:
            took(task_id, context)
        with telemetry.claimed(claim):
            log.info("Attempt %d at the task %s begins.", claim.attempt, task_id)
            try:
                return await self._run_claimed(claim, engine, telemetry)
            except LEAVING:
                raise
            except BaseException:
                log.exception(FAULT, task_id)
                with telemetry.harmless():
                    telemetry.ended(OWN_FAULT)
                return await self._endings.fail(task_id, claim.attempt, OWN_FAULT.code, OWN_FAULT.message)

    def _telemetry(self, task_id: str, context: str) -> AttemptTelemetry:
        return AttemptTelemetry(self._metrics, model=self._settings.model_name, task_id=task_id, context=context)

    async def _unclaimed(self, claim: NoClaim) -> MessageEnd:
        task_id = claim.task_id
        match claim.reason:
            case "version":
                message = "The task was accepted by a newer version of Headrace, which this worker cannot read."
                return await self._endings.fail(task_id, None, "version_unsupported", message)
            case "late":
                message = "The task's time was over before it started."
                return await self._endings.fail(task_id, None, "deadline_exceeded", message)
            case "ended":
                return await self._endings.recorded(task_id)
            case _:
                return Dropped()

    async def _run_claimed(self, claim: Claim, engine: Ready, telemetry: AttemptTelemetry) -> MessageEnd:
        task_id = claim.record.task_id
        try:
            request = InferenceRequest.model_validate_json(claim.record.request)
        except ValidationError:
            log.exception("The record of the task %s cannot be read.", task_id)
            message = "The task's request cannot be read by this version of Headrace."
            return await self._endings.fail(task_id, claim.attempt, "version_unsupported", message)
        attempt = Attempt(claim, request, telemetry)
        self.held.add(attempt)
        self._empty.clear()
        late = Errored("deadline_exceeded", "The task's time is over.")
        remaining = (claim.record.deadline - claim.claimed_at) / 1000
        deadline = asyncio.get_running_loop().call_later(remaining, attempt.end, late)
        if self.draining:
            attempt.end(GivenBack())
        try:
            end = await self._generate(attempt, engine)
            telemetry.ended(end)
            return await self._endings.conclude(attempt, end)
        finally:
            deadline.cancel()
            self.held.remove(attempt)
            if not self.held:
                self._empty.set()

    async def _generate(self, attempt: Attempt, engine: Ready) -> AttemptEnd:
        """Prepares the attempt and runs it in the engine, until something ends it."""
        work = asyncio.create_task(self._work(attempt, engine))
        try:
            waits: list[asyncio.Future[Any]] = [work, attempt.ended]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            return await attempt.ended
        finally:
            if self._in_engine.pop(attempt.request_id, None) is not None:
                self._engine.cancel(attempt.request_id)
            await cancel_and_wait(work)

    async def _work(self, attempt: Attempt, engine: Ready) -> None:
        prepared = await asyncio.to_thread(
            prepare, self._codec, attempt.task_id, attempt.request, engine, self._settings.default_max_tokens
        )
        if isinstance(prepared, Errored):
            attempt.end(prepared)
            return
        attempt.begin(prepared)
        if attempt.number > 1:
            entries, _ = await persist(lambda: self._stream.read(attempt.task_id))
            attempt.resume(entries, engine.eos_token_ids)
        async with self._gate.entered(alone=attempt.suspect):
            if self._engine.info is not engine:
                attempt.end(GivenBack())  # restarted meanwhile, and maybe not the same any more
            if attempt.ended.done():
                return
            command = self._command(attempt, prepared, engine)
            attempt.telemetry.submitted(command)
            self._engine.submit(command)
            self._in_engine[attempt.request_id] = attempt
            await asyncio.wait([attempt.ended])

    def _command(self, attempt: Attempt, prepared: Prepared, engine: Ready) -> Generate:
        request, default = attempt.request, self._settings.sampling(engine.sampling)
        wanted = SamplingDefaults(
            temperature=default.temperature if request.temperature is None else request.temperature,
            top_p=default.top_p if request.top_p is None else request.top_p,
            top_k=default.top_k if request.top_k is None else request.top_k,
        )
        sampling = redraw_sampling(wanted, attempt.redraw)
        return Generate(
            request_id=attempt.request_id,
            prompt_ids=prepared.prompt_ids,
            generated_ids=attempt.earlier_ids,
            # An engine generates at least one; of an answer without tokens it is dropped.
            max_new_tokens=max(1, prepared.max_new_tokens),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=attempt.seed,
            grammar=prepared.grammar,
            logprobs=request.logprobs,
            scores_prompt=attempt.unscored > 0,
        )

    def _lose(self, writer: TokenWriter) -> None:
        for attempt in self.held:
            if attempt.writer is writer:
                attempt.end(Lost())

    def _break(self, writer: TokenWriter) -> None:
        for attempt in self.held:
            if attempt.writer is writer:
                self._fault(attempt)

    def _fault(self, attempt: Attempt) -> None:
        """Called while an exception is handled that this attempt's data has raised."""
        log.exception(FAULT, attempt.task_id)
        attempt.end(OWN_FAULT)
