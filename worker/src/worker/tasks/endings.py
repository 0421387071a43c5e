"""How an attempt at a task ends: exactly one ending in the ledger."""

import asyncio
import json
import logging

from shared.store.conversations import ConversationSave, conversation_json
from shared.store.task_ledger import RequeueCause, TaskLedger
from shared.wire.chat import AssistantMessage, FunctionCall, MessageToolCall
from shared.wire.schemas import EndState, ErrorCode, ErrorEvent, FinishReason
from shared.wire.task_result import TaskResult
from worker.settings import WorkerSettings
from worker.status.metrics import WorkerMetrics
from worker.tasks.attempt import Attempt
from worker.tasks.emitter import Emitter
from worker.tasks.outcomes import (
    Answered,
    AttemptEnd,
    Cancelled,
    Crashed,
    Dropped,
    Errored,
    Failed,
    Finished,
    GivenBack,
    HandedOver,
    Lost,
    MessageEnd,
    Revoked,
)
from worker.tasks.redis_retry import persist
from worker.text.answer_grammars import is_enforced
from worker.text.finished_document import unmet

log = logging.getLogger(__name__)


class Endings:
    """Writes endings into the ledger, behind the attempt's last tokens; whoever comes second gets the first one's."""

    def __init__(self, settings: WorkerSettings, ledger: TaskLedger, emitter: Emitter, metrics: WorkerMetrics) -> None:
        self._model = settings.model_name
        self._conversation_seconds = settings.conversation_seconds
        self._max_redraws = settings.max_redraws
        self._ledger = ledger
        self._emitter = emitter
        self._metrics = metrics

    async def conclude(self, attempt: Attempt, end: AttemptEnd) -> MessageEnd:
        """Ends the task as its attempt has ended, or hands it over."""
        match end:
            case Finished(reason):
                return await self._succeed(attempt, reason)
            case Errored(code, message):
                await self._emitter.flush(attempt.writer)
                return await self.fail(attempt.task_id, attempt.number, code, message)
            case Cancelled():
                await self._emitter.flush(attempt.writer)
                done, _ = await persist(lambda: self._ledger.end(attempt.task_id, attempt.number, "REVOKED", None))
                if done:
                    self._count_end("REVOKED", "cancelled")
                return await self.recorded(attempt.task_id)
            case Lost():
                log.warning("The task %s is no longer this worker's; it is dropped.", attempt.task_id)
                return await self._drop(attempt)
            case Crashed():
                return await self._requeue(attempt, "crash")
            case GivenBack():
                return await self._requeue(attempt, "handover")

    async def fail(self, task_id: str, attempt: int | None, code: ErrorCode, message: str) -> MessageEnd:
        """Ends the task in an error; `attempt` is None where no attempt began."""
        retryable = code in ("engine_failed", "internal", "deadline_exceeded")
        event = ErrorEvent(task_id=task_id, code=code, message=message, retryable=retryable)
        done, _ = await persist(lambda: self._ledger.end(task_id, attempt, "FAILURE", event))
        if not done:
            return await self.recorded(task_id)
        self._count_end("FAILURE", code)
        return Failed(message)

    async def recorded(self, task_id: str) -> MessageEnd:
        """What the ledger says of a task that has ended, whoever ended it."""
        record, _ = await persist(lambda: self._ledger.get(task_id))
        if record is None or record.state != "ended":
            return Dropped()
        match record.wire_state:
            case "SUCCESS":
                return Answered()
            case "REVOKED":
                return Revoked()
            case _:
                return Failed(ErrorEvent.model_validate_json(record.outcome).message)

    async def _succeed(self, attempt: Attempt, reason: FinishReason) -> MessageEnd:
        answer, outcome = attempt.prepared.answer, attempt.outcome(reason)
        # In a thread: a large schema takes tens of milliseconds to be compiled.
        if is_enforced(attempt.request) and (problem := await asyncio.to_thread(unmet, attempt.request, outcome)):
            return await self._refuse(attempt, problem)
        attempt.show_rest()
        await self._emitter.flush(attempt.writer)
        # Clients of Celery find it for the whole retention.
        told = attempt.request.store is not False
        result = TaskResult(
            cleaned_response_text=outcome.text if told else "",
            raw_response_text=answer.raw_text if told else "",
            tool_calls=answer.tool_calls if told else [],
            reasoning=outcome.reasoning if told else None,
            finish_reason=outcome.finish_reason,
            usage=outcome.usage,
        )
        done, _ = await persist(
            lambda: self._ledger.end(
                attempt.task_id,
                attempt.number,
                "SUCCESS",
                outcome,
                result=result.as_json(),
                save=self._conversation(attempt),
                written=str(attempt.writer.written),
            )
        )
        if not done:
            return await self.recorded(attempt.task_id)
        attempt.telemetry.answered(outcome)
        self._count_end("SUCCESS", outcome.finish_reason)
        return Answered()

    async def _refuse(self, attempt: Attempt, problem: str) -> MessageEnd:
        """The answer is not what was demanded: it is drawn anew, or that was the last draw."""
        if attempt.redraw < self._max_redraws:
            end = await self._requeue(attempt, "redraw")
            if isinstance(end, HandedOver):
                attempt.telemetry.redrawn(problem)
            return end
        await self._emitter.flush(attempt.writer)
        draws = f" It was drawn {attempt.redraw + 1} times." if attempt.redraw else ""
        return await self.fail(attempt.task_id, attempt.number, "schema_not_met", problem + draws)

    def _conversation(self, attempt: Attempt) -> ConversationSave | None:
        """The request's conversation with its new answer."""
        request, answer = attempt.request, attempt.prepared.answer
        if request.conversation_id is None:
            return None
        calls = [
            MessageToolCall(
                id=call.id,
                function=FunctionCall(name=call.name, arguments=json.dumps(call.arguments, ensure_ascii=False)),
            )
            for call in answer.tool_calls
        ]
        said = AssistantMessage(role="assistant", content=answer.text, tool_calls=calls or None)
        return ConversationSave(conversation_json([*request.conversation, said]), self._conversation_seconds)

    async def _requeue(self, attempt: Attempt, cause: RequeueCause) -> MessageEnd:
        await self._emitter.flush(attempt.writer)
        requeued, repeated = await persist(
            lambda: self._ledger.requeue(attempt.task_id, attempt.number, cause, written=str(attempt.writer.written))
        )
        if requeued.outcome == "requeued" or (repeated and requeued.outcome == "not_running"):
            return HandedOver()
        if requeued.outcome == "poisoned":
            self._count_end("FAILURE", "poisoned")
        elif requeued.outcome == "revoked":
            self._count_end("REVOKED", "cancelled")
        elif requeued.outcome == "data_lost":
            self._count_end("FAILURE", "data_lost")
        return await self.recorded(attempt.task_id)

    async def _drop(self, attempt: Attempt) -> MessageEnd:
        """Nothing is left to do; but that Redis lost what this attempt wrote, only this worker knows."""
        await persist(lambda: self._ledger.tell_lost(attempt.task_id, attempt.number, str(attempt.writer.written)))
        return Dropped()

    def _count_end(self, state: EndState, reason: str) -> None:
        self._metrics.ended.labels(self._model, state, reason).inc()
        log.info("The task is over: %s, %s.", state, reason)
