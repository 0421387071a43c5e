"""A worker on the scripted engine, inside the test's own loop or as a process; a real engine; a ledger client."""

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import llguidance.hf
import pytest
from celery import Celery
from llguidance import LLTokenizer
from redis.asyncio import Redis
from transformers import PreTrainedTokenizerFast

from shared.celery_app import make_celery
from shared.settings import SharedSettings
from shared.store.keys import Keys
from testbed.celery_view import celery_client
from testbed.live_worker import LiveWorker, StartLive, live
from testbed.real_engine import RealEngine
from testbed.task_client import LEASE_SECONDS, SCRIPTED_MODEL, TaskClient
from testbed.waiting import until
from testbed.worker_process import StartWorker, WorkerProcess
from worker.engine_options import PACKAGED_MODEL, TransformersOptions
from worker.engines.checkpoint.tokenizer import load_tokenizer
from worker.settings import WorkerSettings


@pytest.fixture(scope="session")
def smollm2() -> PreTrainedTokenizerFast:
    """The real tokenizer of the packaged model."""
    return load_tokenizer(TransformersOptions(model_source=PACKAGED_MODEL))


@pytest.fixture(scope="session")
def vocabulary(smollm2: PreTrainedTokenizerFast) -> LLTokenizer:
    return llguidance.hf.from_tokenizer(smollm2)


@pytest.fixture
def app(shared_settings: SharedSettings) -> Iterator[Celery]:
    app = make_celery(shared_settings)
    yield app
    app.close()


@pytest.fixture
def client(redis: Redis, keys: Keys, app: Celery, shared_settings: SharedSettings) -> Iterator[TaskClient]:
    with celery_client(shared_settings.redis_url.get_secret_value()) as waiting:
        yield TaskClient(redis, keys, app, waiting)


@pytest.fixture
def worker_settings(shared_settings: SharedSettings) -> WorkerSettings:
    """Of a worker on the scripted engine, as patient as a test is."""
    return WorkerSettings(
        redis_url=shared_settings.redis_url,
        redis_timeout=2,
        model_name=SCRIPTED_MODEL,
        model_source="scripted:?token_ms=10",
        worker_name="worker-under-test",
        lease_seconds=LEASE_SECONDS,
        engine_stall_seconds=2,
        drain_seconds=1,
        handover_seconds=4,
        internal_port=0,
        stop_loops=False,
    )


def changed(settings: WorkerSettings, changes: dict[str, Any]) -> WorkerSettings:
    """Settings as if somebody had written them so: what follows from a value follows from the new one."""
    return WorkerSettings(**{**settings.model_dump(exclude={"engine"}, exclude_defaults=True), **changes})


@pytest.fixture
async def start_live(worker_settings: WorkerSettings) -> AsyncIterator[StartLive]:
    """Starts workers without Celery; keyword arguments change their settings."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**changes: Any) -> LiveWorker:
            return await stack.enter_async_context(live(changed(worker_settings, changes)))

        yield start


@pytest.fixture
async def start_worker(
    worker_settings: WorkerSettings, client: TaskClient, tmp_path: Path
) -> AsyncIterator[StartWorker]:
    """Starts worker processes and waits until they take tasks; their logs are shown when the test fails."""
    workers: list[WorkerProcess] = []

    async def start(*, wait: bool = True, startup_seconds: float = 30, **changes: Any) -> WorkerProcess:
        number = len(workers) + 1
        changes = {"worker_name": f"worker-{number}", **changes}
        worker = WorkerProcess(changed(worker_settings, changes), tmp_path / f"worker-{number}.log")
        workers.append(worker)

        async def registered() -> bool:
            assert worker.running, worker.log.read_text()
            return b"worker-%d" % number in await client.redis.zrange(client.keys.workers(SCRIPTED_MODEL), 0, -1)

        if wait:
            await until(registered, startup_seconds)
        return worker

    yield start
    for worker in workers:
        worker.kill()
        sys.stdout.write(f"--- {worker.log.name}\n{worker.log.read_text()}")


@pytest.fixture(scope="session")
def engine_options() -> TransformersOptions:
    """The packaged model, converted where `headrace up` keeps it too: once per machine."""
    kv_memory_gib = 0.055  # 80 pages of 16 tokens: a full context fits, eight long answers do not
    return TransformersOptions(
        model_source=PACKAGED_MODEL, slots=8, context_length=1024, kv_memory_gib=kv_memory_gib, threads=2
    )


@pytest.fixture(scope="session")
def real_engine(engine_options: TransformersOptions) -> Iterator[RealEngine]:
    """The packaged model in its process."""
    engine = RealEngine(engine_options)
    yield engine
    assert engine.close() == 0


@pytest.fixture(scope="session")
def tiny_model(engine_options: TransformersOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of two layers and random weights, behind the packaged model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model")
    load_tokenizer(engine_options).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        eos_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
