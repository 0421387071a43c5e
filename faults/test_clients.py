"""OpenAI's and Anthropic's own clients while parts break: one call is one task, half an answer is never a whole one."""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from _pytest.mark import ParameterSet
from redis.asyncio import Redis

from shared.store.keys import Keys
from testbed.sdk_faces import FACES, RAISES, SdkFace
from testbed.stack import LEASE, MODEL, Process, Stack
from testbed.tcp_proxy import TcpProxy
from testbed.waiting import until

WHOLE = [face for face in FACES if not face.stream]
STREAMED = [face for face in FACES if face.stream]


def one_quick(faces: list[SdkFace]) -> list[ParameterSet]:
    """The first of them also where slow tests are left out."""
    return [
        pytest.param(face, id=str(face), marks=[pytest.mark.slow] if number else [])
        for number, face in enumerate(faces)
    ]


ANSWER = " ".join(map(str, range(50)))
"""Of 139 tokens, no two parts of it alike."""
QUESTION = f"!say {ANSWER}"


@pytest.fixture
async def front(headrace: Stack) -> AsyncIterator[TcpProxy]:
    """Two replicas behind one address: each connection goes to the next that listens."""
    await headrace.start_api()
    proxy = TcpProxy(*(urlsplit(url).port or 0 for url in headrace.urls))
    await proxy.start()
    yield proxy
    await proxy.stop()


class Ledger:
    """What the server knows of the tasks that clients made."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def tasks(self) -> int:
        """How many there ever were."""
        return len([key async for key in self._redis.scan_iter(match=f"{self._keys.prefix}task:*")])

    async def generating(self) -> str | None:
        """The name of the worker of a task that runs and has shown some words; None while there is none."""
        for name in await self._redis.zrange(self._keys.running(MODEL), 0, -1):
            if isinstance(name, bytes) and await self._redis.xlen(self._keys.events(name.decode())) > 8:
                worker = await self._redis.hget(self._keys.task(name.decode()), "worker")
                return worker.decode() if isinstance(worker, bytes) else None
        return None

    async def quiet(self) -> bool:
        return not await self._redis.zcard(self._keys.running(MODEL))


@pytest.fixture
def ledger(redis: Redis, keys: Keys) -> Ledger:
    return Ledger(redis, keys)


async def serving(headrace: Stack) -> Process:
    """The replica that has a reader."""
    for api in headrace.apis:
        metrics = await headrace.client.get(f"http://127.0.0.1:{api.env['HEADRACE_INTERNAL_PORT']}/metrics")
        if "headrace_open_streams 1.0" in metrics.text:
            return api
    raise AssertionError("no replica has a reader")


@pytest.mark.parametrize("face", one_quick(WHOLE))
async def test_a_connection_that_drops_after_the_acceptance_leaves_one_task(
    headrace: Stack, front: TcpProxy, ledger: Ledger, face: SdkFace
) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    asking = asyncio.create_task(replace(face, max_retries=3).answer(front.url, MODEL, QUESTION))
    await until(ledger.tasks, 20, "a task is accepted")
    front.reset_all()
    assert await asking == ANSWER
    assert front.tries == [0, 1]
    assert await ledger.tasks() == 1


@pytest.mark.slow
@pytest.mark.parametrize("face", STREAMED, ids=str)
async def test_a_stream_whose_head_is_lost_on_its_way_is_joined_by_the_next_try(
    headrace: Stack, front: TcpProxy, ledger: Ledger, face: SdkFace
) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    front.swallow_replies()
    asking = asyncio.create_task(replace(face, max_retries=3).answer(front.url, MODEL, QUESTION))
    await until(ledger.tasks, 20, "a task is accepted")
    front.heal()
    front.reset_all()
    assert await asking == ANSWER
    assert front.tries == [0, 1]
    assert await ledger.tasks() == 1


@pytest.mark.slow
@pytest.mark.parametrize("face", WHOLE, ids=str)
async def test_an_answer_that_takes_five_time_outs_is_one_task(
    headrace: Stack, front: TcpProxy, ledger: Ledger, face: SdkFace
) -> None:
    """Ten seconds of answer, two seconds of patience, and the client's own waits between its tries."""
    await headrace.start_worker("scripted:?token_ms=72")
    asked = replace(face, max_retries=10, try_seconds=2)
    assert await asked.answer(front.url, MODEL, QUESTION) == ANSWER
    assert len(front.tries) >= 3
    assert front.tries == list(range(len(front.tries)))
    assert await ledger.tasks() == 1


@pytest.mark.slow
@pytest.mark.parametrize("face", STREAMED, ids=str)
async def test_a_stream_of_five_time_outs_is_one_try(
    headrace: Stack, front: TcpProxy, ledger: Ledger, face: SdkFace
) -> None:
    """Its head comes when the task is accepted, and its words in time: the client has nothing to give up on."""
    await headrace.start_worker("scripted:?token_ms=72")
    asked = replace(face, max_retries=10, try_seconds=2)
    assert await asked.answer(front.url, MODEL, QUESTION) == ANSWER
    assert front.tries == [0]
    assert await ledger.tasks() == 1


@pytest.mark.parametrize("face", one_quick([*STREAMED, *WHOLE]))
async def test_a_workers_death_changes_nothing_in_the_text(headrace: Stack, ledger: Ledger, face: SdkFace) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    await headrace.start_worker("scripted:?token_ms=20")
    asking = asyncio.create_task(face.answer(headrace.urls[0], MODEL, QUESTION))
    holder = await until(ledger.generating, 20, "a worker generates")
    next(worker for worker in headrace.workers if worker.name == holder).kill()
    assert await asyncio.wait_for(asking, LEASE + 30) == ANSWER


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
@pytest.mark.parametrize("face", FACES, ids=str)
async def test_half_an_answer_of_a_replica_that_goes_is_raised(
    headrace: Stack, ledger: Ledger, face: SdkFace, number: signal.Signals
) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    asking = asyncio.create_task(face.answer(headrace.urls[0], MODEL, QUESTION))
    await until(ledger.generating, 20, "a worker generates")
    headrace.apis[0].send(number)
    with pytest.raises(RAISES):
        await asking
    await until(ledger.quiet, 30, "the task ends without it")


@pytest.mark.slow
@pytest.mark.parametrize("face", WHOLE, ids=str)
async def test_another_replica_answers_what_one_that_stopped_had_accepted(
    headrace: Stack, front: TcpProxy, ledger: Ledger, face: SdkFace
) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    asking = asyncio.create_task(replace(face, max_retries=3).answer(front.url, MODEL, QUESTION))
    await until(ledger.generating, 20, "a worker generates")
    (await serving(headrace)).send(signal.SIGTERM)
    assert await asking == ANSWER
    assert await ledger.tasks() == 1
