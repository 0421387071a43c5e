"""One exception at each place where data of a client, a model or a tool is worked on: it ends its own task alone."""

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from shared.store.event_stream import TokenWriter
from shared.wire.chat import FunctionDefinition, Tool
from shared.wire.schemas import ErrorEvent
from testbed.live_worker import StartLive
from testbed.task_client import TaskClient
from worker.engines.scripted.prompts import ScriptedPrompts
from worker.tasks import endings
from worker.tasks.attempt import Attempt
from worker.tasks.attempt_telemetry import AttemptTelemetry
from worker.tasks.endings import Endings
from worker.tasks.outcomes import Answered, Failed
from worker.text.answer_stream import AnswerStream
from worker.text.codec import Answer, Codec
from worker.text.detokenizer import Detokenizer, RepetitionDetector
from worker.text.tool_calls import OfferedTools

NEIGHBOURS = 5
CALL = '!say So: <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
TOOL = Tool(type="function", function=FunctionDefinition(name="add", parameters={"type": "object"}))


class Panic(BaseException):
    """What pyo3 makes of a panic in Rust is no Exception either."""


class Plant:
    """An exception in one method, for everything that belongs to one attempt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._victims: list[object] = []
        self.hits = 0

    def choose(self, task_id: str) -> None:
        """The parts of this task's attempt are kept, so that no other object has their identity."""
        generate, victims = Attempt.__init__, self._victims
        prepare, resume = Codec.answer, Attempt.resume

        def watched(attempt: Attempt, claim: Any, request: Any, telemetry: Any) -> None:
            generate(attempt, claim, request, telemetry)
            if attempt.task_id == task_id:
                victims.extend([attempt, telemetry, request])

        def resumed(attempt: Attempt, entries: Any, eos_token_ids: Any) -> None:
            resume(attempt, entries, eos_token_ids)
            if attempt.task_id == task_id:
                victims.append(attempt.writer)

        def answered(codec: Codec, of: str, *arguments: Any, **options: Any) -> Answer:
            answer = prepare(codec, of, *arguments, **options)
            if of == task_id:
                stream: Any = answer._reader
                victims.extend([answer, stream, stream._offered, answer._detokenizer, answer._repetition])
            return answer

        self._monkeypatch.setattr(Attempt, "__init__", watched)
        self._monkeypatch.setattr(Attempt, "resume", resumed)
        self._monkeypatch.setattr(Codec, "answer", answered)

    def put(self, owner: type | ModuleType, name: str, error: type[BaseException], skip: int = 0) -> None:
        """`skip`: calls that go well before."""
        method: Callable[..., Any] = getattr(owner, name)
        calls = 0

        def planted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if any(argument is victim for argument in arguments for victim in self._victims):
                calls += 1
                if calls > skip:
                    self.hits += 1
                    raise error("planted")
            return method(*arguments, **options)

        self._monkeypatch.setattr(owner, name, planted)


PLACES = [
    (ScriptedPrompts, "prompt_ids", 0),
    (ScriptedPrompts, "grammar", 0),
    (AttemptTelemetry, "submitted", 0),
    (AttemptTelemetry, "took", 3),
    (AttemptTelemetry, "ended", 0),
    (Attempt, "take", 0),
    (Attempt, "take", 5),
    (Answer, "add", 5),
    (Detokenizer, "add", 5),
    (RepetitionDetector, "add", 5),
    (AnswerStream, "add", 5),
    (OfferedTools, "calls_in", 0),
    (TokenWriter, "add", 3),
    (TokenWriter, "take", 1),
    (Detokenizer, "finish", 0),
    (AnswerStream, "finish", 0),
    (Answer, "finish", 0),
    (Attempt, "outcome", 0),
    (Attempt, "show_rest", 0),
    (endings, "is_enforced", 0),
    (Endings, "_succeed", 0),
    (Endings, "_conversation", 0),
]


@pytest.mark.parametrize(("owner", "name", "skip"), PLACES, ids=lambda value: getattr(value, "__name__", str(value)))
async def test_an_exception_ends_its_own_task_and_takes_no_token_from_the_others(
    owner: type | ModuleType,
    name: str,
    skip: int,
    client: TaskClient,
    start_live: StartLive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=1", stop_loops=True)
    reference = await client.accept("!tokens 40", seed=7)
    assert isinstance(await worker.runner.run(reference), Answered)
    undisturbed = await client.answer(reference)
    for error in (ValueError, OSError, Panic):
        before = await client.accept("!tokens 40", seed=7)
        victim = await client.accept(CALL, tools=[TOOL], conversation_id="c")
        behind = [await client.accept("!tokens 40", seed=7) for _ in range(NEIGHBOURS)]
        with monkeypatch.context() as patches:
            plant = Plant(patches)
            plant.choose(victim)
            plant.put(owner, name, error, skip)
            verdicts = await asyncio.gather(*map(worker.runner.run, [before, victim, *behind]))

        assert worker.engine.restarts == 0, "who lost the engine came to no end here"
        assert plant.hits
        ended = verdicts.pop(1)
        assert isinstance(ended, Failed)
        assert ended.message == "Internal error in the worker; see its log."
        outcome = ErrorEvent.model_validate_json((await client.ended(victim)).outcome)
        assert (outcome.code, outcome.retryable) == ("internal", True)
        for task_id, verdict in zip([before, *behind], verdicts, strict=True):
            assert isinstance(verdict, Answered)
            assert await client.answer(task_id) == undisturbed
            assert client.text(await client.stream.read(task_id)) == undisturbed.cleaned_response_text
        assert not worker.runner.held


async def test_an_exception_behind_the_ending_changes_nothing(
    client: TaskClient, start_live: StartLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_live()
    task_id = await client.accept("!say done")
    plant = Plant(monkeypatch)
    plant.choose(task_id)
    plant.put(AttemptTelemetry, "answered", ValueError)

    verdict = await worker.runner.run(task_id)

    assert plant.hits
    assert isinstance(verdict, Answered)
    assert (await client.ended(task_id)).wire_state == "SUCCESS"
