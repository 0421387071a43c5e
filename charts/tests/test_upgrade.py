"""An upgrade keeps what cannot change and what must not: selectors, claims, secrets, names."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helm_python import Chart, HelmError

from charts.generate.release_record import RELEASED, immutable
from charts.tests.rendering import Json, Manifests, Render

from .api_server import ApiServer, api_server


@pytest.mark.parametrize("release", sorted(RELEASED.glob("*.json")), ids=lambda path: path.stem)
def test_an_upgrade_from_a_released_version_changes_nothing_immutable(render: Render, release: Path) -> None:
    for values, before in json.loads(release.read_text()):
        after = immutable(render(values))
        assert {name: after.get(name) for name in before} == before


def test_the_chart_version_is_in_no_selector_and_in_no_pod(manifests: Manifests) -> None:
    for item in manifests.of("Deployment", "StatefulSet"):
        assert "helm.sh/chart" not in json.dumps(item["spec"])


@pytest.fixture
def cluster() -> Iterator[ApiServer]:
    with api_server() as known:
        yield known


def _upgrade(cluster: ApiServer, chart_path: Path, values: Json | None = None, release: str = "headrace") -> Json:
    with Chart.load(chart_path) as chart:
        return cluster.helm.render(chart, values, name=release, namespace="ml", revision=2, is_upgrade=True)


def _password(cluster: ApiServer, chart_path: Path, values: Json | None = None) -> str:
    secret = yaml.safe_load(_upgrade(cluster, chart_path, values)["headrace/templates/redis/secret.yaml"])
    return base64.b64decode(secret["data"]["password"]).decode()


def _metadata(name: str, **annotations: str) -> Json:
    return {"name": name, "namespace": "ml", "annotations": annotations}


def test_a_generated_password_survives_an_upgrade(cluster: ApiServer, chart_path: Path) -> None:
    first = _password(cluster, chart_path)
    assert len(first) == 32
    assert first.isalnum()
    data = {"password": base64.b64encode(first.encode()).decode()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": _metadata("headrace-redis"), "data": data}
    cluster.stored["secrets/headrace-redis"] = secret
    assert _password(cluster, chart_path) == first
    assert _password(cluster, chart_path, {"redis": {"bundled": {"password": "given"}}}) == "given"


def test_a_long_release_of_an_earlier_version_is_told_how_to_keep_its_names(
    cluster: ApiServer, chart_path: Path
) -> None:
    release = "headrace-" + "x" * 44  # as long as Helm allows
    small = {"models": {"m": {"source": "hf://a/b"}}}
    assert _upgrade(cluster, chart_path, small, release)  # installed by this version
    cut = release[:43]
    owned = _metadata(f"{cut}-api", **{"meta.helm.sh/release-name": release})
    cluster.stored[f"services/{cut}-api"] = {"apiVersion": "v1", "kind": "Service", "metadata": owned}
    with pytest.raises(HelmError, match=f"Set fullnameOverride to {cut}\\."):
        _upgrade(cluster, chart_path, small, release)
    kept = _upgrade(cluster, chart_path, {**small, "fullnameOverride": cut}, release)
    assert f"name: {cut}-redis\n" in kept["headrace/templates/redis/statefulset.yaml"]
