"""Why a pod does not serve yet, in a few words."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from api.cluster.cluster_objects import ContainerStatus, Event, Pod

FETCHING = "fetch-model"
"""Name of the chart's init container that fills the model cache."""
LONGEST_LINE = 200


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
            return PodState(f"{condition.reason}: {_scheduler(condition.message)}")
    containers = [*status.init_container_statuses, *status.container_statuses]
    for container in containers:
        if trouble := _trouble(container):
            return PodState(trouble)
    for container in status.init_container_statuses:
        if container.state.running is not None and not container.ready:
            return PodState("fetching the model" if container.name == FETCHING else f"{container.name} is running")
    if any(container.state.running is not None and not container.ready for container in status.container_statuses):
        return PodState(starting=True)
    if not containers or any(container.state.waiting for container in containers):
        return PodState(_latest(events) or "creating the container", needs_events=True)
    return PodState()


def _scheduler(message: str) -> str:
    """`0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: ...` -> `0/3 nodes have nvidia.com/gpu`."""
    summary = re.split(r"\. |\.$", message)[0]
    match = re.fullmatch(r"(\d+/\d+) nodes are available: \d+ Insufficient ([^\s,]+)", summary)
    return f"{match[1]} nodes have {match[2]}" if match else _line(summary)


def _trouble(container: ContainerStatus) -> str:
    """Empty for a container that waits for nothing but its turn."""
    waiting = container.state.waiting
    ended = container.state.terminated or container.last_state.terminated
    exit_code = f"exit code {ended.exit_code}" if ended else ""
    if waiting and waiting.reason == "CrashLoopBackOff":
        return f"{waiting.reason}: {(ended and _last_line(ended.message)) or exit_code or 'it ends at once'}"
    if waiting and waiting.reason not in ("", "ContainerCreating", "PodInitializing"):
        return f"{waiting.reason}: {_last_line(waiting.message)}".removesuffix(": ")
    if container.state.terminated and container.state.terminated.exit_code:
        return f"{exit_code}: {_last_line(container.state.terminated.message)}".removesuffix(": ")
    return ""


def _latest(events: Sequence[Event]) -> str:
    """The last thing that the kubelet did for the pod, where it explains the wait."""
    for event in sorted(events, key=lambda event: event.moment, reverse=True):
        if event.reason == "Pulling":
            return "pulling image"
        if event.type == "Warning":
            return f"{event.reason}: {_line(event.message)}"
        if event.reason in ("Pulled", "Created", "Started"):
            return ""
    return ""


def _last_line(text: str) -> str:
    """Of a log; where it is JSON, its message."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    if line.startswith("{"):
        with suppress(ValueError, KeyError):
            line = str(json.loads(line)["message"])
    return _line(line)


def _line(text: str) -> str:
    return " ".join(text.split())[:LONGEST_LINE]
