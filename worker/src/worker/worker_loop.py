"""The event loop of a worker: everything that talks to Redis or to the engine runs on it."""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import RedisError

from shared.cancellation import cancel_and_wait
from shared.store.event_stream import EventStream
from shared.store.installation import claim_prefix
from shared.store.keys import Keys
from shared.store.outage import Outage
from shared.store.redis_client import connect
from shared.store.task_ledger import TaskLedger
from shared.store.token_questions import TokenQuestions
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelCard, SamplingDefaults
from worker.engine_protocol import Step
from worker.engines.catalogue import load_prompts
from worker.engines.supervisor import Engine, EngineUnavailable, Limits
from worker.settings import WorkerSettings
from worker.status.deletion_cost import keep_deletion_cost
from worker.status.metrics import WorkerMetrics
from worker.status.registration import Registration
from worker.tasks.leases import Leases
from worker.tasks.task_runner import TaskRunner
from worker.text.codec import Codec
from worker.text.token_answers import answer_token_questions

log = logging.getLogger(__name__)

LEAVE_SECONDS = 1.0
"""To say that this worker takes no more tasks."""
TICK_SECONDS = 0.5


class WorkerLoop:
    """Engine, tasks, leases and registration of one worker. `live` runs them; the other methods belong to its loop."""

    def __init__(self, settings: WorkerSettings, outage: Outage, *, on_change: Callable[[], None]) -> None:
        """`on_change` is called when the worker begins or ceases to be able to take tasks."""
        self._settings = settings
        self._outage = outage
        self._on_change = on_change
        self._redis = connect(settings, outage)
        keys = Keys(settings.key_prefix)
        self._ledger = TaskLedger(
            self._redis,
            keys,
            retention_seconds=settings.retention_seconds,
            unstored_seconds=settings.unstored_seconds,
            max_failures=settings.max_failures,
        )
        self._registry = WorkerRegistry(self._redis, keys, lease_seconds=settings.lease_seconds)
        self._stream = EventStream(self._redis, keys)
        self._keys = keys
        self._codec: Codec
        self._stop = asyncio.Event()
        self.runner: TaskRunner | None = None
        """None until the engine is ready for the first time."""
        self.engine = Engine(
            settings.engine_options,
            settings.log_options(service="headrace-engine", model=settings.model_name),
            Limits(
                start_seconds=settings.engine_start_seconds,
                stall_seconds=settings.engine_stall_seconds,
                start_attempts=settings.engine_start_attempts,
            ),
            on_step=self._take_step,
            on_change=self._on_engine,
        )
        self.registration = Registration(
            self._registry, settings.worker_name, settings.model_name, settings.lease_seconds, self._card, outage
        )
        self.metrics = WorkerMetrics(
            settings.model_name,
            tasks=lambda: len(self.runner.held) if self.runner else 0,
            restarts=lambda: self.engine.restarts,
        )
        self.metrics.gauge("worker_ready", "1 while this worker takes tasks.", lambda: self.takes_tasks)
        self.ticked_at = time.monotonic()
        """When the loop last turned."""

    @property
    def takes_tasks(self) -> bool:
        return self.runner is not None and self.engine.ready and not self.runner.draining

    async def live(self, on_ready: Callable[[], None]) -> None:
        """Starts the engine, calls `on_ready`, and goes on until `stop`. Raises EngineUnavailable, PrefixTaken."""
        works = {asyncio.create_task(work) for work in (self._stop.wait(), self._tick(), self.registration.run())}
        claim = asyncio.create_task(claim_prefix(self._settings, self._outage))
        works |= {claim, asyncio.create_task(self._start(works, claim, on_ready))}
        try:
            done: set[asyncio.Task[Any]] = set()
            # `claim` and `_start` end when there is something to do, `_stop` when there is not; the others by a fault.
            while not (done and (self._stop.is_set() or any(task.exception() for task in done))):
                done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
                works -= done
        finally:
            await cancel_and_wait(*works)
            await self.engine.stop()
            with contextlib.suppress(RedisError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._registry.leave(self._settings.worker_name, self._settings.model_name)
            await self._redis.aclose()
        for task in done:
            task.result()

    async def drain(self, seconds: float) -> None:
        """Takes no more tasks; returns when the held ones have ended or are handed over."""
        if self.runner is not None:
            self.runner.draining = True
            self.registration.refresh()
            self._on_change()
            await self.runner.drain(seconds)

    def stop(self) -> None:
        """Ends `live`."""
        self._stop.set()

    async def _start(
        self, works: set[asyncio.Task[Any]], claim: asyncio.Task[None], on_ready: Callable[[], None]
    ) -> None:
        engine = await self.engine.start()
        await claim
        self._codec = await asyncio.to_thread(_load_codec, self._settings, engine.eos_token_ids)
        runner = TaskRunner(self._settings, self._ledger, self._stream, self.engine, self._codec, self.metrics)
        leases = Leases(runner, self._ledger, self._redis, self._keys, self._settings.lease_seconds)
        questions = answer_token_questions(
            TokenQuestions(self._redis, self._keys), self._settings.model_name, self._codec.prompts
        )
        works.add(asyncio.create_task(questions))
        for work in (runner.emitter.run(), leases.renew(), leases.hear_cancellations(), self._keep_engine()):
            works.add(asyncio.create_task(work))
        if self._settings.deletion_cost:
            cost = keep_deletion_cost(self._settings.worker_name, busy=lambda: bool(runner.held))
            works.add(asyncio.create_task(cost))
        self.runner = runner
        self.registration.refresh()
        on_ready()

    async def _keep_engine(self) -> None:
        try:
            await self.engine.keep_alive()
        except EngineUnavailable:
            await self.drain(0)
            raise

    async def _tick(self) -> None:
        while True:
            self.ticked_at = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)

    def _take_step(self, step: Step) -> None:
        if self.runner is not None:
            self.runner.take_step(step)
        self.metrics.observe(step)

    def _on_engine(self) -> None:
        if self.engine.info is not None:
            self.metrics.ready(self.engine.info)
        if self.runner is not None and not self.engine.ready:
            self.runner.lose_engine()
        self.registration.refresh()
        self._on_change()

    def _card(self) -> ModelCard | str:
        """What `Registration` announces."""
        engine, settings = self.engine.info, self._settings
        if self.runner is None or engine is None:
            return self.engine.progress.detail
        if self.runner.draining:
            return ""
        return ModelCard(
            name=settings.model_name,
            revision=engine.revision,
            context_length=engine.context_length,
            max_token_bytes=self._codec.max_token_bytes,
            slots=engine.slots,
            default_max_tokens=settings.default_max_tokens,
            abilities=self._codec.prompts.abilities.model_copy(
                update={"response_format": engine.grammars, "seeds": engine.continues_draws}
            ),
            sampling=SamplingDefaults(**dataclasses.asdict(settings.sampling(engine.sampling))),
        )


def _load_codec(settings: WorkerSettings, eos_token_ids: Iterable[int]) -> Codec:
    prompts = load_prompts(settings.engine_options, settings.default_max_tokens)
    return Codec(prompts, eos_token_ids, stop_loops=settings.stop_loops)
