"""Why a pod does not serve yet, in a few words."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from api.cluster.cluster_objects import ContainerStatus, Event, Pause, Pod
from api.cluster.one_line import last_line, one_line

FETCHING = "fetch-model"
"""Name of the chart's init container that fills the model cache."""
SERVING = "worker"
"""Name of the chart's container of a worker."""
MEMORY_REMEDIES = {
    SERVING: "raise the model's resources.limits.memory, or lower its slots, contextLength or settings.kvMemoryGib",
    FETCHING: "raise the model's cache.resources.limits.memory",
}
"""By container, in the words of the chart's values."""
SIGKILL_EXIT = 128 + 9
NO_IMAGE = ("ErrImagePull", "ImagePullBackOff")
"""The kubelet's two names for one trouble, which it uses by turns."""


@dataclass(frozen=True, slots=True)
class PodState:
    """What keeps a pod from serving."""

    obstacle: str = ""
    """Empty: nothing that the cluster knows of."""
    starting: bool = False
    """The worker's process runs and is not ready."""
    needs_events: bool = False
    """The pod's events may say more than `obstacle`."""


def pod_state(pod: Pod, events: Sequence[Event]) -> PodState:
    """`events` of this pod, in any order; they matter only while its containers are being made."""
    status = pod.status
    if pod.metadata.deletion_timestamp or status.phase in ("Succeeded", "Failed"):
        return PodState()
    for condition in status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return PodState(f"{condition.reason}: {_scheduler(condition.message, pod)}")
    containers = [*status.init_container_statuses, *status.container_statuses]
    for container in containers:
        waiting = container.state.waiting
        if waiting and waiting.reason in NO_IMAGE:
            return PodState(f"{NO_IMAGE[0]}: {_no_image(waiting, events)}", needs_events=True)
        if trouble := _trouble(container):
            return PodState(trouble, starting=_starting(container))
    for container in status.init_container_statuses:
        if container.state.running is not None and not container.ready:
            return PodState("fetching the model" if container.name == FETCHING else f"{container.name} is running")
    if any(_starting(container) for container in status.container_statuses):
        return PodState(starting=True)
    if not containers or any(container.state.waiting for container in containers):
        return PodState(_latest(events) or "creating the container", needs_events=True)
    return PodState()


def _starting(container: ContainerStatus) -> bool:
    return container.state.running is not None and not container.ready


def _scheduler(message: str, pod: Pod) -> str:
    """`0/3 nodes are available: 3 Insufficient nvidia.com/gpu. ...` -> `0/3 nodes have room for 1 of nvidia.com/gpu`.

    The scheduler says the same of nodes that have none and of nodes whose GPUs are taken.
    """
    summary = re.split(r"\. |\.$", message)[0]
    match = re.fullmatch(
        r"(\d+/\d+) nodes are available: (\d+ Insufficient [^\s,]+(?:, \d+ Insufficient [^\s,]+)*)", summary
    )
    if not match:
        return one_line(summary)
    lacking = re.findall(r"Insufficient ([^\s,]+)", match[2])
    return f"{match[1]} nodes have room for {' and '.join(_wanted(pod, resource) for resource in lacking)}"


def _wanted(pod: Pod, resource: str) -> str:
    """How much of a resource a pod asks for: `2 of nvidia.com/gpu`, with sidecars `4 + 100m of cpu`."""
    amounts = [container.resources.wanted(resource) for container in pod.spec.containers]
    return f"{' + '.join(amount for amount in amounts if amount) or 'more'} of {resource}"


def _no_image(waiting: Pause, events: Sequence[Event]) -> str:
    """Why an image is not here, in the same words whether the kubelet tries, waits to try again, or is of a version
    that tells the cause in an event alone."""
    failures = [event for event in events if event.message.startswith("Failed to pull image")]
    failures.sort(key=lambda event: event.moment)
    told = waiting.message
    if waiting.reason == NO_IMAGE[1] and NO_IMAGE[0] not in told and failures:
        told = failures[-1].message
    cause = re.sub(r'^(Back-off pulling image "[^"]*": )?(ErrImagePull: )?(Failed to pull image "[^"]*": )?', "", told)
    cause = re.sub(r"^rpc error: code = \w+ desc = ", "", cause)
    return one_line(re.sub(r":\d+->", "->", cause))  # the port of one try's connection


def _trouble(container: ContainerStatus) -> str:
    """Empty for a container that waits for nothing but its turn. A crash is told in the same words while the container
    is down, while the kubelet waits, and while it tries again."""
    waiting = container.state.waiting
    ended = container.state.terminated or container.last_state.terminated
    if ended and ended.exit_code and not container.ready:
        return f"CrashLoopBackOff: {_end(container.name, ended)}"
    if waiting and waiting.reason == "CrashLoopBackOff":
        return f"{waiting.reason}: it ends at once"
    if waiting and waiting.reason not in ("", "ContainerCreating", "PodInitializing"):
        return f"{waiting.reason}: {last_line(waiting.message)}".removesuffix(": ")
    return ""


def _end(name: str, ended: Pause) -> str:
    remedy = MEMORY_REMEDIES.get(name, f"raise the memory limit of the container {name}")
    if ended.reason == "OOMKilled":
        return f"OOMKilled: out of memory: {remedy}"
    if ended.exit_code == SIGKILL_EXIT:
        return f"killed (exit code {SIGKILL_EXIT}), probably out of memory: {remedy}"
    return last_line(ended.message) or f"exit code {ended.exit_code}"


def _latest(events: Sequence[Event]) -> str:
    """The last thing that the kubelet did for the pod, where it explains the wait."""
    for event in sorted(events, key=lambda event: event.moment, reverse=True):
        if event.reason == "Pulling":
            return "pulling image"
        if event.type == "Warning":
            return f"{event.reason}: {one_line(event.message)}"
        if event.reason in ("Pulled", "Created", "Started"):
            return ""
    return ""
