import asyncio
from typing import Any

import pytest

from shared.store.event_stream import Entry, EntryId, TokenWrite
from shared.wire.chat import FunctionDefinition, Tool
from shared.wire.schemas import FinalTextEvent, FinishReason, StatusEvent, TokenEvent, ToolCallsEvent
from testbed.lone_attempt import attempt_at, claimed, generated, spelled
from testbed.task_client import TaskClient
from worker.engine_protocol import Logprobs, Output
from worker.engines.scripted.script import EOS
from worker.tasks.attempt import Attempt
from worker.tasks.outcomes import Cancelled, Errored, Finished, GivenBack, Lost

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
UNIQUE = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}}}
TOOL = Tool(type="function", function=FunctionDefinition(name="add", parameters={"type": "object"}))


def written(attempt: Attempt) -> list[tuple[tuple[int, ...], str]]:
    """Tokens and text that the attempt would write now."""
    write = attempt.writer.take()
    if write is None:
        return []
    text = TokenEvent.model_validate_json(write.entry.data).text if write.entry.data else ""
    return [(write.entry.token_ids, text)]


def token(sequence: int, text: str, attempt: int = 1, shown: str | None = None) -> Entry:
    """An entry of the stream; `shown` where its text is not that of its tokens."""
    text_shown = text if shown is None else shown
    event = TokenEvent(task_id="t", text=text_shown, index=sequence)
    data = event.model_dump_json(by_alias=True).encode() if text_shown else b""
    return Entry(EntryId(attempt, sequence), "token", data, spelled(text))


def started(attempt: int, *, restart: bool) -> Entry:
    event = StatusEvent(task_id="t", state="STARTED", attempt=attempt, restart=restart or None)
    data = event.model_dump_json(by_alias=True, exclude_none=True).encode()
    return Entry(EntryId(attempt, 0), "status", data)


async def test_outputs_become_tokens_and_text_until_the_engine_says_stop(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello")
    attempt.take(generated(attempt, "It is "))
    assert not attempt.ended.done()
    assert written(attempt) == [(spelled("It is "), "It is ")]
    attempt.take(generated(attempt, "Paris.", "stop", cached_tokens=3))
    assert await attempt.ended == Finished("stop")
    outcome = attempt.outcome("stop")
    assert isinstance(outcome, FinalTextEvent)
    assert (outcome.text, outcome.finish_reason) == ("It is Paris.", "stop")
    usage = outcome.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (
        len(attempt.prepared.prompt_ids),
        13,
        3,
    )
    first, total = outcome.timings.first_token, outcome.timings.total
    assert first is not None
    assert 0 <= outcome.timings.queued <= first <= total


async def test_whatever_ends_it_first_ends_it(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello")
    attempt.take(generated(attempt, "a"))
    attempt.end(Cancelled())
    attempt.end(Lost())
    written(attempt)
    attempt.take(generated(attempt, "b", "stop"))
    assert await attempt.ended == Cancelled()
    assert written(attempt) == [], "what comes behind the end is not the answer's"


async def test_an_error_of_the_engine_is_its_ending(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello")
    attempt.take(Output(attempt.request_id, (), error="out of luck"))
    assert await attempt.ended == Errored("engine_failed", "out of luck")


async def test_a_stop_string_ends_it_before_the_engine_does(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello", stop=["STOP"])
    attempt.take(generated(attempt, "one STOP two"))
    assert await attempt.ended == Finished("stop_sequence")
    outcome = attempt.outcome("stop_sequence")
    assert isinstance(outcome, FinalTextEvent)
    assert outcome.text == "one "


async def test_calls_in_the_text_are_its_outcome(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello", tools=[TOOL])
    attempt.take(generated(attempt, f"Let me see.{CALL}", "stop"))
    outcome = attempt.outcome("stop")
    assert isinstance(outcome, ToolCallsEvent)
    assert outcome.text == "Let me see."
    assert [(call.name, call.arguments) for call in outcome.tool_calls] == [("add", {"a": 1})]


async def test_text_that_was_held_back_comes_with_the_outcome(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello", stop=["STOP"])
    attempt.take(generated(attempt, "one ST", "stop"))
    assert written(attempt) == [((*spelled("one ST"), EOS), "one ")]
    attempt.outcome("stop")
    assert written(attempt) == []
    attempt.show_rest()
    assert written(attempt) == [((), "ST")]


async def test_text_that_may_be_refused_is_held_back_until_it_is_whole(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello", response_format=UNIQUE)
    attempt.take(generated(attempt, "[1, "))
    attempt.take(generated(attempt, "2]", "stop"))
    assert written(attempt) == [((*spelled("[1, 2]"), EOS), "")]
    outcome = attempt.outcome("stop")
    assert outcome.text == "[1, 2]"
    attempt.show_rest()
    assert written(attempt) == [((), "[1, 2]")]


@pytest.mark.parametrize(("shown", "rest"), [("", [((), "[1, 2]")]), ("[1, 2]", [])])
async def test_what_an_earlier_attempt_has_shown_is_not_shown_again(
    client: TaskClient, shown: str, rest: list[tuple[tuple[int, ...], str]]
) -> None:
    attempt = await attempt_at(client, "hello", response_format=UNIQUE)
    attempt.resume([token(6, "[1, 2]", shown=shown), Entry(EntryId(1, 7), "token", b"", (EOS,))], [EOS])
    assert await attempt.ended == Finished("stop")
    attempt.outcome("stop")
    attempt.show_rest()
    assert written(attempt) == rest


async def test_it_goes_on_behind_what_earlier_attempts_streamed(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello")
    attempt.resume([token(3, "one"), started(2, restart=False), token(7, " two", attempt=2)], [EOS])
    assert attempt.earlier_ids == spelled("one two")
    assert written(attempt) == []
    attempt.take(generated(attempt, " three", "stop"))
    assert written(attempt) == [((*spelled(" three"), EOS), " three")]
    outcome = attempt.outcome("stop")
    assert isinstance(outcome, FinalTextEvent)
    assert outcome.text == "one two three"
    assert outcome.usage.completion_tokens == len("one two three") + 1


async def test_what_another_revision_streamed_is_void(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello")
    attempt.resume([token(3, "old"), started(2, restart=True), token(4, "new ", attempt=2)], [EOS])
    assert attempt.earlier_ids == spelled("new ")


async def test_text_that_the_last_attempt_did_not_show_any_more_is_shown(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello")
    attempt.resume([token(3, "one"), token(7, " two", shown="")], [EOS])
    assert written(attempt) == [((), " two")]


@pytest.mark.parametrize(
    ("last", "fields", "finish"),
    [
        (Entry(EntryId(1, 4), "token", b"", (EOS,)), {}, "stop"),
        (token(4, "!"), {"max_tokens": 4}, "length"),
        (token(4, "!"), {"stop": ["!"]}, "stop_sequence"),
    ],
)
async def test_an_answer_that_is_whole_already_ends_at_once(
    client: TaskClient, last: Entry, fields: dict[str, Any], finish: FinishReason
) -> None:
    attempt = await attempt_at(client, "hello", **fields)
    attempt.resume([token(3, "one"), last], [EOS])
    assert attempt.ended.done()
    assert await attempt.ended == Finished(finish)


async def test_nothing_streamed_is_nothing_to_resume(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello")
    attempt.resume([started(1, restart=False)], [EOS])
    assert (attempt.earlier_ids, attempt.ended.done()) == ((), False)


async def test_every_attempt_draws_the_same_numbers_and_every_task_its_own(client: TaskClient) -> None:
    first, other = await attempt_at(client, "hello"), await attempt_at(client, "hello")
    await client.ledger.requeue(first.task_id, first.number, "handover")
    second = await claimed(client, first.task_id, worker="there")
    assert (first.number, second.number) == (1, 2)
    assert first.request_id != second.request_id
    assert first.seed == second.seed != other.seed
    assert (await attempt_at(client, "hello", seed=7)).seed == 7


async def test_each_draw_of_an_answer_has_a_seed_of_its_own(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello", seed=7)
    seeds = [attempt.seed]
    for redraw in (1, 2):
        await client.ledger.requeue(attempt.task_id, attempt.number, "redraw")
        attempt = await claimed(client, attempt.task_id)
        assert attempt.redraw == redraw
        seeds.append(attempt.seed)
    assert len(set(seeds)) == 3
    await client.ledger.requeue(attempt.task_id, attempt.number, "handover")
    assert (await claimed(client, attempt.task_id)).seed == seeds[-1]


async def test_an_ending_can_be_waited_for(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello")
    asyncio.get_running_loop().call_later(0.01, attempt.end, GivenBack())
    assert await asyncio.wait_for(attempt.ended, 5) == GivenBack()


def likely(text: str) -> tuple[Logprobs, ...]:
    return tuple(Logprobs(-float(token), ((token, -float(token)),)) for token in spelled(text))


def told_by(*writes: TokenWrite | None) -> str:
    """The tokens whose logprobs are told."""
    events = [TokenEvent.model_validate_json(write.entry.data) for write in writes if write and write.entry.data]
    return "".join(logprob.token for event in events for logprob in event.logprobs or ())


async def test_logprobs_come_with_the_text_of_their_tokens(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello", stop=["STOP"], logprobs=1)
    attempt.take(generated(attempt, "one ST", logprobs=likely("one ST")))
    write = attempt.writer.take()
    assert write is not None
    event = TokenEvent.model_validate_json(write.entry.data)
    assert (event.text, told_by(write)) == ("one ", "one ")
    assert event.logprobs is not None
    first = event.logprobs[0]
    assert (first.token, first.logprob, first.top_logprobs[0].token) == ("o", -float(spelled("o")[0]), "o")
    attempt.take(generated(attempt, "ay", "stop", logprobs=(*likely("ay"), Logprobs(0.0))))
    attempt.outcome("stop")
    last = attempt.writer.take()
    assert last is not None
    assert told_by(last) == "STay"
    assert last.entry.logprobs == b"", "nothing is left for another attempt to tell"


async def test_logprobs_that_wait_for_their_text_survive_a_takeover(client: TaskClient) -> None:
    """The last token that the first attempt wrote was held back; what it knew of it stands in the stream."""
    first = await attempt_at(client, "hello", stop=["STOP"], logprobs=1)
    entries = []
    for text in ("on", "e ST", "O"):
        first.take(generated(first, text, logprobs=likely(text)))
        write = first.writer.take()
        assert write is not None
        entries.append(write.entry)
    assert [bool(entry.logprobs) for entry in entries] == [False, True, True]
    await client.ledger.requeue(first.task_id, 1, "handover")
    second = await claimed(client, first.task_id)
    second.resume(entries, [EOS])
    assert second.writer.take() is None
    second.take(generated(second, "re", "stop", logprobs=(*likely("re"), Logprobs(0.0))))
    second.outcome("stop")
    assert told_by(second.writer.take()) == "STOre"


async def test_the_stop_string_that_ended_it_is_told(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello", stop=["END", "STOP"])
    attempt.take(generated(attempt, "one STOP"))
    outcome = attempt.outcome("stop_sequence")
    assert outcome.stop_sequence == "STOP"


async def test_an_answer_of_one_call_ends_behind_it(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello", tools=[TOOL], parallel_tool_calls=False)
    attempt.take(generated(attempt, f"Let me see.{CALL}"))
    assert await attempt.ended == Finished("stop")
    attempt.take(generated(attempt, f"{CALL}{CALL}", "stop"))
    outcome = attempt.outcome("stop")
    assert isinstance(outcome, ToolCallsEvent)
    assert (len(outcome.tool_calls), outcome.finish_reason) == (1, "tool_calls")


async def test_of_calls_that_come_in_one_piece_the_first_is_the_answer(client: TaskClient) -> None:
    attempt = await attempt_at(client, "hello", tools=[TOOL], parallel_tool_calls=False)
    one = '{"name": "add", "arguments": {"a": 1}}'
    attempt.take(generated(attempt, f"[TOOL_CALLS][{one}, {one}]", "stop"))
    outcome = attempt.outcome("stop")
    assert isinstance(outcome, ToolCallsEvent)
    assert len(outcome.tool_calls) == 1


PROMPT = "The quick"


async def prompted(client: TaskClient, **fields: Any) -> Attempt:
    return await attempt_at(client, "", messages=[], prompt=PROMPT, **fields)


def scores(text: str) -> tuple[Logprobs, ...]:
    return (Logprobs(None), *likely(text)[1:])


async def test_an_echoed_prompt_is_the_beginning_of_the_answer(client: TaskClient) -> None:
    attempt = await prompted(client, echo=True)
    assert attempt.prepared.prompt_ids == spelled(PROMPT)
    attempt.take(generated(attempt, " fox", "stop"))
    outcome = attempt.outcome("stop")
    assert outcome.text == f"{PROMPT} fox"
    assert "".join(text for _, text in written(attempt)) == outcome.text


async def test_the_tokens_of_an_echoed_prompt_are_told_before_those_of_the_answer(client: TaskClient) -> None:
    attempt = await prompted(client, echo=True, logprobs=1)
    assert attempt.unscored == len(PROMPT)
    attempt.take(Output(attempt.request_id, (), prompt_logprobs=scores(PROMPT)[:4]))
    first = attempt.writer.take()
    attempt.take(
        Output(attempt.request_id, spelled("!"), None, logprobs=likely("!"), prompt_logprobs=scores(PROMPT)[4:])
    )
    attempt.take(Output(attempt.request_id, (EOS,), "stop", logprobs=(Logprobs(-0.5),)))
    outcome = attempt.outcome("stop")
    # The end is told too: harnesses count the tokens that they asked for.
    assert told_by(first, attempt.writer.take()) == f"{PROMPT}!</s>"
    assert outcome.usage.completion_tokens == 2


async def test_a_prompt_that_is_the_whole_answer_takes_nothing_from_the_engine(client: TaskClient) -> None:
    attempt = await prompted(client, echo=True, max_tokens=0)
    assert await attempt.ended == Finished("length")
    scored = await prompted(client, echo=True, max_tokens=0, logprobs=0)
    assert not scored.ended.done()
    scored.take(Output(scored.request_id, spelled("x"), "length", logprobs=likely("x"), prompt_logprobs=scores(PROMPT)))
    assert await scored.ended == Finished("length")
    outcome = scored.outcome("length")
    assert (outcome.text, outcome.usage.completion_tokens) == (PROMPT, 0)
    assert told_by(scored.writer.take()) == PROMPT


@pytest.mark.parametrize("cut", [0, 4, len(PROMPT)])
async def test_a_takeover_tells_each_token_of_the_prompt_once(client: TaskClient, cut: int) -> None:
    first = await prompted(client, echo=True, logprobs=1)
    first.take(Output(first.request_id, (), prompt_logprobs=scores(PROMPT)[:cut]))
    before = first.writer.take()
    assert before is not None
    await client.ledger.requeue(first.task_id, 1, "handover")
    second = await claimed(client, first.task_id)
    second.resume([before.entry], [EOS])
    assert second.unscored == len(PROMPT) - cut
    if second.unscored:
        second.take(Output(second.request_id, (), prompt_logprobs=scores(PROMPT)))
    second.take(generated(second, "!", "stop", logprobs=(*likely("!"), Logprobs(0.0))))
    outcome = second.outcome("stop")
    after = second.writer.take()
    assert told_by(before, after) == f"{PROMPT}!</s>"
    assert after is not None
    assert TokenEvent.model_validate_json(after.entry.data).text == "!"
    assert outcome.text == f"{PROMPT}!"
