"""Every manifest is what Kubernetes and the operators accept, for every set of values."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate import utils
from pydantic import BaseModel

from charts.tests.rendering import Json, Manifests, Render

TYPED = {"ScaledObject", "ServiceMonitor", "PodMonitor"}
UNTYPED = {"HTTPRoute"}
"""Neither in Kubernetes' own schemas nor in a package of types; test_routes.py looks at it field by field."""


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once() -> Any:
    # kubernetes-validate reads 5 MB of JSON for each object.
    original = utils.schema_contents
    utils.schema_contents = cache(original)
    yield
    utils.schema_contents = original


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_kubernetes_accepts_every_object_strictly(manifests: Manifests, version: str) -> None:
    assert manifests.all
    for item in manifests.all:
        if item["kind"] not in {*TYPED, *UNTYPED}:
            _accepted(json.dumps(item, sort_keys=True), version)


@cache
def _accepted(item: str, version: str) -> None:
    """Once per object, however many sets of values have it."""
    kubernetes_validate.validate(json.loads(item), version, strict=True)


def test_operators_know_every_field(manifests: Manifests) -> None:
    types = _operator_types()
    for item in manifests.of(*TYPED):
        parsed = types[item["kind"]].model_validate(item)
        assert parsed.model_dump(mode="json", by_alias=True, exclude_unset=True) == item


@cache
def _operator_types() -> dict[str, type[BaseModel]]:
    # Imported where they are used: seconds, which every process that collects the tests would spend.
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor, ServiceMonitor

    return {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor, "PodMonitor": PodMonitor}


def test_names_are_unique_and_fit(manifests: Manifests) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in manifests.all]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


def test_every_object_is_in_the_namespace_and_says_whose_it_is(manifests: Manifests) -> None:
    for item in manifests.all:
        if item["metadata"]["name"].endswith(("-x", "-y")):
            continue  # the user's own
        assert item["metadata"]["namespace"] == "ml"
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "headrace"
        assert labels["app.kubernetes.io/component"] in ("api", "worker", "redis", "test")


def test_an_image_as_source_is_a_volume_of_new_clusters(render: Render) -> None:
    manifests = render({"models": {"m": {"source": "image://registry.example.com/models/qwen:1#q4/model.gguf"}}})
    for item in manifests.all:
        kubernetes_validate.validate(item, "1.33", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifests.one("Deployment", "worker-m"), "1.29", strict=True)


def test_the_same_values_render_the_same_manifests_twice(case: Json, chart_path: Path) -> None:
    from helm_python import Chart

    with Chart.load(chart_path) as first, Chart.load(chart_path) as second:
        once, again = (chart.render(case, name="headrace", namespace="ml") for chart in (first, second))
    different = [name for name in once if once[name] != again[name]]
    external = case.get("redis", {}).get("external") or case.get("redis", {}).get("bundled", {}).get("existingSecret")
    # The one generated password, which an installation makes once and finds again in the cluster.
    assert different == ([] if external else ["headrace/templates/redis/secret.yaml"])
    fixed = {**case, "redis": {**case.get("redis", {}), "bundled": {"password": "given"}}} if not external else case
    with Chart.load(chart_path) as first, Chart.load(chart_path) as second:
        once, again = (chart.render(fixed, name="headrace", namespace="ml") for chart in (first, second))
    assert once == again
