import asyncio
from itertools import accumulate
from typing import Any

import pytest
from redis.typing import EncodableT, FieldT

from shared.conversation.loop_prevention import LoopPolicy
from shared.conversation.prompts import assemble
from shared.store.conversations import StoredConversation
from shared.store.task_record import Claim
from shared.wire.chat import AssistantMessage, FunctionDefinition, Tool, UserMessage
from shared.wire.schemas import CreateMessageParams, ErrorEvent, FinalTextEvent, SamplingDefaults, ToolCallsEvent, Usage
from shared.wire.task_result import TaskResult
from testbed.live_worker import StartLive
from testbed.task_client import SCRIPTED_MODEL, TaskClient
from testbed.valkey import Valkey
from testbed.waiting import until
from worker.tasks.outcomes import Answered, Dropped, Failed, HandedOver, Revoked
from worker.tasks.redis_retry import persist

SIXTEEN_WORDS = "!tokens 16"


async def test_a_task_is_answered_token_by_token_and_ends_once(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live()
    task_id = await client.accept(SIXTEEN_WORDS)

    verdict = await worker.runner.run(task_id)

    entries = await client.stream.read(task_id)
    kinds = [entry.type for entry in entries]
    assert kinds[:2] == ["status", "status"]
    assert kinds[-3:] == ["final_text", "status", "end"]
    assert kinds.count("end") == 1
    tokens = [entry for entry in entries if entry.type == "token"]
    assert len(tokens) > 1
    # A step that comes while Redis is slow joins the next entry; an entry's id still counts the tokens up to it.
    counts = [len(entry.token_ids) for entry in tokens]
    assert [entry.id.sequence for entry in tokens] == list(accumulate(counts))
    assert sum(counts) == 17
    outcome = FinalTextEvent.model_validate_json(entries[-3].data)
    assert outcome.text == client.text(entries) != ""
    assert outcome.finish_reason == "stop"
    assert outcome.usage.completion_tokens == 17
    assert outcome.timings.first_token is not None
    assert isinstance(verdict, Answered)
    assert await client.answer(task_id) == TaskResult(
        cleaned_response_text=outcome.text,
        raw_response_text=outcome.text,
        tool_calls=[],
        finish_reason="stop",
        usage=Usage(prompt_tokens=17, completion_tokens=17),
    )


async def test_what_a_request_does_not_say_of_sampling_the_model_decides(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=1&temperature=0.7&top_p=0.8&top_k=20")

    async def sampling(**said: float) -> str:
        task_id = await client.accept("!sampling", **said)
        verdict = await worker.runner.run(task_id)
        assert isinstance(verdict, Answered)
        result = await client.answer(task_id)
        return result.cleaned_response_text

    assert await sampling() == "0.7 0.8 20"
    assert await sampling(temperature=0.0) == "0.0 0.8 20"
    assert await sampling(temperature=1.5, top_p=1.0, top_k=5) == "1.5 1.0 5"
    card = await until(lambda: client.workers.card(SCRIPTED_MODEL))
    assert card.sampling == SamplingDefaults(temperature=0.7, top_p=0.8, top_k=20)


async def test_what_the_operator_has_set_goes_before_the_models_own_sampling(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(model_source="scripted:?temperature=0.7&top_p=0.8&top_k=20", default_temperature=0.25)
    task_id = await client.accept("!sampling")
    assert isinstance(await worker.runner.run(task_id), Answered)
    assert (await client.answer(task_id)).cleaned_response_text == "0.25 0.8 20"


async def test_a_repeated_message_returns_the_stored_result_and_runs_nothing(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live()
    task_id = await client.accept(SIXTEEN_WORDS)
    first = await worker.runner.run(task_id)
    tokens = worker.tokens

    assert await worker.runner.run(task_id) == first
    assert worker.tokens == tokens


async def test_a_message_of_a_task_that_is_held_or_unknown_is_dropped(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live()
    task_id = await client.accept(SIXTEEN_WORDS)
    claim = await client.ledger.claim(task_id, worker="another", lease_seconds=30, revision="scripted")
    assert isinstance(claim, Claim)

    assert await worker.runner.run(task_id) == Dropped()
    assert await worker.runner.run("never-accepted") == Dropped()


async def test_a_task_whose_time_is_over_ends_with_deadline_exceeded(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live()
    queued = await client.accept(SIXTEEN_WORDS, timeout_seconds=0.05)
    running = await client.accept("!tokens 1000", timeout_seconds=0.5)
    neighbour = await client.accept("!tokens 100")
    await asyncio.sleep(0.06)

    late, stopped, answered = await asyncio.gather(*map(worker.runner.run, [queued, running, neighbour]))

    assert isinstance(late, Failed)
    assert isinstance(stopped, Failed)
    assert isinstance(answered, Answered)
    for task_id in (queued, running):
        record = await client.ended(task_id)
        assert ErrorEvent.model_validate_json(record.outcome).code == "deadline_exceeded"
    assert client.text(await client.stream.read(running))


async def test_a_record_of_a_newer_version_is_refused_with_an_error_event(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live()
    task_id = await client.accept(SIXTEEN_WORDS)
    await client.redis.hset(client.keys.task(task_id), "v", 999)

    assert isinstance(await worker.runner.run(task_id), Failed)
    record = await client.ended(task_id)
    assert ErrorEvent.model_validate_json(record.outcome).code == "version_unsupported"


async def test_a_request_that_cannot_be_read_is_refused_with_an_error_event(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live()
    task_id = await client.accept(SIXTEEN_WORDS)
    await client.redis.hset(client.keys.task(task_id), "request", '{"model": 7}')

    assert isinstance(await worker.runner.run(task_id), Failed)
    record = await client.ended(task_id)
    assert ErrorEvent.model_validate_json(record.outcome).code == "version_unsupported"


async def test_a_prompt_longer_than_the_context_fails_at_once_with_the_numbers(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(context_length=64)
    task_id = await client.accept("x" * 100)

    verdict = await worker.runner.run(task_id)

    assert isinstance(verdict, Failed)
    assert "107 tokens" in verdict.message
    assert "64" in verdict.message
    record = await client.ended(task_id)
    assert ErrorEvent.model_validate_json(record.outcome).code == "context_too_long"
    assert worker.tokens == 0


async def test_without_max_tokens_the_rest_of_the_context_is_the_limit(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(context_length=40)
    task_id = await client.accept("!tokens 1000", max_tokens=None)

    verdict = await worker.runner.run(task_id)

    assert isinstance(verdict, Answered)
    result = await client.answer(task_id)
    assert result.finish_reason == "length"
    usage = result.usage
    assert usage.prompt_tokens + usage.completion_tokens == 40


async def test_a_stop_string_ends_the_answer_before_it(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live()
    task_id = await client.accept("!say one two STOP three", stop=["STOP"])

    verdict = await worker.runner.run(task_id)

    assert isinstance(verdict, Answered)
    result = await client.answer(task_id)
    assert result.finish_reason == "stop_sequence"
    assert result.cleaned_response_text == "one two "


async def test_a_generation_that_runs_in_circles_is_stopped(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live(stop_loops=True, model_source="scripted:?token_ms=1")
    task_id = await client.accept("!say " + "la " * 800)

    verdict = await worker.runner.run(task_id)

    assert isinstance(verdict, Answered)
    result = await client.answer(task_id)
    assert result.finish_reason == "loop"
    assert result.usage.completion_tokens < 1000


async def test_tool_calls_end_the_task_as_one_event_with_ids(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live(model_source="scripted:?token_ms=1")
    tool = Tool(type="function", function=FunctionDefinition(name="add", parameters={"type": "object"}))
    call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    task_id = await client.accept(f"!say Let me see.{call}", tools=[tool])

    verdict = await worker.runner.run(task_id)

    assert isinstance(verdict, Answered)
    result = await client.answer(task_id)
    assert result.finish_reason == "tool_calls"
    entries = await client.stream.read(task_id)
    event = ToolCallsEvent.model_validate_json(entries[-3].data)
    assert event.text == "Let me see." == client.text(entries)
    assert event.finish_reason == "tool_calls"
    assert [(made.name, made.arguments) for made in event.tool_calls] == [("add", {"a": 1})]
    assert result.tool_calls == event.tool_calls
    assert result.raw_response_text == f"Let me see.{call}"


async def test_a_conversation_is_saved_with_its_new_answer(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live()
    asked = [UserMessage(role="user", content="!say yes")]
    task_id = await client.accept("!say yes", conversation_id="c1", conversation=asked)

    await worker.runner.run(task_id)

    stored = await client.conversations.load("tenant", "c1")
    assert stored == StoredConversation(
        [UserMessage(role="user", content="!say yes"), AssistantMessage(role="assistant", content="yes")],
        version=task_id,
    )


async def test_an_answer_for_a_conversation_that_was_started_anew_meanwhile_is_told_and_not_saved(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live()
    asked = [UserMessage(role="user", content="!say old")]
    old = await client.accept("!say old", conversation_id="c1", conversation=asked)
    await client.redis.delete(client.keys.conversation("tenant", "c1"))
    new = await client.accept("!say new", conversation_id="c1", conversation=asked)
    await worker.runner.run(new)

    verdict = await worker.runner.run(old)

    assert isinstance(verdict, Failed)
    record = await client.ended(old)
    assert ErrorEvent.model_validate_json(record.outcome).code == "conversation_changed"
    stored = await client.conversations.load("tenant", "c1")
    assert stored is not None
    assert (stored.messages[-1].content, stored.version) == ("new", new)


@pytest.mark.parametrize(
    "argument", ["NaN", "-Infinity", "1e999", '"half \\ud83d"', "[" * 150 + "]" * 150, '{"a": ' * 300 + "1" + "}" * 300]
)
async def test_a_conversation_can_go_on_whatever_its_model_wrote_as_a_call(
    client: TaskClient, start_live: StartLive, argument: str
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0")
    asked = [UserMessage(role="user", content="go")]
    said = f'!say <tool_call>{{"name": "f", "arguments": {{"x": {argument}}}}}</tool_call>'
    tool = Tool(type="function", function=FunctionDefinition(name="f"))
    task_id = await client.accept(said, conversation_id="c1", conversation=asked, tools=[tool], max_tokens=5000)
    assert isinstance(await worker.runner.run(task_id), Answered)

    stored = await client.conversations.load("tenant", "c1")
    assert stored is not None
    last = stored.messages[-1]
    calls = last.tool_calls or [] if isinstance(last, AssistantMessage) else []
    results = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in calls]
    going_on = {"messages": results} if results else {"message": "and now?"}
    assembled = assemble(CreateMessageParams.model_validate(going_on), LoopPolicy(), stored.messages)
    again = await client.accept("!say on", conversation_id="c1", conversation=assembled.conversation)
    assert isinstance(await worker.runner.run(again), Answered)


async def test_an_error_of_the_engine_fails_that_task_alone(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live()
    broken, fine = await client.accept("!fail out of luck"), await client.accept(SIXTEEN_WORDS)

    failed, answered = await asyncio.gather(worker.runner.run(broken), worker.runner.run(fine))

    assert failed == Failed("out of luck")
    assert isinstance(answered, Answered)
    record = await client.ended(broken)
    assert ErrorEvent.model_validate_json(record.outcome).code == "engine_failed"


async def test_a_cancelled_task_leaves_the_engine_within_a_second_and_its_neighbours_alone(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live()
    task_id, neighbour = await client.accept("!tokens 1000"), await client.accept("!tokens 60")
    running = [asyncio.create_task(worker.runner.run(each)) for each in (task_id, neighbour)]
    await client.streaming(task_id)

    assert await client.ledger.cancel(task_id, "tenant") == ("asked", "STARTED")
    verdict = await asyncio.wait_for(running[0], 1)

    assert verdict == Revoked()
    assert (await client.ended(task_id)).wire_state == "REVOKED"
    assert isinstance(await running[1], Answered)
    assert worker.batch_size <= 1
    assert await client.ledger.cancel(task_id, "tenant") == ("ended", "REVOKED")


async def test_another_worker_goes_on_behind_the_tokens_that_are_streamed(
    client: TaskClient, start_live: StartLive
) -> None:
    reference = await client.accept("!tokens 40", seed=7)
    first, second = await start_live(), await start_live(worker_name="second")
    assert isinstance(await first.runner.run(reference), Answered)
    task_id = await client.accept("!tokens 40", seed=7)
    lost = asyncio.create_task(first.runner.run(task_id))
    await client.streaming(task_id, 10)

    assert await client.take_from_live(task_id) == "requeued"
    verdict = await second.runner.run(task_id)

    assert await lost == Dropped()
    assert isinstance(verdict, Answered)
    result = await client.answer(task_id)
    assert result == await client.answer(reference)
    entries = await client.stream.read(task_id)
    assert client.text(entries) == result.cleaned_response_text
    assert len(client.token_ids(entries)) == 41
    assert [entry.type for entry in entries].count("end") == 1


async def test_an_answer_that_was_whole_when_its_worker_died_is_ended_without_the_engine(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live()
    reference = await client.accept("!tokens 5", seed=7)
    assert isinstance(await worker.runner.run(reference), Answered)
    task_id = await client.accept("!tokens 5", seed=7)
    claim = await client.ledger.claim(task_id, worker="dead", lease_seconds=0.01, revision="scripted")
    assert isinstance(claim, Claim)
    for entry in await client.stream.read(reference):
        if entry.type == "token":
            fields: dict[FieldT, EncodableT] = {"t": "token", "d": entry.data, "i": ",".join(map(str, entry.token_ids))}
            await client.redis.xadd(client.keys.events(task_id), fields, id=str(entry.id))
    await asyncio.sleep(0.02)
    await client.ledger.take_from_dead(task_id)
    tokens = worker.tokens

    assert isinstance(await worker.runner.run(task_id), Answered)
    assert await client.answer(task_id) == await client.answer(reference)
    assert worker.tokens == tokens


async def test_another_revision_starts_the_answer_over_and_says_so(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live()
    task_id = await client.accept("!tokens 5")
    await client.ledger.claim(task_id, worker="dead", lease_seconds=0.01, revision="older")
    await client.redis.xadd(client.keys.events(task_id), {"t": "token", "d": "", "i": "7,8"}, id="1-2")
    await asyncio.sleep(0.02)
    await client.ledger.take_from_dead(task_id)

    verdict = await worker.runner.run(task_id)

    assert isinstance(verdict, Answered)
    result = await client.answer(task_id)
    assert result.usage.completion_tokens == 6
    entries = await client.stream.read(task_id)
    assert any(b'"restart":true' in entry.data for entry in entries)


async def test_a_drained_worker_hands_over_what_does_not_end_in_time(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live()
    short, long = await client.accept("!tokens 20"), await client.accept("!tokens 1000")
    running = [asyncio.create_task(worker.runner.run(each)) for each in (short, long)]
    await asyncio.gather(client.streaming(short), client.streaming(long))

    await worker.drain(1)

    assert isinstance(await running[0], Answered)
    assert await running[1] == HandedOver()
    record = await client.ledger.get(long)
    assert record is not None
    assert (record.state, record.wire_state) == ("waiting", "RETRY")
    assert await worker.runner.run(await client.accept("!tokens 1")) == HandedOver()
    assert await client.workers.ready("scripted") == 0


async def test_an_engine_crash_is_survived_by_the_batch_mates_and_poisons_its_cause(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live()
    poison, mates = await client.accept("!slow 50\n!crash"), [await client.accept("!tokens 40") for _ in range(3)]

    async def until_over(task_id: str) -> Any:
        async with asyncio.timeout(30):
            while True:
                verdict = await worker.runner.run(task_id)
                if verdict != HandedOver():
                    return verdict
                await asyncio.sleep(0.05)

    running = [asyncio.create_task(until_over(mate)) for mate in mates]
    await asyncio.gather(*(client.streaming(mate) for mate in mates))
    poisoned = await until_over(poison)

    assert isinstance(poisoned, Failed)
    record = await client.ended(poison)
    assert ErrorEvent.model_validate_json(record.outcome).code == "poisoned"
    assert record.attempt == 3
    for mate, verdict in zip(mates, await asyncio.gather(*running), strict=True):
        assert isinstance(verdict, Answered)
        assert (await client.answer(mate)).usage.completion_tokens == 41
    assert worker.engine.restarts == 3


async def test_a_hung_engine_is_restarted_and_its_tasks_go_on(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live(engine_stall_seconds=2)
    hanging, mate = await client.accept("!tokens 20\n!hang 10"), await client.accept("!tokens 20")

    first = await asyncio.gather(worker.runner.run(hanging), worker.runner.run(mate))
    assert [*first] == [HandedOver(), HandedOver()]
    await until(lambda: worker.takes_tasks)

    assert isinstance(await worker.runner.run(mate), Answered)


async def test_an_engine_that_holds_its_interpreter_disturbs_no_lease(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(engine_stall_seconds=30)
    task_id = await client.accept("!tokens 5\n!hold-gil 2.5")

    assert isinstance(await worker.runner.run(task_id), Answered)
    record = await client.ended(task_id)
    assert record.attempt == 1


async def test_a_redis_outage_delays_tokens_and_loses_none(
    client: TaskClient, start_live: StartLive, valkey: Valkey
) -> None:
    worker = await start_live()
    task_id = await client.accept("!tokens 60")
    running = asyncio.create_task(worker.runner.run(task_id))
    await client.streaming(task_id)

    await asyncio.to_thread(valkey.stop)
    await asyncio.sleep(1)
    assert worker.tokens > 30, "the engine goes on"
    await asyncio.to_thread(valkey.start)
    verdict = await asyncio.wait_for(running, 15)

    assert isinstance(verdict, Answered)
    result = await client.answer(task_id)
    entries, _ = await persist(lambda: client.stream.read(task_id))
    assert client.text(entries) == result.cleaned_response_text
    assert len(client.token_ids(entries)) == 61
    assert [entry.type for entry in entries].count("end") == 1
