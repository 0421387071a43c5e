"""The models that tasks are accepted for, and how busy each is."""

import asyncio
from collections.abc import Sequence

from api.cluster.capacity import Capacity
from api.errors import UnknownModel
from api.tenants.caller import Caller
from shared.store.redis_client import answered_within
from shared.store.task_lists import TaskLists
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelStatus


class Models:
    """The models of this installation."""

    def __init__(
        self,
        names: Sequence[str],
        default: str | None,
        *,
        lists: TaskLists,
        registry: WorkerRegistry,
        redis_timeout: float,
        capacity: Capacity | None = None,
    ) -> None:
        """`default`: the model of requests that name none; the first one where that is None.

        `capacity`: None outside of a cluster, or where the cluster is not to be asked.
        """
        self.names = names
        self._default = default or names[0]
        self._lists = lists
        self._registry = registry
        self._capacity = capacity
        self._redis_timeout = redis_timeout

    def chosen(self, caller: Caller, name: str | None) -> str:
        """The model that a request is for; one that the caller may not use is none. Raises UnknownModel."""
        names = caller.models_of(self.names)
        if not names:
            raise UnknownModel("of the models that are here, this API key may use none")
        if name is None:
            return self._default_of(names)
        if name not in names:
            raise UnknownModel(f"there is no model {name[:64]!r}; there are: {', '.join(names)}")
        return name

    async def detail(self, name: str) -> str | None:
        """What is being done about a model without a ready worker; None when it has one."""
        if await self._registry.ready(name):
            return None
        starting = await self._registry.starting(name)
        if self._capacity is not None and (detail := await self._capacity.detail(name, starting)):
            return detail
        return "; ".join(sorted(set(starting))) or "no worker is ready"

    async def _explained(self, status: ModelStatus) -> ModelStatus:
        """Outside of the bound on Redis: the cluster has one of its own."""
        return status if status.ready else status.model_copy(update={"detail": await self.detail(status.name)})

    def _default_of(self, names: Sequence[str]) -> str:
        return self._default if self._default in names else names[0]

    async def statuses(self, caller: Caller) -> list[ModelStatus]:
        """All models that the caller may use. Raises redis.exceptions.RedisError."""
        names = caller.models_of(self.names)
        async with answered_within(self._redis_timeout):
            statuses = await asyncio.gather(
                *(self._status(name, default=name == self._default_of(names)) for name in names)
            )
        return await asyncio.gather(*(self._explained(status) for status in statuses))

    async def _status(self, name: str, *, default: bool) -> ModelStatus:
        load, workers, card = await asyncio.gather(
            self._lists.load(name), self._registry.ready(name), self._registry.card(name)
        )
        return ModelStatus(
            name=name,
            default=default,
            ready=workers > 0,
            ready_workers=workers,
            waiting=load.waiting,
            running=load.running,
            context_length=card.context_length if card else None,
            abilities=card.abilities if card else None,
            sampling=card.sampling if card else None,
        )
