import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from shared.cancellation import cancel_and_wait
from shared.store.task_record import Claim
from shared.wire.chat import AssistantMessage, FunctionDefinition, Tool, UserMessage
from shared.wire.schemas import ErrorEvent, FinalTextEvent, ToolCallsEvent
from testbed.lone_attempt import attempt_at, claimed, generated, no_metrics
from testbed.task_client import SCRIPTED_MODEL, TaskClient
from worker.engines.scripted.script import EOS
from worker.settings import WorkerSettings
from worker.status.metrics import WorkerMetrics
from worker.tasks.attempt import Attempt
from worker.tasks.emitter import Emitter
from worker.tasks.endings import Endings
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
    Revoked,
)

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
TOOL = Tool(type="function", function=FunctionDefinition(name="add", parameters={"type": "object"}))


@pytest.fixture
def metrics() -> WorkerMetrics:
    return no_metrics()


@pytest.fixture
async def endings(
    client: TaskClient, worker_settings: WorkerSettings, metrics: WorkerMetrics
) -> AsyncIterator[Endings]:
    emitter = Emitter(client.stream, lambda writer: None, lambda writer: None)
    writing = asyncio.create_task(emitter.run())
    yield Endings(worker_settings, client.ledger, emitter, metrics)
    await cancel_and_wait(writing)


def counted(metrics: WorkerMetrics) -> dict[tuple[str, str], float]:
    """(state, reason) -> tasks that this worker ended."""
    return {
        (sample.labels["state"], sample.labels["reason"]): sample.value
        for family in metrics.ended.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


async def kinds(client: TaskClient, attempt: Attempt) -> list[str]:
    return [entry.type for entry in await client.stream.read(attempt.task_id)]


async def test_an_answer_ends_its_task_behind_its_last_token(
    client: TaskClient, endings: Endings, metrics: WorkerMetrics
) -> None:
    attempt = await attempt_at(client, "hello", stop=["STOP"])
    attempt.take(generated(attempt, "It is Paris. S", "stop"))
    verdict = await endings.conclude(attempt, await attempt.ended)
    assert isinstance(verdict, Answered)
    result = await client.answer(attempt.task_id)
    assert (result.cleaned_response_text, result.finish_reason) == ("It is Paris. S", "stop")
    entries = await client.stream.read(attempt.task_id)
    assert [entry.type for entry in entries[-4:]] == ["token", "final_text", "status", "end"]
    assert client.text(entries) == FinalTextEvent.model_validate_json(entries[-3].data).text == "It is Paris. S"
    assert counted(metrics) == {("SUCCESS", "stop"): 1}
    assert await endings.recorded(attempt.task_id) == verdict


async def test_calls_are_the_result_and_the_event(client: TaskClient, endings: Endings, metrics: WorkerMetrics) -> None:
    attempt = await attempt_at(client, "hello", tools=[TOOL])
    attempt.take(generated(attempt, f"Let me see.{CALL}", "stop"))
    verdict = await endings.conclude(attempt, await attempt.ended)
    assert isinstance(verdict, Answered)
    result = await client.answer(attempt.task_id)
    assert (result.finish_reason, result.raw_response_text) == ("tool_calls", f"Let me see.{CALL}")
    event = ToolCallsEvent.model_validate_json((await client.stream.read(attempt.task_id))[-3].data)
    assert event.tool_calls == result.tool_calls
    assert counted(metrics) == {("SUCCESS", "tool_calls"): 1}


async def test_a_conversation_grows_by_the_answer_and_its_calls(client: TaskClient, endings: Endings) -> None:
    asked = [UserMessage(role="user", content="hello")]
    attempt = await attempt_at(client, "hello", tools=[TOOL], conversation_id="c", conversation=asked)
    attempt.take(generated(attempt, f"Let me see.{CALL}", "stop"))
    await endings.conclude(attempt, await attempt.ended)
    stored = await client.conversations.load("tenant", "c")
    assert stored is not None
    first, said = stored.messages
    assert first == asked[0]
    assert isinstance(said, AssistantMessage)
    assert said.content == "Let me see."
    assert [json.loads(call.function.arguments) for call in said.tool_calls or []] == [{"a": 1}]


async def test_a_failure_keeps_the_text_before_it_and_says_why(
    client: TaskClient, endings: Endings, metrics: WorkerMetrics
) -> None:
    attempt = await attempt_at(client, "hello")
    attempt.take(generated(attempt, "It"))
    verdict = await endings.conclude(attempt, Errored("deadline_exceeded", "too late"))
    assert verdict == Failed("too late")
    entries = await client.stream.read(attempt.task_id)
    assert client.text(entries) == "It"
    error = ErrorEvent.model_validate_json(entries[-3].data)
    assert (error.code, error.message, error.retryable) == ("deadline_exceeded", "too late", True)
    assert counted(metrics) == {("FAILURE", "deadline_exceeded"): 1}
    assert await endings.recorded(attempt.task_id) == verdict


@pytest.mark.parametrize(
    ("code", "retryable"),
    [("engine_failed", True), ("internal", True), ("context_too_long", False), ("invalid_request", False)],
)
async def test_only_what_may_go_better_next_time_is_retryable(
    client: TaskClient, endings: Endings, code: str, retryable: bool
) -> None:
    attempt = await attempt_at(client, "hello")
    await endings.conclude(attempt, Errored(code, "no"))  # type: ignore[arg-type]  # one of the codes
    error = ErrorEvent.model_validate_json((await client.ended(attempt.task_id)).outcome)
    assert (error.code, error.retryable) == (code, retryable)


async def test_a_cancelled_task_is_revoked(client: TaskClient, endings: Endings, metrics: WorkerMetrics) -> None:
    attempt = await attempt_at(client, "hello")
    assert await endings.conclude(attempt, Cancelled()) == Revoked()
    assert (await kinds(client, attempt))[-2:] == ["status", "end"]
    assert counted(metrics) == {("REVOKED", "cancelled"): 1}


async def test_whoever_comes_second_gets_the_first_ones_ending(
    client: TaskClient, endings: Endings, metrics: WorkerMetrics
) -> None:
    attempt = await attempt_at(client, "hello")
    error = ErrorEvent(task_id=attempt.task_id, code="deadline_exceeded", message="too late", retryable=True)
    assert await client.ledger.end(attempt.task_id, None, "FAILURE", error)
    attempt.take(generated(attempt, "It is Paris.", "stop"))
    for end in (Finished("stop"), Errored("internal", "no"), Cancelled(), GivenBack()):
        assert await endings.conclude(attempt, end) == Failed("too late")
    assert (await kinds(client, attempt)).count("end") == 1
    assert counted(metrics) == {}


@pytest.mark.parametrize("end", [Crashed(), GivenBack()])
async def test_a_task_that_was_not_finished_waits_again_behind_its_tokens(
    client: TaskClient, endings: Endings, metrics: WorkerMetrics, end: AttemptEnd
) -> None:
    attempt = await attempt_at(client, "hello")
    attempt.take(generated(attempt, "It is"))
    assert await endings.conclude(attempt, end) == HandedOver()
    record = await client.ledger.get(attempt.task_id)
    assert record is not None
    assert (record.state, record.wire_state, record.crashes) == ("waiting", "RETRY", int(end == Crashed()))
    assert client.text(await client.stream.read(attempt.task_id)) == "It is"
    assert counted(metrics) == {}


async def test_a_task_that_was_to_be_cancelled_is_not_handed_over(client: TaskClient, endings: Endings) -> None:
    attempt = await attempt_at(client, "hello")
    assert (await client.ledger.cancel(attempt.task_id, "tenant")).outcome == "asked"
    assert await endings.conclude(attempt, GivenBack()) == Revoked()


async def test_the_crash_that_is_one_too_many_poisons_its_task(
    client: TaskClient, endings: Endings, metrics: WorkerMetrics
) -> None:
    attempt = await attempt_at(client, "hello")
    for _ in range(2):
        assert await endings.conclude(attempt, Crashed()) == HandedOver()
        attempt = await claimed(client, attempt.task_id)
    assert isinstance(await endings.conclude(attempt, Crashed()), Failed)
    error = ErrorEvent.model_validate_json((await client.ended(attempt.task_id)).outcome)
    assert error.code == "poisoned"
    assert counted(metrics) == {("FAILURE", "poisoned"): 1}


UNIQUE = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}}}


async def test_an_answer_that_is_not_what_was_demanded_is_drawn_anew_a_stated_number_of_times(
    client: TaskClient, endings: Endings, metrics: WorkerMetrics
) -> None:
    attempt = await attempt_at(client, "hello", response_format=UNIQUE)
    for draw in (1, 2):
        attempt.take(generated(attempt, "[1, 1]", "stop"))
        assert await endings.conclude(attempt, await attempt.ended) == HandedOver()
        record = await client.ledger.get(attempt.task_id)
        assert record is not None
        assert (record.state, record.wire_state, record.redraws) == ("waiting", "RETRY", draw)
        attempt = await claimed(client, attempt.task_id)
    attempt.take(generated(attempt, "[1, 1]", "stop"))
    failed = await endings.conclude(attempt, await attempt.ended)
    assert isinstance(failed, Failed)
    error = ErrorEvent.model_validate_json((await client.ended(attempt.task_id)).outcome)
    assert (error.code, error.retryable, error.message) == ("schema_not_met", False, failed.message)
    assert "drawn 3 times" in error.message
    assert client.text(await client.stream.read(attempt.task_id)) == ""
    assert counted(metrics) == {("FAILURE", "schema_not_met"): 1}


async def test_a_redraw_that_is_what_was_demanded_is_the_answer(
    client: TaskClient, endings: Endings, metrics: WorkerMetrics
) -> None:
    attempt = await attempt_at(client, "hello", response_format=UNIQUE)
    attempt.take(generated(attempt, "[1, 1]", "stop"))
    await endings.conclude(attempt, await attempt.ended)
    attempt = await claimed(client, attempt.task_id)
    attempt.resume(await client.stream.read(attempt.task_id), [EOS])
    assert attempt.earlier_ids == ()
    attempt.take(generated(attempt, "[1, 2]", "stop"))
    verdict = await endings.conclude(attempt, await attempt.ended)
    assert isinstance(verdict, Answered)
    result = await client.answer(attempt.task_id)
    assert (result.cleaned_response_text, result.usage.completion_tokens) == ("[1, 2]", 7)
    entries = await client.stream.read(attempt.task_id)
    assert client.text(entries) == "[1, 2]"
    assert [entry.restarts for entry in entries if entry.type == "status"] == [False] * 3 + [True, False]


async def test_redraws_are_told_to_operators(
    client: TaskClient, endings: Endings, caplog: pytest.LogCaptureFixture
) -> None:
    attempt = await attempt_at(client, "hello", response_format=UNIQUE)
    attempt.take(generated(attempt, "[1, 1]", "stop"))
    with caplog.at_level("INFO"):
        await endings.conclude(attempt, await attempt.ended)
    assert "drawn anew: The answer is not a document" in caplog.text


async def test_a_task_that_was_to_be_cancelled_is_not_drawn_anew(client: TaskClient, endings: Endings) -> None:
    attempt = await attempt_at(client, "hello", response_format=UNIQUE)
    attempt.take(generated(attempt, "[1, 1]", "stop"))
    await client.ledger.cancel(attempt.task_id, "tenant")
    assert await endings.conclude(attempt, await attempt.ended) == Revoked()
    assert (await client.ended(attempt.task_id)).redraws == 0


async def test_without_redraws_the_first_refusal_is_the_last(
    client: TaskClient, worker_settings: WorkerSettings, metrics: WorkerMetrics
) -> None:
    emitter = Emitter(client.stream, lambda writer: None, lambda writer: None)
    writing = asyncio.create_task(emitter.run())
    settings = worker_settings.model_copy(update={"max_redraws": 0})
    attempt = await attempt_at(client, "hello", response_format=UNIQUE)
    attempt.take(generated(attempt, "[1, 1]", "stop"))
    failed = await Endings(settings, client.ledger, emitter, metrics).conclude(attempt, await attempt.ended)
    assert isinstance(failed, Failed)
    assert "drawn" not in failed.message
    await cancel_and_wait(writing)


async def test_a_lost_attempt_leaves_its_task_to_its_new_worker(
    client: TaskClient, endings: Endings, metrics: WorkerMetrics
) -> None:
    attempt = await attempt_at(client, "hello")
    await client.ledger.requeue(attempt.task_id, attempt.number, "handover")
    new = await client.ledger.claim(attempt.task_id, worker="there", lease_seconds=30, revision="r")
    assert isinstance(new, Claim)
    attempt.take(generated(attempt, "It is Paris.", "stop"))
    assert await endings.conclude(attempt, Lost()) == Dropped()
    record = await client.ledger.get(attempt.task_id)
    assert record is not None
    assert (record.state, record.attempt) == ("running", 2)
    assert counted(metrics) == {}


async def test_what_only_this_worker_knows_to_be_lost_is_told(client: TaskClient, endings: Endings) -> None:
    attempt = await attempt_at(client, "hello")
    for text in ("It", " is"):
        attempt.writer.add([1], text)
        write = attempt.writer.take()
        assert write is not None
        assert all(await client.stream.write([write]))
    await client.redis.xdel(client.keys.events(attempt.task_id), "1-2")
    assert await endings.conclude(attempt, Lost()) == Dropped()
    error = ErrorEvent.model_validate_json((await client.ended(attempt.task_id)).outcome)
    assert error.code == "data_lost"


async def test_nobody_recorded_an_unknown_or_a_running_task(client: TaskClient, endings: Endings) -> None:
    running = await attempt_at(client, "hello")
    assert await endings.recorded(running.task_id) == Dropped()
    assert await endings.recorded("never-accepted") == Dropped()


async def test_a_task_without_an_attempt_can_fail_too(client: TaskClient, endings: Endings) -> None:
    task_id = await client.accept("hello")
    assert await endings.fail(task_id, None, "version_unsupported", "cannot be read") == Failed("cannot be read")
    assert (await client.redis.zscore(client.keys.waiting(SCRIPTED_MODEL), task_id)) is None
