"""A document that its schema refuses is drawn anew, also when workers die meanwhile."""

import json

from redis.asyncio import Redis

from shared.store.keys import Keys
from testbed.draws import MET, REFUSED, UNIQUE, draws
from testbed.stack import MODEL, Stack
from testbed.waiting import until

FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": UNIQUE}}


async def test_workers_killed_in_both_draws_cost_none_of_them(headrace: Stack, redis: Redis, keys: Keys) -> None:
    for _ in range(3):
        await headrace.start_worker("scripted:?token_ms=10")
    text, seed = draws([REFUSED, MET], slow=400)
    history = await headrace.submit(text, seed=seed, responseFormat=FORMAT)
    history.expected = MET
    stream = keys.events(history.task_id)

    async def written(attempt: int, entries: int) -> bool:
        return len(await redis.xrange(stream, f"{attempt}-1", f"{attempt}-100") or ()) >= entries

    await until(lambda: written(1, 2), 20, "tokens of the first draw")
    (await headrace.holder(history)).kill()
    # Attempt 2 finishes the first draw, which is refused; attempt 3 draws anew.
    await until(lambda: written(3, 2), 20, "tokens of the second draw")
    (await headrace.holder(history)).kill()
    await headrace.follow(history)

    assert history.state == "SUCCESS"
    assert history.started == [1, 2, 3, 4]
    assert [one.data["attempt"] for one in history.of("status") if one.data.get("restart")] == [3]
    assert [one.data["text"] for one in history.of("token")] == [MET]
    assert await redis.hget(keys.task(history.task_id), "redraws") == b"1"
    assert await redis.zcard(keys.waiting(MODEL)) == 0


async def test_a_stream_that_cannot_start_over_shows_nothing_of_a_refused_draw(headrace: Stack) -> None:
    await headrace.start_worker()
    text, seed = draws([REFUSED, MET])
    messages = [{"role": "user", "content": text}]
    asked = {"model": MODEL, "messages": messages, "seed": seed, "response_format": FORMAT, "stream": True}
    async with headrace.client.stream("POST", f"{headrace.urls[0]}/v1/chat/completions", json=asked) as reply:
        events = [line.removeprefix("data: ") async for line in reply.aiter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    assert [said for choice in choices if (said := choice["delta"].get("content"))] == [MET]
    assert choices[-1]["finish_reason"] == "stop"
