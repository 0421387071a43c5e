"""The chart rendered by Helm itself, once per set of values; and the sets of values that every test walks through."""

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Chart

CHART = Path(__file__).parents[1] / "headrace"
QWEN = {"source": "hf://Qwen/Qwen2.5-14B-Instruct", "gpu": {"count": 1}}

Json = dict[str, Any]
Render = Callable[..., "Manifests"]

CASES: dict[str, Json] = {
    "no values": {},
    **{path.stem: yaml.safe_load(path.read_text()) for path in sorted(CHART.glob("values-*.yaml"))},
    "two models under keda": {
        "autoscaling": {"provider": "keda"},
        "models": {
            "big": {**QWEN, "scaling": {"min": 0, "max": 4}},
            "big-2": {**QWEN, "scaling": {"min": 1, "max": 2}},
        },
    },
    "hpa": {
        "autoscaling": {"provider": "hpa"},
        "models": {"big": {**QWEN, "scaling": {"min": 1, "max": 4}}},
        "api": {"autoscaling": {"enabled": True}},
    },
    "a claim as source": {"models": {"m": {"source": "pvc://claim/folder/model"}}},
    "ingress": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "controller": "ingress-nginx",
            "hosts": ["llm.example.com"],
            "tls": [{"secretName": "tls", "hosts": ["llm.example.com"]}],
        },
        "auth": {"apiKeys": {"secret-key": "team-a"}},
    },
    "policies around the bundled Valkey": {
        "networkPolicy": {"enabled": True},
        "telemetry": {"otlp": {"endpoint": "http://collector:4318", "protocol": "http/protobuf", "headersSecret": "o"}},
        "models": {"big": QWEN},
    },
    "sentinel": {
        "redis": {
            "external": {"url": "sentinel://:$(REDIS_PASSWORD)@a:26379;sentinel://b:26379/0", "existingSecret": "r"}
        }
    },
    "a password in the URL": {"redis": {"external": {"url": "redis://:pw@redis.example.com:6379/0"}}},
    "existing secrets": {"redis": {"bundled": {"existingSecret": "r"}}, "auth": {"existingSecret": "keys"}},
    "nothing optional": {
        "api": {
            "capacity": {"enabled": False},
            "podDisruptionBudget": {"enabled": False},
            "serviceAccount": {"create": False},
        },
        "worker": {"deletionCost": False, "serviceAccount": {"create": False}},
        "modelDefaults": {"podDisruptionBudget": {"enabled": False}},
        "helmTest": {"enabled": False},
        "redis": {"bundled": {"persistence": {"enabled": False}}},
    },
    "everything that users add": {
        "commonLabels": {"team": "ml"},
        "commonAnnotations": {"owner": "ml"},
        "settings": {"leaseSeconds": 20, "logLevel": "DEBUG", "logLevels": {"celery": "WARNING", "shared": "INFO"}},
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-y'}",
        ],
        **{
            component: {
                "labels": {"l": "1"},
                "annotations": {"a": "1"},
                "podLabels": {"pl": "1"},
                "podAnnotations": {"pa": "1"},
                "nodeSelector": {"n": "1"},
                "tolerations": [{"key": "t", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {}},
                "topologySpreadConstraints": [
                    {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
                ],
                "priorityClassName": "high",
                "runtimeClassName": "gvisor",
                "extraEnv": [{"name": "E", "value": "1"}],
                "extraEnvFrom": [{"secretRef": {"name": "s"}}],
                "extraVolumes": [{"name": "v", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "v", "mountPath": "/v"}],
                "initContainers": [{"name": "i", "image": "busybox", "command": ["true"]}],
                "sidecars": [{"name": "s", "image": "busybox", "command": ["sleep", "inf"]}],
            }
            for component in ("api", "modelDefaults")
        },
        "models": {"a": {**QWEN, "cache": {"enabled": True, "keep": True}, "hub": {"tokenSecret": "hub"}}},
        "api": {
            "tools": [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}],
            "settings": {"maxWaiting": 7, "tenantRate": "600/minute", "loopPrevention": False},
            "extraEnv": [{"name": "E", "value": "1"}],
        },
        "telemetry": {"scrapeAnnotations": True, "resourceAttributes": {"deployment.environment.name": "test"}},
    },
}


class Manifests:
    """What Helm renders from one set of values."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        self.notes = next((text for name, text in texts.items() if name.endswith("NOTES.txt")), "")
        self.all: list[Json] = [
            document
            for name, text in texts.items()
            if not name.endswith("NOTES.txt")
            for document in yaml.load_all(text, yaml.CSafeLoader)
            if document
        ]

    def of(self, *kinds: str) -> list[Json]:
        """All objects of these kinds."""
        return [found for found in self.all if found["kind"] in kinds]

    def one(self, kind: str, name: str) -> Json:
        """The object whose name ends so."""
        found = [item for item in self.of(kind) if item["metadata"]["name"].endswith(name)]
        assert len(found) == 1, (kind, name, [item["metadata"]["name"] for item in found])
        return found[0]

    def pods(self) -> Iterator[tuple[str, Json]]:
        """Name and pod spec of everything that runs."""
        for item in self.of("Deployment", "StatefulSet"):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]
        for item in self.of("Pod"):
            yield item["metadata"]["name"], item["spec"]


@cache
def _chart(path: Path) -> Chart:
    return Chart.load(path)


@cache
def _rendered(path: Path, values: str, release: str) -> "Manifests":
    return Manifests(_chart(path).render(json.loads(values), name=release, namespace="ml"))


def render_chart(values: Json | None = None, *, release: str = "headrace", chart: Path = CHART) -> Manifests:
    """Renders offline, once for all tests: they only look. Raises HelmError when the values are refused."""
    return _rendered(chart, json.dumps(values or {}, sort_keys=True), release)


@pytest.fixture
def render() -> Render:
    return render_chart


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> Json:
    """Each set of values in turn."""
    return copy.deepcopy(CASES[request.param])


@pytest.fixture
def manifests(case: Json) -> Manifests:
    return render_chart(case)


def container(manifests: Manifests, kind: str, name: str, container: str) -> Json:
    """One container of a workload."""
    spec = manifests.one(kind, name)["spec"]["template"]["spec"]
    return next(one for one in spec["containers"] if one["name"] == container)


def env(container: Json) -> dict[str, Any]:
    """Name -> value, or where it comes from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", [])}


@pytest.fixture
def chart_path() -> Path:
    return CHART
