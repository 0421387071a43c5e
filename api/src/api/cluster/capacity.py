"""What the cluster is doing about a model without a ready worker, in words for the client that waits."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from api.cluster.cluster_objects import Deployment, Event, ListOf, Pod
from api.cluster.one_line import one_line
from api.cluster.pod_state import pod_state
from shared.in_cluster import NoCluster, api_client

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from kubernetes.aio.client import AppsV1Api, CoreV1Api

log = logging.getLogger(__name__)

MODEL_LABEL = "headrace/model"
"""On the chart's worker Deployments and their pods."""
MAX_AGE_SECONDS = 2.0
"""All waiting clients of a replica are told from one look at the cluster."""
MAX_AGE_OF_FAILURE_SECONDS = 10.0
LOOK_SECONDS = 10.0
"""A look that takes longer is given up."""
PATIENCE_SECONDS = 1.0
"""How long a position update waits for the cluster's reply; what comes later is told the next time."""
EVENTS_OF_PODS = 3
"""Pods per look whose events are read; they tell `pulling image` from other ways of not running yet."""
LONGEST_DETAIL = 400
NAME_OF_A_REFUSED_POD = r'^pods "[^"]*" is forbidden: '


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers of one model as the cluster sees them."""

    desired: int
    ready: int
    obstacles: tuple[str, ...]
    """Why there are fewer than desired."""
    starting: bool
    """A worker's process runs and is not ready: it knows more about that itself."""


class Capacity:
    """Reads pods, deployments and events of one namespace; at most one look in `max_age` seconds."""

    def __init__(
        self, core: "CoreV1Api", apps: "AppsV1Api", namespace: str, selector: str, *, max_age: float = MAX_AGE_SECONDS
    ) -> None:
        """`selector`: label selector of the installation's worker Deployments and of their pods."""
        self._core = core
        self._apps = apps
        self._namespace = namespace
        self._selector = selector
        self._max_age = max_age
        self._look: asyncio.Task[None] | None = None
        """Under way."""
        self._workers: dict[str, Workers] = {}
        self._look_again_at = float("-inf")
        self._failing = False

    async def detail(self, model: str, reports: Iterable[str]) -> str | None:
        """One line; `reports` is what starting workers say of themselves. None: the cluster has no answer."""
        if self._look is None and asyncio.get_running_loop().time() >= self._look_again_at:
            self._look = asyncio.create_task(self._look_once())
        if self._look is not None:
            await asyncio.wait([self._look], timeout=PATIENCE_SECONDS)
        workers = self._workers.get(model)
        if workers is None:
            return None
        said = sorted(set(reports)) or (["starting"] if workers.starting and not workers.obstacles else [])
        news = [*workers.obstacles, *said]
        if workers.desired == 0 and not news:
            return "scaled to zero: waiting for the autoscaler to start a worker"
        line = f"{workers.ready} of {workers.desired} workers ready"
        return one_line(f"{line}: {'; '.join(news)}" if news else line, LONGEST_DETAIL)

    async def close(self) -> None:
        """Gives up the look that is under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)

    async def _look_once(self) -> None:
        from aiohttp import ClientError

        age = self._max_age
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                self._workers = await self._read()
            self._failing = False
        except (ClientError, OSError, ValidationError) as error:  # TimeoutError is an OSError
            if not self._failing:
                log.warning("The cluster does not say what it is doing: %s", str(error) or type(error).__name__)
            self._failing, self._workers, age = True, {}, MAX_AGE_OF_FAILURE_SECONDS
        finally:
            self._look = None
            self._look_again_at = asyncio.get_running_loop().time() + age

    async def _read(self) -> dict[str, Workers]:
        # Without preloading: parsing into the client's own objects costs ten times what ours do.
        replies = await asyncio.gather(
            self._apps.list_namespaced_deployment_without_preload_content(
                self._namespace, label_selector=self._selector
            ),
            self._core.list_namespaced_pod_without_preload_content(self._namespace, label_selector=self._selector),
        )
        deployments = ListOf[Deployment].model_validate_json(await _body(replies[0])).items
        pods = ListOf[Pod].model_validate_json(await _body(replies[1])).items
        events = await self._events_of([pod.metadata.name for pod in pods if pod_state(pod, ()).needs_events])
        return {
            model: _workers(deployment, [pod for pod in pods if pod.metadata.labels.get(MODEL_LABEL) == model], events)
            for deployment in deployments
            if (model := deployment.metadata.labels.get(MODEL_LABEL))
        }

    async def _events_of(self, pods: Sequence[str]) -> dict[str, list[Event]]:
        found: dict[str, list[Event]] = {}
        for pod in pods[:EVENTS_OF_PODS]:
            selector = f"involvedObject.kind=Pod,involvedObject.name={pod}"
            reply = await self._core.list_namespaced_event_without_preload_content(
                self._namespace, field_selector=selector
            )
            found[pod] = ListOf[Event].model_validate_json(await _body(reply)).items
        return found


async def _body(reply: "ClientResponse") -> bytes:
    """Raises ClientError when the API server refuses."""
    reply.raise_for_status()
    return await reply.read()


def _workers(deployment: Deployment, pods: Sequence[Pod], events: Mapping[str, Sequence[Event]]) -> Workers:
    states = [pod_state(pod, events.get(pod.metadata.name, ())) for pod in pods]
    # Pods that the cluster did not even make: a quota, a policy. Without the pod's name, which is another at each try.
    refused = {
        f"{condition.reason}: {one_line(re.sub(NAME_OF_A_REFUSED_POD, '', condition.message))}"
        for condition in deployment.status.conditions
        if condition.type == "ReplicaFailure" and condition.status == "True"
    }
    return Workers(
        desired=deployment.spec.replicas,
        ready=deployment.status.ready_replicas,
        obstacles=tuple(sorted(refused | {state.obstacle for state in states if state.obstacle})),
        starting=any(state.starting for state in states),
    )


@asynccontextmanager
async def capacity_of_this_cluster(selector: str) -> AsyncIterator[Capacity | None]:
    """With this pod's own service account. Without a selector, or outside of a cluster (it then says so): None."""
    if not selector:
        yield None
        return
    async with AsyncExitStack() as stack:
        capacity: Capacity | None = None
        try:
            client, namespace = await stack.enter_async_context(api_client("core_v1_api", "apps_v1_api"))
        except NoCluster as error:
            log.warning("Waiting clients will not be told what the cluster is doing: %s", error)
        else:
            from kubernetes.aio.client import AppsV1Api, CoreV1Api

            capacity = Capacity(CoreV1Api(client), AppsV1Api(client), namespace, selector)
            stack.push_async_callback(capacity.close)
        yield capacity
