"""Cancel and deadline reach a task wherever it is."""

import asyncio
import time

from testbed.stack import LEASE, Stack
from testbed.waiting import until


async def test_a_queued_task_is_cancelled_with_no_worker_up_and_never_runs_later(headrace: Stack) -> None:
    history = await headrace.submit()
    assert (await headrace.cancel(history))["cancelled"] is True
    await headrace.follow(history)
    await headrace.start_worker()
    assert (await headrace.run()).state == "SUCCESS"  # behind it in the same queue
    assert history.state == "REVOKED"
    assert not history.of("token")


async def test_a_running_task_stops_within_a_second_and_its_neighbour_is_not_disturbed(headrace: Stack) -> None:
    await headrace.start_worker("scripted:?token_ms=10", HEADRACE_SLOTS="2")
    undisturbed = await headrace.run(words=200)
    neighbour, victim = [await headrace.submit(words=200) for _ in range(2)]
    neighbour.expected = undisturbed.text
    followings = [await headrace.until_tokens(history, 5) for history in (neighbour, victim)]
    asked_at = time.monotonic()
    assert (await headrace.cancel(victim))["cancelled"] is True
    third = await headrace.submit()  # two slots: it needs the victim's
    await headrace.follow(third)
    await asyncio.gather(*followings)
    assert victim.state == "REVOKED"
    assert victim.seen[-1].at - asked_at <= 1
    assert (neighbour.state, third.state) == ("SUCCESS", "SUCCESS")
    assert third.of("token")[0].at < neighbour.seen[-1].at, "the slot was not free"
    assert (await headrace.cancel(victim)) == {"cancelled": True, "state": "REVOKED"}  # twice is the same


async def test_an_ended_task_stays_what_it_was(headrace: Stack) -> None:
    await headrace.start_worker()
    history = await headrace.run()
    assert (await headrace.cancel(history)) == {"cancelled": False, "state": "SUCCESS"}


async def test_a_cancel_between_two_attempts_wins(headrace: Stack) -> None:
    await headrace.start_worker()
    history = await headrace.submit(words=400)
    following = await headrace.until_tokens(history, 5)
    headrace.workers[0].kill()
    await headrace.cancel(history)
    await headrace.start_worker()
    await following
    assert history.state == "REVOKED"


async def test_a_client_that_went_away_cancels_its_task_after_the_resume_window(headrace: Stack) -> None:
    await headrace.start_api(HEADRACE_RESUME_WINDOW_SECONDS="1")
    headrace.urls.pop(0)
    headrace.apis[0].kill()
    await headrace.start_worker("scripted:?token_ms=50")
    history = await headrace.submit(words=1000, cancelOnDisconnect=True)
    following = await headrace.until_tokens(history, 3)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)

    async def revoked() -> bool:
        return await headrace.state(history) == "REVOKED"

    await until(revoked, 10, "the task is cancelled")
    await headrace.follow(history)


async def test_a_client_that_comes_back_in_time_keeps_its_task(headrace: Stack) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    history = await headrace.submit(words=200, cancelOnDisconnect=True)
    following = await headrace.until_tokens(history, 3)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await headrace.follow(history)
    assert history.state == "SUCCESS"


async def test_a_deadline_ends_a_running_task(headrace: Stack) -> None:
    await headrace.start_worker("scripted:?token_ms=50")
    began = time.monotonic()
    history = await headrace.run(words=1000, timeoutSeconds=2)
    assert history.of("error")[0].data["code"] == "deadline_exceeded"
    assert history.seen[-1].at - began < 2 + 1.5


async def test_a_deadline_ends_a_task_that_no_worker_ever_took(headrace: Stack) -> None:
    began = time.monotonic()
    history = await headrace.run(timeoutSeconds=1)
    assert history.of("error")[0].data["code"] == "deadline_exceeded"
    assert history.seen[-1].at - began < 1 + 3


async def test_a_deadline_ends_a_task_whose_worker_was_lost(headrace: Stack) -> None:
    await headrace.start_worker("scripted:?token_ms=50")
    history = await headrace.submit(words=1000, timeoutSeconds=LEASE + 2)
    following = await headrace.until_tokens(history, 2)
    headrace.workers[0].kill()
    await following
    assert history.of("error")[0].data["code"] == "deadline_exceeded"
