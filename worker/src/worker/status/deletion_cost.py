"""A busy worker raises its pod's deletion cost, so that scaling in takes an idle one."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.in_cluster import NoCluster, api_client

if TYPE_CHECKING:
    from kubernetes.aio.client import CoreV1Api

log = logging.getLogger(__name__)

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
BUSY_COST = 1000
"""Any number above the 0 of a pod without the annotation."""
IDLE_SECONDS = 10.0
"""A worker between two tasks is not idle yet: the API server is spared an annotation per task."""
LOOK_SECONDS = 0.5
RETRY_SECONDS = 5.0
REQUEST_SECONDS = 5.0


class DeletionCost:
    """Writes the annotation on the edges between idle and busy, and only then."""

    def __init__(
        self,
        core: "CoreV1Api",
        namespace: str,
        pod: str,
        busy: Callable[[], bool],
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._core = core
        self._namespace = namespace
        self._pod = pod
        self._busy = busy
        self._idle_seconds = idle_seconds
        self._written = 0
        """What the API server knows; a new pod has no annotation, which counts as 0."""

    async def run(self) -> None:
        """Follows the worker for ever. A cluster that refuses costs a wrong choice at scale-in, nothing else."""
        clock = asyncio.get_running_loop().time
        busy_at = float("-inf")
        while True:
            pause = LOOK_SECONDS
            if self._busy():
                busy_at = clock()
            cost = BUSY_COST if clock() - busy_at < self._idle_seconds else 0
            if cost != self._written and not await self._write(cost):
                pause = RETRY_SECONDS
            await asyncio.sleep(pause)

    async def _write(self, cost: int) -> bool:
        from aiohttp import ClientError
        from kubernetes.aio.client import ApiException

        body = {"metadata": {"annotations": {ANNOTATION: str(cost)}}}
        try:
            # Through the status: the right to write it does not include the right to change what a pod runs.
            await self._core.patch_namespaced_pod_status(
                self._pod,
                self._namespace,
                body,
                _content_type="application/strategic-merge-patch+json",
                _request_timeout=REQUEST_SECONDS,
            )
        except (ApiException, ClientError, OSError) as error:
            log.warning("The deletion cost of the pod %s could not be set to %d: %s", self._pod, cost, error)
            return False
        self._written = cost
        return True


async def keep_deletion_cost(pod: str, busy: Callable[[], bool]) -> None:
    """`DeletionCost.run` with this pod's own service account. Outside of a cluster it says so and returns."""
    try:
        async with api_client("core_v1_api") as (client, namespace):
            from kubernetes.aio.client import CoreV1Api

            await DeletionCost(CoreV1Api(client), namespace, pod, busy).run()
    except NoCluster as error:
        log.warning("The deletion cost stays as it is, there is no cluster to tell: %s", error)
