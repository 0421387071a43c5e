"""Tells the installation what this worker is doing: starting, taking tasks, or nothing."""

import asyncio
import logging
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from shared.store.outage import Outage, level
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelCard

log = logging.getLogger(__name__)


class Registration:
    """Announces the worker again and again; what it last said disappears by itself when it dies."""

    def __init__(
        self,
        registry: WorkerRegistry,
        worker: str,
        model: str,
        lease_seconds: float,
        card: Callable[[], ModelCard | str],
        outage: Outage,
    ) -> None:
        """`card`: the model's card when tasks are taken, else what the worker is doing instead; empty: leaving."""
        self._registry = registry
        self._worker = worker
        self._model = model
        self._pause = lease_seconds / 3
        self._card = card
        self._outage = outage
        self._changed = asyncio.Event()
        self._answering_since: float | None = None

    @property
    def redis_up_seconds(self) -> float:
        """For how long Redis has been answering without a failure."""
        return 0.0 if self._answering_since is None else time.monotonic() - self._answering_since

    def refresh(self) -> None:
        """Something has changed: says so at once."""
        self._changed.set()

    async def run(self) -> None:
        """Announces for ever."""
        while True:
            pause = self._pause
            self._changed.clear()
            try:
                await self._announce()
                self._outage.worked()
                if self._answering_since is None:
                    self._answering_since = time.monotonic()
            except RedisError as error:
                log.log(level(error), "Redis does not hear that this worker is here: %s", error)
                self._answering_since = None
                pause = min(pause, 1.0)
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _announce(self) -> None:
        card = self._card()
        if isinstance(card, ModelCard):
            await self._registry.announce(self._worker, card)
        elif card:
            await self._registry.announce_starting(self._worker, self._model, card)
        else:
            await self._registry.leave(self._worker, self._model)
