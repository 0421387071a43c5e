"""What the ledger's choice costs Redis: a task's acceptance, claim and end, with few and with many others waiting."""

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from redis.asyncio import Redis

from bench.experiments import Scale
from bench.interleave import interleaved
from bench.measures import Metrics, spread
from bench.results_file import Result
from shared.store.beginnings import Beginnings
from shared.store.keys import Keys
from shared.store.limits import ExpectedTokens
from shared.store.task_id import new_task_id
from shared.store.task_ledger import NO_BEGINNINGS, TaskLedger
from shared.store.task_record import Claim
from shared.wire.schemas import FinalTextEvent, InferenceRequest, Timings, Usage
from testbed.valkey import Valkey

MODEL = "m"
WORKERS = [f"worker{number}" for number in range(8)]
TENANTS = 20
CONVERSATIONS = 200
DIGESTS = 12
WARM_UP = 100
TASKS, BATCH = 800, 80
REPETITIONS = 3
"""Of one measurement, for one of an experiment: it is short, and the machine's caches are others' too."""
AT_ONCE = 32
FOREVER = 1e15
KINDS = {"warm prompts": True, "short prompts": False}
"""Whether there are digests of them."""
REQUEST = InferenceRequest.model_validate({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})


async def claims(scale: Scale) -> Result:
    """Redis's CPU time per task, and a claim's, at 100, 10,000 and 100,000 waiting tasks; with and without digests."""
    result = Result("claims", "python -m bench run claims")
    depths = (100, 10_000, 100_000) if scale.size >= 1 else (100, 5_000)
    async with contextlib.AsyncExitStack() as stack:
        arms = {}
        for name, digests in KINDS.items():
            for depth in depths:
                work = await stack.enter_async_context(_work(digests=digests))
                await work.fill(depth)
                arms[f"{name}, {depth:,} waiting"] = work.measure
        found = await interleaved(arms, REPETITIONS * scale.repetitions)
    for arm, repetitions in found.items():
        result.add_arm(arm, repetitions)
    for name in KINDS:
        few, many = (result.arms[f"{name}, {depth:,} waiting"]["claim_redis_us"] for depth in (depths[0], depths[-1]))
        what = f"Redis's CPU of a claim, {depths[-1]:,} waiting over {depths[0]}, {name}"
        result.add_ratio(what, many / few, 1.2, at_least=False)
    warm, short = (result.arms[f"{name}, {depths[0]:,} waiting"]["task_redis_us"] for name in KINDS)
    result.add_ratio("Redis's CPU of a task, warm prompts over short ones", warm / short, 1.2, at_least=False)
    return result


@contextlib.asynccontextmanager
async def _work(*, digests: bool) -> AsyncIterator["_Work"]:
    with (
        tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder,
        Valkey(Path(folder), durable=False) as valkey,
    ):
        async with Redis.from_url(valkey.url) as redis:
            work = _Work(redis, digests=digests)
            await redis.zadd(work.keys.workers(MODEL), dict.fromkeys(WORKERS, FOREVER))
            # So that the beginnings of all that then comes are known.
            await work.fill(WARM_UP)
            await work.measure(0)
            yield work


class _Work:
    """Tasks of many conversations and tenants."""

    def __init__(self, redis: Redis, *, digests: bool) -> None:
        self._redis = redis
        self.keys = Keys("bench:")
        self._ledger = TaskLedger(redis, self.keys, retention_seconds=60, max_failures=3)
        self._digests = digests
        self._random = random.Random(1)
        self._waiting = 0

    async def fill(self, depth: int) -> None:
        """Until so many wait."""

        async def accept() -> None:
            while self._waiting < depth:
                self._waiting += 1
                await self._accept()

        await asyncio.gather(*(accept() for _ in range(AT_ONCE)))

    async def _accept(self) -> None:
        conversation = self._random.randrange(CONVERSATIONS)
        digests = tuple(f"{conversation:04}.{at:07}" for at in range(DIGESTS))
        await self._ledger.accept(
            new_task_id(),
            REQUEST,
            tenant=f"tenant{conversation % TENANTS}",
            timeout_seconds=86400,
            max_waiting=10**6,
            max_tenant_tasks=10**6,
            expected=ExpectedTokens(100, 100),
            beginnings=Beginnings(digests[: DIGESTS // 2], digests[DIGESTS // 2 :]) if self._digests else NO_BEGINNINGS,
            slots=64,
        )

    async def measure(self, number: int) -> Metrics:
        """Of tasks that go while as many come."""
        times: list[float] = []
        of_claims = of_tasks = 0.0
        for _ in range(TASKS // BATCH):
            before = await self._cpu()
            claimed = []
            for worker in WORKERS * (BATCH // len(WORKERS)):
                begin = time.perf_counter()
                claim = await self._ledger.claim(
                    new_task_id(), worker=worker, lease_seconds=3600, revision="r", next_of=MODEL
                )
                times.append(time.perf_counter() - begin)
                assert isinstance(claim, Claim)
                claimed.append(claim)
            of_claims += await self._cpu() - before
            for claim in claimed:
                await self._end(claim)
                await self._accept()
            of_tasks += await self._cpu() - before
        return {
            "claim_redis_us": round(1e6 * of_claims / TASKS, 1),
            "task_redis_us": round(1e6 * of_tasks / TASKS, 1),
            **spread("claim", times, 3),
        }

    async def _end(self, claim: Claim) -> None:
        outcome = FinalTextEvent(
            task_id=claim.record.task_id,
            text="",
            finish_reason="stop",
            usage=Usage(prompt_tokens=100, completion_tokens=100),
            timings=Timings(queued=0, first_token=0, total=0),
        )
        assert await self._ledger.end(claim.record.task_id, claim.attempt, "SUCCESS", outcome)

    async def _cpu(self) -> float:
        info = await self._redis.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])
