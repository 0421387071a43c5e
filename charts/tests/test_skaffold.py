"""skaffold.yaml names what exists: Dockerfiles, sources, values, profiles that can be applied and rendered."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.generate.chart_files import CHART
from charts.tests.rendering import Json, container, render_chart

ROOT = Path(__file__).parents[2]
FULL = {"api.image": "headrace-api:dev@sha256:0", "modelDefaults.image": "headrace-worker:dev@sha256:0"}


def _skaffold(profile: str | None = None) -> Json:
    """The configuration with a profile's patches applied (JSON Patch, of which only `add` is used)."""
    config: Json = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    for patch in next((one["patches"] for one in config["profiles"] if one["name"] == profile), []):
        assert patch["op"] == "add"
        *parents, last = patch["path"].strip("/").split("/")
        target: Any = config
        for step in parents:
            target = target[int(step) if isinstance(target, list) else step]
        if last == "-":
            target.append(patch["value"])
        else:
            target[last] = patch["value"]
    return config


def _merged(base: Json, over: Json) -> Json:
    merged = copy.deepcopy(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def test_both_images_are_built_from_their_dockerfiles() -> None:
    artifacts = _skaffold()["build"]["artifacts"]
    assert [artifact["image"] for artifact in artifacts] == ["headrace-api", "headrace-worker"]
    for artifact in artifacts:
        dockerfile = (ROOT / artifact["docker"]["dockerfile"]).read_text()
        for argument in artifact["docker"]["buildArgs"]:
            assert f"ARG {argument}=" in dockerfile


def test_synchronised_sources_exist_and_land_beside_the_installed_ones() -> None:
    for artifact in _skaffold()["build"]["artifacts"]:
        for rule in artifact["sync"]["manual"]:
            found = list(ROOT.glob(rule["src"]))
            assert found, rule["src"]
            assert all(str(path.relative_to(ROOT)).startswith(rule["strip"]) for path in found)


@pytest.mark.parametrize("profile", [None, "cpu", "gpu"])
def test_every_profile_renders(profile: str | None) -> None:
    config = _skaffold(profile)
    (release,) = config["deploy"]["helm"]["releases"]
    values: Json = {}
    for path in release["valuesFiles"]:
        values = _merged(values, yaml.safe_load((ROOT / path).read_text()))
    for key in release["setValueTemplates"]:
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = FULL[key]
    manifests = render_chart(values)
    assert ROOT / release["chartPath"] == CHART
    assert container(manifests, "Deployment", "-api", "api")["image"] == FULL["api.image"]
    workers = [item for item in manifests.of("Deployment") if "-worker-" in item["metadata"]["name"]]
    for worker in workers:
        first = worker["spec"]["template"]["spec"]["containers"][0]
        assert first["image"] == FULL["modelDefaults.image"]
        assert first["command"][0] == "watchfiles"
    arguments = config["build"]["artifacts"][1]["docker"]["buildArgs"]
    assert (arguments.get("TORCH_VARIANT") == "cpu") == (profile == "cpu")


def test_the_forwarded_service_exists() -> None:
    (forward,) = _skaffold()["portForward"]
    service = render_chart().one("Service", forward["resourceName"])
    assert service["spec"]["ports"][0]["port"] == forward["port"]
