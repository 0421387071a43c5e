"""One installation of the chart by Helm itself, and questions to it."""

import asyncio
import copy
import functools
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import httpx
from helm_python import Config

from headrace import Client
from shared.settings import SharedSettings
from shared.store.keys import Keys
from testbed.history import History, follow
from worker.engines.scripted.script import WORDS

from .cluster import START_SECONDS, Cluster, until
from .doors import Doors

CHART = Path(__file__).parents[1] / "charts" / "headrace"
SEED = 7
STREAM_SECONDS = 600.0
"""Within which a task that is being served has ended, new pods included."""

READ_FIELD = """
import os, redis, sys
print(redis.Redis.from_url(os.environ["HEADRACE_REDIS_URL"], decode_responses=True).hget(*sys.argv[1:]))
"""
"""For a pod of API or worker: it knows where Redis is, whichever Redis that is."""

Json = dict[str, Any]


def merged(*values: Json) -> Json:
    """Later ones win, field by field, as with several `--values` of Helm."""
    result: Json = {}
    for one in values:
        for key, value in one.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def scripted_text(words: int) -> str:
    """What the scripted engine answers: word i depends on the seed and on i alone."""
    return "".join(WORDS[zlib.crc32(index.to_bytes(4), SEED) % len(WORDS)] for index in range(words))


class Release:
    """A Helm release whose name is also the prefix of its objects."""

    def __init__(self, cluster: Cluster, helm: Config, name: str, values: Json) -> None:
        self.cluster = cluster
        self.name = name
        self.values = values
        self.api = f"{name}-api"
        self._helm = helm
        self.doors = Doors(cluster, self.selector("api"))

    def selector(self, component: str) -> str:
        return f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"

    def worker(self, model: str) -> str:
        """Name of the Deployment of a model's workers."""
        return f"{self.name}-worker-{model}"

    def install(self) -> None:
        self._helm.install(str(CHART), self.name, self.values, namespace=self.cluster.namespace)

    def upgrade(self, values: Json | None = None) -> None:
        """To the installation's own values, changed by these."""
        self._helm.upgrade(str(CHART), self.name, merged(self.values, values or {}), namespace=self.cluster.namespace)

    def test(self) -> str:
        """`helm test --logs`; raises HelmError when the test fails."""
        return str(self._helm.test(self.name, timeout=int(START_SECONDS), logs=True).get("logs"))

    def uninstall(self) -> None:
        self.doors.close()
        self._helm.uninstall(self.name, ignore_not_found=True)
        # Helm leaves the pod of `helm test`; the namespace takes it along.
        everything = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component!=test"
        core, namespace = self.cluster.core, self.cluster.namespace
        until(
            lambda: not core.list_namespaced_pod(namespace, label_selector=everything).items,
            START_SECONDS,
            f"the last pod of {self.name} is gone",
        )

    def until_ready(self, *models: str) -> None:
        """Waits for Redis, the API and the workers of these models."""
        redis = self.selector("redis")
        until(lambda: bool(self.cluster.ready_pods(redis)), START_SECONDS, f"{self.name}: Redis is ready")
        for deployment in (self.api, *map(self.worker, models)):
            until(functools.partial(self.cluster.rolled_out, deployment), START_SECONDS, f"{deployment} is ready")

    def ask(self, model: str, words: int) -> "Reader":
        """Asks a scripted model for so many words and reads the answer in the background."""
        with Client(next(iter(self.doors))) as client:
            options: Any = {"model": model, "seed": SEED, "max_tokens": 8000, "timeout_seconds": STREAM_SECONDS}
            return Reader(self.doors, client.create(f"!tokens {words}", **options))

    def holder(self, history: History) -> str:
        """The worker pod that runs the task, as the ledger has it."""
        return self.recorded(history, "worker")

    def recorded(self, history: History, field: str) -> str:
        """A field of the task's record, read by a ready pod of API or worker."""
        pods = [*self.cluster.ready_pods(self.selector("api")), *self.cluster.ready_pods(self.selector("worker"))]
        key = Keys(SharedSettings().key_prefix).task(history.task_id)
        return self.cluster.execute(pods[0], "python", "-c", READ_FIELD, key, field) if pods else ""


class Reader:
    """A client that reads one task's stream in a thread, and resumes at any ready replica when it is cut off."""

    def __init__(self, doors: Doors, task_id: str) -> None:
        self.history = History(task_id, time.monotonic() + STREAM_SECONDS)
        self._doors = doors
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()), daemon=True)
        self._thread.start()

    async def _follow(self) -> None:
        async with httpx.AsyncClient(timeout=httpx.Timeout(20, read=40)) as client:
            await follow(client, self._doors, self.history, self.history.deadline)

    def until_tokens(self, count: int) -> None:
        """Returns in the middle of an answer."""
        until(lambda: len(self.history.of("token")) >= count, STREAM_SECONDS, f"{count} tokens\n{self.story}")
        assert not self.history.ended, f"the answer was too short for this test\n{self.story}"

    def until_told(self, *words: str) -> str:
        """The first PENDING detail with all these words."""

        def found() -> list[str]:
            return [detail for detail in self.details if all(word in detail for word in words)]

        until(lambda: bool(found()) or self.history.ended, START_SECONDS, f"a detail with {words}\n{self.story}")
        assert found(), f"no detail with {words}\n{self.story}"
        return found()[0]

    @property
    def details(self) -> list[str]:
        """What the client has been told while it waited, in order."""
        return [one.data["detail"] for one in self.history.of("status") if one.data.get("detail")]

    @property
    def attempts(self) -> list[int]:
        return [one.data["attempt"] for one in self.history.of("status") if one.data["state"] == "STARTED"]

    @property
    def story(self) -> str:
        return self.history.describe()

    def finish(self) -> History:
        """The whole history; judge it with `check_client`."""
        self._thread.join(STREAM_SECONDS + 60)
        assert not self._thread.is_alive(), self.story
        return self.history
