"""Workers that die, freeze, hang or crash in mid-answer: another goes on and no token is lost or repeated."""

import asyncio
import time

import pytest
from redis.asyncio import Redis

from api.repair.lost_messages import MISSED_SECONDS
from shared.cancellation import cancel_and_wait
from shared.celery_app import queue_for
from shared.settings import SharedSettings
from testbed.stack import LEASE, MODEL, Stack
from testbed.waiting import until


async def test_a_killed_workers_task_goes_on_at_another_within_lease_and_two_seconds(headrace: Stack) -> None:
    await headrace.start_worker()
    await headrace.start_worker()
    undisturbed = await headrace.run(words=100)
    history = await headrace.submit(words=100)
    history.expected = undisturbed.text
    following = await headrace.until_tokens(history, 5)
    killed_at = time.monotonic()
    (await headrace.holder(history)).kill()
    await following
    assert (history.started, history.retries, history.state) == ([1, 2], 1, "SUCCESS")
    assert history.first_token_of(2) - killed_at <= LEASE + 2


@pytest.mark.slow
async def test_a_batch_of_a_killed_worker_is_taken_over_whole(headrace: Stack) -> None:
    await headrace.start_worker()
    undisturbed = await headrace.run(words=200)
    histories = [await headrace.submit(words=200) for _ in range(16)]
    followings = [await headrace.until_tokens(history, 3) for history in histories]
    headrace.workers[0].kill()
    await headrace.start_worker()
    await asyncio.gather(*followings)
    for history in histories:
        history.expected = undisturbed.text
        assert (history.started, history.state) == ([1, 2], "SUCCESS")


async def test_a_frozen_workers_writes_are_refused_when_it_thaws(headrace: Stack) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    await headrace.start_worker("scripted:?token_ms=20")
    undisturbed = await headrace.run(words=200)
    history = await headrace.submit(words=200)
    history.expected = undisturbed.text
    following = await headrace.until_tokens(history, 5)
    zombie = await headrace.holder(history)
    zombie.freeze()
    await until(lambda: history.started == [1, 2], LEASE + 5, "the second attempt")
    zombie.thaw()
    await following
    assert (history.started, history.state) == ([1, 2], "SUCCESS")
    # The thawed worker is a good worker again: alone, it serves the next task.
    next(worker for worker in headrace.workers if worker is not zombie).kill()
    assert (await headrace.run(words=200)).text == undisturbed.text


@pytest.mark.slow
async def test_a_task_waits_for_a_worker_that_comes_back_from_zero(headrace: Stack) -> None:
    await headrace.start_worker()
    undisturbed = await headrace.run()
    history = await headrace.submit(words=100)
    following = await headrace.until_tokens(history, 5)
    headrace.workers[0].kill()
    await until(lambda: history.retries == 1, LEASE + 3, "the janitor takes the task back")
    queued = await headrace.submit()
    await headrace.start_worker()
    await following
    assert (await headrace.follow(queued)).text == undisturbed.text
    assert (history.started, history.state) == ([1, 2], "SUCCESS")
    assert history.text.startswith(queued.text)


async def test_a_prompt_that_kills_the_engine_is_poisoned_and_its_batch_mates_finish(headrace: Stack) -> None:
    await headrace.start_worker()
    undisturbed = await headrace.run(words=100)
    mates = [await headrace.submit(words=100) for _ in range(4)]
    followings = [await headrace.until_tokens(mate, 2) for mate in mates]
    poison = await headrace.submit("!crash")
    await headrace.follow(poison)
    await asyncio.gather(*followings)
    assert poison.state == "FAILURE"
    assert poison.of("error")[0].data["code"] == "poisoned"
    assert poison.started == [1, 2, 3]
    for mate in mates:
        mate.expected = undisturbed.text
        assert mate.state == "SUCCESS"


@pytest.mark.slow
async def test_a_hung_engine_is_restarted_and_its_tasks_go_on(headrace: Stack) -> None:
    await headrace.start_worker(HEADRACE_ENGINE_STALL_SECONDS="2")
    undisturbed = await headrace.run(words=100)
    mate = await headrace.submit(words=100)
    mate.expected = undisturbed.text
    following = await headrace.until_tokens(mate, 2)
    hang = await headrace.submit("!hang", timeoutSeconds=30)
    await following
    assert mate.state == "SUCCESS"
    assert len(mate.started) > 1
    await headrace.follow(hang)
    assert hang.of("error")[0].data["code"] in ("poisoned", "deadline_exceeded")


@pytest.mark.slow
async def test_an_engine_that_holds_its_interpreter_is_restarted_and_health_tells_the_truth(headrace: Stack) -> None:
    stall = 2.0
    worker = await headrace.start_worker(HEADRACE_ENGINE_STALL_SECONDS=str(stall))
    internal = f"http://127.0.0.1:{worker.env['HEADRACE_INTERNAL_PORT']}"
    undisturbed = await headrace.run(words=100)
    mates = [await headrace.submit(words=100) for _ in range(3)]
    followings = [await headrace.until_tokens(mate, 2) for mate in mates]
    alive: list[int] = []
    ready: list[int] = []

    async def probe() -> None:
        while True:
            alive.append((await headrace.client.get(f"{internal}/healthz")).status_code)
            ready.append((await headrace.client.get(f"{internal}/readyz")).status_code)
            await asyncio.sleep(0.05)  # the pace of the probes

    probing = asyncio.create_task(probe())
    held_at = time.monotonic()
    poison = await headrace.submit("!hold-gil 600")
    await asyncio.gather(*followings)
    await headrace.follow(poison)
    assert (await headrace.run(words=100)).text == undisturbed.text
    await cancel_and_wait(probing)
    for mate in mates:
        mate.expected = undisturbed.text
        assert mate.state == "SUCCESS"
        again = next(one.at for one in mate.of("status") if one.data["state"] == "RETRY")
        assert again - held_at <= stall + 2
    assert (poison.started, poison.of("error")[0].data["code"]) == ([1, 2, 3], "poisoned")
    # The worker puts it right by itself: a restart would only lose what it holds. It is not ready meanwhile.
    assert set(alive) == {200}
    assert set(ready) == {200, 503}
    assert ready[-1] == 200


@pytest.mark.slow
async def test_a_message_that_a_frozen_and_then_killed_worker_swallowed_is_sent_again(
    headrace: Stack, redis: Redis
) -> None:
    await headrace.start_worker()
    await headrace.run()
    headrace.workers[0].freeze()
    history = await headrace.submit()
    assert await redis.llen(SharedSettings().key_prefix + queue_for(MODEL, "normal")) == 0, "nobody waited for it"
    submitted_at = time.monotonic()
    headrace.workers[0].stop()
    await headrace.start_worker()
    await headrace.follow(history)
    assert (history.started, history.state) == ([1], "SUCCESS")
    assert history.of("token")[0].at - submitted_at <= MISSED_SECONDS + 3


async def test_another_model_revision_starts_over_and_says_so(headrace: Stack) -> None:
    await headrace.start_worker(HEADRACE_MODEL_REVISION="a")
    history = await headrace.submit(words=200)
    following = await headrace.until_tokens(history, 5)
    headrace.workers[0].kill()
    await headrace.start_worker(HEADRACE_MODEL_REVISION="b")
    await following
    restarts = [one for one in history.of("status") if one.data.get("restart")]
    assert len(restarts) == 1
    assert history.state == "SUCCESS"
