"""An answer that its schema refuses, on a real worker: drawn anew, whatever happens meanwhile."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from redis.typing import EncodableT, FieldT

from shared.store.task_record import Claim
from shared.wire.chat import FunctionDefinition, Tool
from shared.wire.schemas import ErrorEvent, ToolCallsEvent
from testbed.draws import MET, REFUSED, UNIQUE, draws
from testbed.live_worker import StartLive
from testbed.task_client import SCRIPTED_MODEL, TaskClient
from worker.engines.scripted.script import EOS, FIRST_BYTE
from worker.tasks.outcomes import Answered, Dropped, Failed, HandedOver, MessageEnd, Revoked
from worker.tasks.task_runner import TaskRunner

FORMAT = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": UNIQUE}}


def drawn(*answers: str, slow: int = 0) -> dict[str, Any]:
    """What is accepted for a task whose draws are these answers."""
    text, seed = draws(answers, slow=slow)
    return {"text": text, "seed": seed, "response_format": FORMAT}


async def until_over(runner: TaskRunner, task_id: str) -> MessageEnd:
    """As Celery does: a message that was handed over comes again."""
    async with asyncio.timeout(30):
        while (end := await runner.run(task_id)) == HandedOver():
            pass
        return end


async def redraws(client: TaskClient, task_id: str) -> int:
    record = await client.ledger.get(task_id)
    assert record is not None
    return record.redraws


async def statuses(client: TaskClient, task_id: str) -> list[str]:
    """States, with `anew` where the answer begins anew."""
    events = [json.loads(entry.data) for entry in await client.stream.read(task_id) if entry.type == "status"]
    return [f"{event['state']} anew" if event.get("restart") else event["state"] for event in events]


@pytest.mark.parametrize("answers", [[MET], [REFUSED, MET], [REFUSED, REFUSED, MET]], ids=len)
async def test_an_answer_is_drawn_until_its_schema_accepts_it(
    client: TaskClient, start_live: StartLive, answers: Sequence[str]
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0")
    task_id = await client.accept(**drawn(*answers))
    end = await until_over(worker.runner, task_id)
    assert isinstance(end, Answered)
    result = await client.answer(task_id)
    assert result.cleaned_response_text == MET
    # The usage is that of the answer.
    assert result.usage.completion_tokens == len(MET) + 1
    again = len(answers) - 1
    assert await statuses(client, task_id) == ["PENDING", "STARTED", *["RETRY", "STARTED anew"] * again, "SUCCESS"]
    entries = await client.stream.read(task_id)
    assert [json.loads(entry.data)["text"] for entry in entries if entry.type == "token" and entry.data] == [MET]
    assert await redraws(client, task_id) == again


async def test_a_greedy_request_is_drawn_anew_warmly(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0")
    # What it says of its sampling is no document.
    task_id = await client.accept("!sampling", temperature=0.0, top_k=1, response_format={"type": "json_object"})
    assert isinstance(await until_over(worker.runner, task_id), Failed)
    said = ["", "", "", ""]
    for entry in await client.stream.read(task_id):
        written = [token - FIRST_BYTE for token in entry.token_ids if token != EOS]
        said[entry.id.attempt] += bytes(written).decode()
    assert said[1:] == ["0.0 1.0 1", "0.7 1.0 20", "1.0 1.0 20"]


async def test_after_the_last_draw_the_task_fails_with_the_reason(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0", max_redraws=1)
    task_id = await client.accept(**drawn(REFUSED, REFUSED, MET))
    assert isinstance(await until_over(worker.runner, task_id), Failed)
    error = ErrorEvent.model_validate_json((await client.ended(task_id)).outcome)
    assert (error.code, error.retryable) == ("schema_not_met", False)
    assert "responseFormat" in error.message
    assert "drawn 2 times" in error.message
    assert client.text(await client.stream.read(task_id)) == ""


async def test_a_demanded_call_is_drawn_until_its_tools_schema_accepts_it(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0")
    schema = {"type": "object", "properties": {"xs": UNIQUE}, "required": ["xs"]}
    tool = Tool(type="function", function=FunctionDefinition(name="add", parameters=schema))
    calls = [f'<tool_call>{{"name": "add", "arguments": {{"xs": {xs}}}}}</tool_call>' for xs in (REFUSED, MET)]
    asked = {**drawn(*calls), "response_format": None, "tools": [tool], "tool_choice": "required"}
    task_id = await client.accept(**asked)
    end = await until_over(worker.runner, task_id)
    assert isinstance(end, Answered)
    result = await client.answer(task_id)
    assert [call.arguments for call in result.tool_calls] == [{"xs": [1, 2]}]
    entries = await client.stream.read(task_id)
    assert ToolCallsEvent.model_validate_json(entries[-3].data).text == client.text(entries) == ""
    assert await redraws(client, task_id) == 1


async def test_a_call_that_nothing_demands_is_text_when_its_schema_refuses_it(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0")
    schema = {"type": "object", "properties": {"xs": UNIQUE}}
    tool = Tool(type="function", function=FunctionDefinition(name="add", parameters=schema))
    call = '<tool_call>{"name": "add", "arguments": {"xs": [1, 1]}}</tool_call>'
    task_id = await client.accept(f"!say {call}", tools=[tool])
    assert isinstance(await worker.runner.run(task_id), Answered)
    assert (await client.answer(task_id)).cleaned_response_text == call


async def test_a_draw_whose_worker_is_lost_goes_on_elsewhere_and_none_is_forgotten(
    client: TaskClient, start_live: StartLive
) -> None:
    first, second = await start_live(model_source="scripted:?token_ms=0"), await start_live(worker_name="second")
    asked = drawn(REFUSED, MET, slow=30)
    reference = await client.accept(**asked)
    assert isinstance(await until_over(second.runner, reference), Answered)
    task_id = await client.accept(**asked)
    assert await first.runner.run(task_id) == HandedOver()
    lost = asyncio.create_task(first.runner.run(task_id))
    await client.streaming(task_id, len(REFUSED) + 1 + 2)

    assert await client.take_from_live(task_id) == "requeued"
    assert isinstance(await second.runner.run(task_id), Answered)
    assert await client.answer(task_id) == await client.answer(reference)

    assert await lost == Dropped()
    assert await statuses(client, task_id) == [
        "PENDING", "STARTED", "RETRY", "STARTED anew", "RETRY", "STARTED", "SUCCESS",
    ]  # fmt: skip
    assert client.text(await client.stream.read(task_id)) == MET
    assert await redraws(client, task_id) == 1


async def test_an_answer_whose_worker_died_before_its_verdict_is_judged_by_the_next_and_counted_once(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0")
    asked = drawn(REFUSED, MET)
    reference = await client.accept(**asked)
    await worker.runner.run(reference)
    task_id = await client.accept(**asked)
    claim = await client.ledger.claim(task_id, worker="dead", lease_seconds=0.01, revision="scripted")
    assert isinstance(claim, Claim)
    for entry in await client.stream.read(reference):
        if entry.type == "token":
            fields: dict[FieldT, EncodableT] = {"t": "token", "d": entry.data, "i": ",".join(map(str, entry.token_ids))}
            await client.redis.xadd(client.keys.events(task_id), fields, id=str(entry.id))
    await client.redis.zadd(client.keys.running(SCRIPTED_MODEL), {task_id: 0})
    await client.ledger.take_from_dead(task_id)
    tokens = worker.tokens

    assert await worker.runner.run(task_id) == HandedOver()
    assert worker.tokens == tokens, "it was whole"
    assert await redraws(client, task_id) == 1
    assert isinstance(await worker.runner.run(task_id), Answered)


async def test_a_cancel_in_a_redraw_revokes_the_task(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live()
    task_id = await client.accept(**drawn(REFUSED, MET, slow=100))
    assert await worker.runner.run(task_id) == HandedOver()
    running = asyncio.create_task(worker.runner.run(task_id))
    await client.streaming(task_id, len(REFUSED) + 1 + 2)
    await client.ledger.cancel(task_id, "tenant")
    assert await running == Revoked()
    assert client.text(await client.stream.read(task_id)) == ""


async def test_a_cancel_between_two_draws_wins(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live()
    task_id = await client.accept(**drawn(REFUSED, MET))
    assert await worker.runner.run(task_id) == HandedOver()
    assert (await client.ledger.cancel(task_id, "tenant")).outcome == "revoked"
    assert await worker.runner.run(task_id) == Revoked()


async def test_the_deadline_is_that_of_all_draws_together(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live()
    task_id = await client.accept(**drawn(REFUSED, MET, slow=100))
    assert await worker.runner.run(task_id) == HandedOver()
    seconds, microseconds = await client.redis.time()
    deadline = seconds * 1000 + microseconds // 1000 + 300
    await client.redis.hset(client.keys.task(task_id), "deadline", str(deadline))
    assert isinstance(await worker.runner.run(task_id), Failed)
    error = ErrorEvent.model_validate_json((await client.ended(task_id)).outcome)
    assert error.code == "deadline_exceeded"
    assert await redraws(client, task_id) == 1
    assert client.text(await client.stream.read(task_id)) == ""
