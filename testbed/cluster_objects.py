"""Objects as a Kubernetes API server writes them, as far as Headrace reads them."""

from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)


def deployment(model: str, *, desired: int, ready: int | None = None, **status: Any) -> Json:
    return {
        "metadata": {"name": f"headrace-worker-{model}", "labels": {"headrace/model": model}},
        "spec": {"replicas": desired},
        "status": status if ready is None else {"readyReplicas": ready, **status},
    }


def pod(model: str, name: str, wants: Json | None = None, **status: Any) -> Json:
    return {
        "metadata": {"name": name, "labels": {"headrace/model": model}},
        "spec": {"containers": [{"name": "worker", "resources": {"limits": wants or {}}}]},
        "status": {"phase": "Pending", **status},
    }


def creating(name: str = "worker") -> Json:
    return {"name": name, "ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {}}


def unschedulable(message: str) -> Json:
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}


def event(name: str, reason: str, message: str, *, seconds: int, kind: str = "Normal") -> Json:
    return {
        "involvedObject": {"kind": "Pod", "name": name},
        "type": kind,
        "reason": reason,
        "message": message,
        "lastTimestamp": (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z"),
    }
