"""Which models there are, and how busy each is."""

import pytest
from redis.asyncio import Redis

from api.errors import UnknownModel
from api.models import Models
from api.tenants.caller import Caller, Policy
from shared.store.keys import Keys
from shared.store.task_lists import TaskLists
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelCard
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker

ME = Caller("me")


class Capacity:
    """A cluster that says always the same."""

    def __init__(self, line: str | None) -> None:
        self.line = line
        self.reports: list[str] = []

    async def detail(self, model: str, reports: list[str]) -> str | None:
        self.reports = reports
        return self.line


@pytest.fixture
def models(redis: Redis, keys: Keys, registry: WorkerRegistry) -> Models:
    lists = TaskLists(redis, keys)
    return Models(("other", DEFAULT_MODEL), DEFAULT_MODEL, lists=lists, registry=registry, redis_timeout=2)


def test_a_request_is_for_the_model_it_names_or_for_the_default_one(
    models: Models, redis: Redis, keys: Keys, registry: WorkerRegistry
) -> None:
    assert models.chosen(ME, None) == DEFAULT_MODEL
    assert models.chosen(ME, "other") == "other"
    unset = Models(("a", "b"), None, lists=TaskLists(redis, keys), registry=registry, redis_timeout=2)
    assert unset.chosen(ME, None) == "a"


def test_a_model_that_is_not_there_is_refused_with_those_that_are(models: Models) -> None:
    with pytest.raises(UnknownModel) as refused:
        models.chosen(ME, "x" * 1000)
    assert refused.value.message == f"there is no model {'x' * 64!r}; there are: other, {DEFAULT_MODEL}"


async def test_each_model_tells_its_workers_its_work_and_what_it_can(
    models: Models, worker: FakeWorker, registry: WorkerRegistry, card: ModelCard
) -> None:
    for name in ("w1", "w2"):
        await registry.announce(name, card)
    await worker.begin()
    await worker.accept()
    other, busy = await models.statuses(ME)
    assert (other.name, other.default, other.ready, other.waiting, other.context_length) == (
        "other",
        False,
        False,
        0,
        None,
    )
    assert (busy.default, busy.ready, busy.ready_workers, busy.waiting, busy.running) == (True, True, 2, 1, 1)
    assert (busy.context_length, busy.abilities) == (card.context_length, card.abilities)


async def test_the_detail_is_the_cluster_s_word_or_the_starting_workers_own(
    redis: Redis, keys: Keys, models: Models, registry: WorkerRegistry, card: ModelCard
) -> None:
    await registry.announce_starting("w1", DEFAULT_MODEL, "loading weights")
    await registry.announce_starting("w2", DEFAULT_MODEL, "loading weights")
    cluster = Capacity("0 of 2 workers ready")
    asked = Models(
        (DEFAULT_MODEL,),
        None,
        lists=TaskLists(redis, keys),
        registry=registry,
        redis_timeout=2,
        capacity=cluster,  # type: ignore[arg-type]  # a stand-in for the cluster
    )
    assert await asked.detail(DEFAULT_MODEL) == "0 of 2 workers ready"
    assert cluster.reports == ["loading weights", "loading weights"]
    cluster.line = None
    assert await asked.detail(DEFAULT_MODEL) == "loading weights"
    assert await models.detail(DEFAULT_MODEL) == "loading weights"
    assert [status.detail for status in await models.statuses(ME)] == ["no worker is ready", "loading weights"]
    await registry.announce("w1", card)
    assert await asked.detail(DEFAULT_MODEL) is None
    assert [status.detail for status in await asked.statuses(ME)] == [None]


async def test_a_caller_sees_and_may_name_only_its_own_models(models: Models) -> None:
    limited = Caller("me", "k", Policy(models=("other", "gone")))
    assert models.chosen(limited, None) == models.chosen(limited, "other") == "other"
    assert [(status.name, status.default) for status in await models.statuses(limited)] == [("other", True)]
    with pytest.raises(UnknownModel) as refused:
        models.chosen(limited, DEFAULT_MODEL)
    assert refused.value.message == f"there is no model {DEFAULT_MODEL!r}; there are: other"
    nothing = Caller("me", "k", Policy(models=("gone",)))
    with pytest.raises(UnknownModel, match="this API key may use none"):
        models.chosen(nothing, None)
