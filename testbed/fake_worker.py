"""A worker without an engine, which does at a test's command what workers do in Redis."""

import json
from typing import Any

from shared.store.conversations import ConversationSave, conversation_json
from shared.store.event_stream import EventStream, TokenWriter
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_record import Claim
from shared.wire.chat import AssistantMessage, FunctionCall, MessageToolCall
from shared.wire.schemas import (
    EndState,
    FinalTextEvent,
    FinishReason,
    InferenceRequest,
    LikelyToken,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolCallsEvent,
    Usage,
)
from shared.wire.task_result import TaskResult

DEFAULT_MODEL = "smollm2-135m-instruct"
"""The model of an API without settings."""


class FakeWorker:
    """Accepts tasks and answers them as a worker does, through the ledger and the stream, at the test's command."""

    def __init__(self, ledger: TaskLedger, stream: EventStream) -> None:
        self.ledger = ledger
        self.stream = stream
        self.writers: dict[str, TokenWriter] = {}

    async def accept(
        self,
        *,
        seconds: float = 60,
        cancel_on_disconnect: bool = False,
        model: str = DEFAULT_MODEL,
        tenant: str = "default",
    ) -> str:
        request = InferenceRequest.model_validate(
            {
                "model": model,
                "messages": [{"role": "user", "content": "hello"}],
                "cancel_on_disconnect": cancel_on_disconnect,
            }
        )
        accepted = await self.ledger.accept(
            new_task_id(), request, tenant=tenant, timeout_seconds=seconds, max_waiting=10_000, max_tenant_tasks=10_000
        )
        return accepted.task_id

    async def claim(self, task_id: str, *, lease_seconds: float = 60) -> int:
        claim = await self.ledger.claim(task_id, worker="fake", lease_seconds=lease_seconds, revision="r")
        assert isinstance(claim, Claim), claim
        written = self.writers[task_id].index if task_id in self.writers else 0
        self.writers[task_id] = TokenWriter(task_id, claim.attempt, written)
        return claim.attempt

    async def begin(self, **options: Any) -> str:
        """A task that runs."""
        task_id = await self.accept(**options)
        await self.claim(task_id)
        return task_id

    async def say(self, task_id: str, *texts: str, logprob: float | None = None) -> None:
        """One token and one write for each text; `logprob`: of these tokens, which are the likeliest then."""
        writer = self.writers[task_id]
        for text in texts:
            writer.add([7], text)
            if logprob is not None:
                likeliest = [LikelyToken(token=text, logprob=logprob)]
                own = TokenLogprob(token=text, logprob=logprob, top_logprobs=likeliest)
                writer.add_logprobs([own], [own], untold=False)
            write = writer.take()
            assert write is not None
            assert all(await self.stream.write([write]))

    async def answer(self, task_id: str, text: str, *calls: MessageToolCall) -> None:
        """Takes a waiting task of a conversation and ends it with this text and these calls as its answer."""
        attempt = await self.claim(task_id)
        record = await self.ledger.get(task_id)
        assert record is not None
        said = AssistantMessage(role="assistant", content=text, tool_calls=list(calls) or None)
        conversation = InferenceRequest.model_validate_json(record.request).conversation
        save = ConversationSave(conversation_json([*conversation, said]), 60)
        assert await self.ledger.end(task_id, attempt, "SUCCESS", None, save=save)

    async def complete(
        self, task_id: str, text: str, *calls: ToolCall, finish_reason: FinishReason = "stop", reasoning: str = ""
    ) -> None:
        """Ends a running task well, with what it has said and these calls, and saves its conversation if it has one."""
        record = await self.ledger.get(task_id)
        assert record is not None
        request = InferenceRequest.model_validate_json(record.request)
        usage = Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1, reasoning_tokens=1 if reasoning else None)
        timings = Timings(queued=0, first_token=0, total=1)
        said = AssistantMessage(
            role="assistant",
            content=text,
            tool_calls=[
                MessageToolCall(id=call.id, function=FunctionCall(name=call.name, arguments=json.dumps(call.arguments)))
                for call in calls
            ]
            or None,
        )
        outcome: FinalTextEvent | ToolCallsEvent
        if calls:
            outcome = ToolCallsEvent(
                task_id=task_id,
                text=text,
                tool_calls=list(calls),
                reasoning=reasoning or None,
                usage=usage,
                timings=timings,
            )
        else:
            outcome = FinalTextEvent(
                task_id=task_id,
                text=text,
                reasoning=reasoning or None,
                finish_reason=finish_reason,
                usage=usage,
                timings=timings,
            )
        save = None
        if request.conversation_id is not None:
            save = ConversationSave(conversation_json([*request.conversation, said]), 60)
        result = TaskResult(
            cleaned_response_text=text,
            raw_response_text=text,
            tool_calls=list(calls),
            finish_reason=outcome.finish_reason,
            usage=usage,
        )
        assert await self.ledger.end(task_id, record.attempt, "SUCCESS", outcome, result=result.as_json(), save=save)

    async def think(self, task_id: str, reasoning: str) -> None:
        """One token of reasoning."""
        self.writers[task_id].add([7], "", reasoning)
        await self.say(task_id, "")

    async def end(self, task_id: str, state: EndState = "SUCCESS") -> None:
        text = FinalTextEvent(
            task_id=task_id,
            text="done",
            finish_reason="stop",
            usage=Usage(prompt_tokens=1, completion_tokens=1),
            timings=Timings(queued=0, first_token=0, total=0),
        )
        if state == "SUCCESS":
            result = TaskResult(
                cleaned_response_text=text.text,
                raw_response_text=text.text,
                tool_calls=[],
                finish_reason=text.finish_reason,
                usage=text.usage,
            )
            assert await self.ledger.end(task_id, None, state, text, result=result.as_json())
        else:
            assert await self.ledger.end(task_id, None, state, None)
