"""The chart rendered by Helm itself, once per set of values."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

from charts.generate.chart_files import CHART

Json = dict[str, Any]
Render = Callable[..., "Manifests"]


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


def container(manifests: Manifests, kind: str, name: str, container: str) -> Json:
    """One container of a workload."""
    spec = manifests.one(kind, name)["spec"]["template"]["spec"]
    return next(one for one in spec["containers"] if one["name"] == container)


def env(container: Json) -> dict[str, Any]:
    """Name -> value, or where it comes from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", [])}
