"""Where conversations go on: the store's real scripts, over many workers whose prefix caches are pretended.

Time is pretended too. A worker computes prompts one after the other, beside the answers of its batch; its cache holds
what it computed last.
"""

import contextlib
import heapq
import itertools
import random
import tempfile
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from api.tasks.messages import HOME_SECONDS
from bench.experiments import Scale
from bench.interleave import interleaved
from bench.measures import Metrics, percentile, ratio
from bench.results_file import Result
from bench.trace import WORDS
from shared.store.beginnings import beginnings_of
from shared.store.keys import Keys
from shared.store.limits import ExpectedTokens
from shared.store.task_id import new_task_id
from shared.store.task_ledger import NO_BEGINNINGS, TaskLedger
from shared.store.task_record import Claim
from shared.wire.schemas import FinalTextEvent, InferenceRequest, Timings, Usage
from testbed.valkey import Valkey

MODEL = "pretended"
SLOTS = 8
TURNS = 4
SYSTEM_WORDS, FIRST_WORDS, LATER_WORDS, ANSWER_WORDS = 150, 1000, 60, 80
PROMPT_WORDS_PER_SECOND, ANSWER_WORDS_PER_SECOND = 2000.0, 20.0
CACHED_WORDS = 40_000
"""Of one worker: some thirty conversations."""
BUSY = 0.85
"""Share of the slots that the conversations would fill if they all found their prompts cached."""
FOREVER = 1e15


@dataclass
class Pretended:
    """One worker."""

    name: str
    slots: int = SLOTS
    free: int = SLOTS
    own: deque[str] = field(default_factory=deque)
    """Messages in its own queue."""
    prompts_until: float = 0.0
    cache: OrderedDict[str, int] = field(default_factory=OrderedDict)
    """Conversation -> words of it that are cached; what was used last stands last."""
    tasks: int = 0

    def compute(self, name: str, words: int, shared: int) -> int:
        """Words of the prompt that were cached; from now on all of them are."""
        found = self.cache.pop(name, shared if self.cache else 0)
        self.cache[name] = words
        while sum(self.cache.values()) > CACHED_WORDS * self.slots / SLOTS:
            self.cache.popitem(last=False)
        return found


@dataclass
class Chat:
    """One conversation and what is known of its newest task."""

    name: str
    messages: list[dict[str, str]]
    turn: int = 0
    accepted: float = 0.0


class Cluster:
    """Workers, conversations and messages, in pretended time."""

    def __init__(self, ledger: TaskLedger, workers: list[Pretended], random_: random.Random, *, hints: bool) -> None:
        self._ledger = ledger
        self._workers = {worker.name: worker for worker in workers}
        self._asking = deque(workers)
        """Those that wait for a message, the one that has waited longest first."""
        self._messages: deque[str] = deque()
        self._random = random_
        self._hints = hints
        self._chats: dict[str, Chat] = {}
        """By the id of the newest task."""
        self._events: list[tuple[float, int, Callable[[], Coroutine[Any, Any, None]]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._waiting: set[str] = set()
        self.first_tokens: list[float] = []
        self.prompt = self.cached = 0
        """Words of the later turns' prompts."""

    def at(self, seconds: float, event: Callable[[], Coroutine[Any, Any, None]]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), event))

    async def run(self) -> None:
        """Until nothing is left to happen."""
        while self._events:
            self._now, _, event = heapq.heappop(self._events)
            await event()

    async def say(self, chat: Chat) -> None:
        """The user's next message arrives."""
        words = self._random.choices(WORDS, k=FIRST_WORDS if chat.turn == 0 else LATER_WORDS)
        chat.messages.append({"role": "user", "content": " ".join(words)})
        chat.turn += 1
        chat.accepted = self._now
        request = InferenceRequest.model_validate({"model": MODEL, "messages": chat.messages})
        accepted = await self._ledger.accept(
            new_task_id(),
            request,
            tenant="one",
            timeout_seconds=86400,
            max_waiting=10**6,
            max_tenant_tasks=10**6,
            expected=ExpectedTokens(_words(chat), ANSWER_WORDS),
            beginnings=beginnings_of(request, "one") if self._hints else NO_BEGINNINGS,
            slots=next(iter(self._workers.values())).slots,
        )
        task_id = accepted.task_id
        self._chats[task_id] = chat
        self._waiting.add(task_id)
        if accepted.home is None:
            self._messages.append(task_id)
            await self._deliver()
            return
        self._workers[accepted.home].own.append(task_id)

        async def follow() -> None:
            if task_id in self._waiting:
                self._messages.append(task_id)
                await self._deliver()

        self.at(HOME_SECONDS, follow)
        await self._deliver()

    async def _deliver(self) -> None:
        """Messages to workers that ask for one."""
        for worker in list(self._asking):
            while worker.free and (self._messages or worker.own):
                message = self._messages.popleft() if self._messages else worker.own.popleft()
                if worker in self._asking:
                    self._asking.remove(worker)
                    self._asking.append(worker)
                await self._claim(worker, message)

    async def _claim(self, worker: Pretended, message: str) -> None:
        claim = await self._ledger.claim(message, worker=worker.name, lease_seconds=86400, revision="r", next_of=MODEL)
        if not isinstance(claim, Claim):
            return
        task_id = claim.record.task_id
        self._waiting.discard(task_id)
        chat = self._chats.pop(task_id)
        worker.free -= 1
        worker.tasks += 1
        words = _words(chat)
        cached = worker.compute(chat.name, words, SYSTEM_WORDS)
        if chat.turn > 1:
            self.prompt += words
            self.cached += cached
        worker.prompts_until = max(self._now, worker.prompts_until) + (words - cached) / (
            PROMPT_WORDS_PER_SECOND * worker.slots / SLOTS
        )
        begin = worker.prompts_until - self._now
        self.first_tokens.append(self._now + begin - chat.accepted)
        self.at(begin + ANSWER_WORDS / ANSWER_WORDS_PER_SECOND, lambda: self._end(worker, claim, chat, words))

    async def _end(self, worker: Pretended, claim: Claim, chat: Chat, words: int) -> None:
        outcome = FinalTextEvent(
            task_id=claim.record.task_id,
            text="",
            finish_reason="stop",
            usage=Usage(prompt_tokens=words, completion_tokens=ANSWER_WORDS),
            timings=Timings(queued=0, first_token=0, total=0),
        )
        assert await self._ledger.end(claim.record.task_id, claim.attempt, "SUCCESS", outcome)
        worker.free += 1
        chat.messages.append({"role": "assistant", "content": " ".join(self._random.choices(WORDS, k=ANSWER_WORDS))})
        if chat.turn < TURNS:
            self.at(self._random.expovariate(1 / 10), lambda: self.say(chat))
        await self._deliver()


def _words(chat: Chat) -> int:
    return sum(len(message["content"].split()) for message in chat.messages)


async def placement(scale: Scale) -> Result:
    """The cached share of later turns' prompts, and the first token, of 8 and 32 workers beside one of their size."""
    result = Result("placement", "python -m bench run placement")
    for workers in (8, 32):
        arms = {
            f"{workers} workers": partial(measure, workers, scale),
            f"{workers} workers, by the order alone": partial(measure, workers, scale, hints=False),
            f"1 worker of {workers} times the size": partial(measure, 1, scale, size=workers),
        }
        found = await interleaved(arms, scale.repetitions)
        for name, repetitions in found.items():
            result.add_arm(name, repetitions)
        ours, blind, one = found.values()
        result.add_ratio(f"cached share, {workers} workers over one", ratio(ours, one, "cached_share"), 0.9)
        result.add_ratio(
            f"cached share by the order alone, {workers} workers over one", ratio(blind, one, "cached_share")
        )
        share = max(each["most_tasks_over_mean"] for each in ours)
        result.add_ratio(f"tasks of the busiest of {workers} workers over the mean", share, 1.5, at_least=False)
    return result


async def measure(workers: int, scale: Scale, number: int, *, hints: bool = True, size: int = 1) -> Metrics:
    """One run: `hints`, whether anybody knows where a prompt is warm; `size`, of a worker, in those of a normal one."""
    random_ = random.Random(number)
    names = [f"worker{at}" for at in range(workers)]
    async with _ledger(names) as ledger:
        pretended = [Pretended(name, SLOTS * size, SLOTS * size) for name in names]
        cluster = Cluster(ledger, pretended, random_, hints=hints)
        chats = scale.count(20, 6) * workers * size
        # A turn takes a slot for as long as its answer, and for the little of its prompt that is new.
        seconds = ANSWER_WORDS / ANSWER_WORDS_PER_SECOND + LATER_WORDS / PROMPT_WORDS_PER_SECOND
        system = " ".join(random_.choices(WORDS, k=SYSTEM_WORDS))
        at = 0.0
        for chat in range(chats):
            new = Chat(f"chat {chat}", [{"role": "system", "content": system}])
            cluster.at(at, partial(cluster.say, new))
            at += random_.expovariate(BUSY * SLOTS * workers * size / (TURNS * seconds))
        await cluster.run()
    mean = sum(worker.tasks for worker in pretended) / workers
    return {
        "tasks": float(sum(worker.tasks for worker in pretended)),
        "cached_share": round(cluster.cached / cluster.prompt, 3),
        "first_token_ms_p50": round(1000 * percentile(cluster.first_tokens, 50), 1),
        "first_token_ms_p95": round(1000 * percentile(cluster.first_tokens, 95), 1),
        "most_tasks_over_mean": round(max(worker.tasks for worker in pretended) / mean, 3),
    }


@contextlib.asynccontextmanager
async def _ledger(workers: list[str]) -> AsyncIterator[TaskLedger]:
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder, Valkey(Path(folder), durable=False) as valkey:
        keys = Keys("bench:")
        async with Redis.from_url(valkey.url) as redis:
            await redis.zadd(keys.workers(MODEL), dict.fromkeys(workers, FOREVER))
            yield TaskLedger(redis, keys, retention_seconds=60, max_failures=3)
