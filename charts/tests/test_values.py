"""Values: what is misspelt, contradictory or renamed is refused in words; schema and README follow from values.yaml."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from helm_python import HelmError, HelmRenderError, HelmValuesError

from charts.generate.chart_files import generated
from charts.tests.cases import QWEN
from charts.tests.rendering import Json, render_chart
from worker.engine_options import TransformersOptions, VllmOptions


def test_schema_and_readme_are_up_to_date() -> None:
    for path, text in generated().items():
        assert path.read_text() == text, f"{path.name} is stale: run `python -m charts.generate`"


def test_every_default_passes_its_own_schema(chart_path: Path) -> None:
    with helm_python.Chart.load(chart_path) as chart:
        chart.validate_schema({})
        chart.validate_schema(chart.values)


def test_every_fixed_object_of_the_schema_is_closed(chart_path: Path) -> None:
    schema = json.loads((chart_path / "values.schema.json").read_text())

    def walk(path: str, part: Any) -> None:
        if isinstance(part, dict):
            if "properties" in part:
                assert part.get("additionalProperties") is not None or path.endswith("renamed"), path
            for name, inner in part.items():
                walk(f"{path}/{name}", inner)

    walk("", schema)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"modles": {}}, "modles"),
        ({"models": {"m": {"sorce": "hf://a/b"}}}, "sorce"),
        ({"models": {"m": {**QWEN, "scaling": {"maximum": 3}}}}, "maximum"),
        ({"api": {"settings": {"maxWating": 3}}}, "maxWating"),
        ({"models": {"m": {**QWEN, "settings": {"modelName": "x"}}}}, "modelName"),
        ({"api": {"resources": {"limit": {}}}}, "limit"),
        ({"gpuProfiles": {"x": {"resourse": "y"}}}, "resourse"),
        ({"autoscaling": {"provider": "cron"}}, "/autoscaling/provider"),
        ({"models": {"m": {**QWEN, "quantization": "int4"}}}, "/models/m/quantization"),
        ({"models": {"m": {"source": "Qwen/Qwen2.5"}}}, "/models/m/source"),
        ({"models": {"m": {**QWEN, "engine": "tgi"}}}, "/models/m/engine"),
        ({"models": {"m": {**QWEN, "settings": {"tensorParallel": 2}}}}, "tensorParallel"),
    ],
)
def test_a_mistake_fails_with_its_name(values: Json, name: str) -> None:
    with pytest.raises(HelmValuesError, match=name):
        render_chart(values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"models": {"m": {}}}, "models.m.source is empty"),
        ({"models": {"m": {**QWEN, "scaling": {"min": 3, "max": 1}}}}, "scaling.min is 3 and larger than scaling.max"),
        ({"models": {"m": {**QWEN, "scaling": {"min": 0, "max": 1}}}}, "nothing but KEDA would ever start"),
        ({"models": {"m": {**QWEN, "gpu": {"count": 1, "profile": "tpu"}}}}, "not in gpuProfiles \\(default\\)"),
        ({"models": {"m": {"source": "hf://a/b", "quantization": "bitsandbytes-4bit"}}}, "bitsandbytes needs a GPU"),
        ({"models": {"m": {**QWEN, "source": "/m.gguf", "quantization": "bitsandbytes-4bit"}}}, "quantized already"),
        ({"models": {"m": {"source": "hf://a/b", "engine": "vllm"}}}, "engine is vllm, but gpu.count is 0"),
        (
            {"models": {"m": {**QWEN, "engine": "vllm", "quantization": "bitsandbytes-4bit"}}},
            "the engine vllm quantizes nothing",
        ),
        ({"models": {"m": {**QWEN, "cache": {"enabled": True}, "scaling": {"min": 2}}}}, "ReadWriteOnce cache"),
        (
            {"models": {"m": {"source": "pvc://c/x", "cache": {"enabled": True}}}},
            "reads its model from a claim already",
        ),
        ({"defaultModel": "other"}, "defaultModel is other"),
        ({"helmTest": {"model": "other"}}, "helmTest.model is other"),
        ({"gateway": {"enabled": True}}, "parentRefs is empty"),
        ({"api": {"autoscaling": {"enabled": True, "min": 5, "max": 4}}}, "api.autoscaling.min is 5"),
        ({"api": {"autoscaling": {"enabled": True, "targetCpuPercent": None}}}, "neither targetCpuPercent"),
        ({"auth": {"apiKeys": {"k": "t"}, "existingSecret": "s"}}, "both set"),
        ({"redis": {"external": {"url": "rediss://h:6380/0"}}}, "without ssl_cert_reqs"),
        ({"redis": {"external": {"url": "redis://:$(REDIS_PASSWORD)@h"}}}, "existingSecret is empty"),
        ({"redis": {"bundled": {"password": "p", "existingSecret": "s"}}}, "both set"),
    ],
)
def test_contradictions_are_refused_with_what_to_do(values: Json, sentence: str) -> None:
    with pytest.raises(HelmRenderError, match=sentence):
        render_chart(values)


OF_TRANSFORMERS = sorted(set(TransformersOptions.model_fields) - set(VllmOptions.model_fields) - {"quantization"})
"""Settings; quantization is a value of its own, and refused above."""


@pytest.mark.parametrize("setting", OF_TRANSFORMERS)
def test_no_setting_of_transformers_comes_to_workers_on_vllm(setting: str) -> None:
    values = {"attention": "sdpa", "cuda_graphs": False, "device": "cuda", "device_map": "auto", "page_size": 16}
    name = re.sub("_(.)", lambda found: found[1].upper(), setting)
    settings = {name: values[setting]}
    vllm = {**QWEN, "engine": "vllm"}
    for given in (
        {"models": {"m": {**vllm, "settings": settings}}},
        {"models": {"m": vllm, "other": QWEN}, "modelDefaults": {"settings": settings}},
    ):
        with pytest.raises(HelmRenderError, match=f"models.m.settings.{name} is a setting of the engine transformers"):
            render_chart(given)
    render_chart({"models": {"m": vllm, "other": {**QWEN, "settings": settings}}})


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"models": {"m": {**QWEN, "resources": {"limits": {"memory": "4GB"}}}}}, "models.m.resources.limits.memory"),
        ({"modelDefaults": {"resources": {"requests": {"cpu": "2 cores"}}}}, "modelDefaults.resources.requests.cpu"),
        (
            {"modelDefaults": {"cache": {"resources": {"limits": {"memory": "4gi"}}}}},
            "modelDefaults.cache.resources.lim",
        ),
        ({"api": {"resources": {"limits": {"memory": "512MB"}}}}, "api.resources.limits.memory"),
        (
            {"gpuProfiles": {"x": {"resources": {"limits": {"memory": "64GiB"}}}}},
            "gpuProfiles.x.resources.limits.memory",
        ),
        (
            {"redis": {"bundled": {"resources": {"limits": {"memory": "1,5Gi"}}}}},
            "redis.bundled.resources.limits.memory",
        ),
        ({"redis": {"bundled": {"persistence": {"size": "8GB"}}}}, "redis.bundled.persistence.size"),
        ({"models": {"m": {**QWEN, "cache": {"enabled": True, "size": "50 Gi"}}}}, "models.m.cache.size"),
        (
            {"telemetry": {"flower": {"resources": {"limits": {"memory": ""}}}}},
            "telemetry.flower.resources.limits.memory",
        ),
        ({"redis": {"bundled": {"maxmemory": "768Mi"}}}, "redis.bundled.maxmemory"),
    ],
)
def test_an_amount_that_is_none_is_refused_by_its_field(values: Json, field: str) -> None:
    with pytest.raises(HelmRenderError) as refusal:
        render_chart(values)
    assert f"headrace: {field}" in str(refusal.value)


@pytest.mark.parametrize("amount", ["4Gi", "4G", "1.5Gi", "500m", "2", "1e9", "128974848", "100k", 2, 0.5])
def test_every_way_to_write_an_amount_passes(amount: Any) -> None:
    render_chart({"api": {"resources": {"limits": {"memory": amount}}}})


@pytest.mark.parametrize("amount", ["768mb", "4GB", "1g", "1073741824", "512K"])
def test_valkeys_way_to_write_memory_passes(amount: str) -> None:
    render_chart({"redis": {"bundled": {"maxmemory": amount}}})


def test_an_image_as_source_is_refused_by_an_old_cluster(chart_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Lint alone can be told the version of a cluster; it goes on after `fail` and only prints the sentence.
    values = {"models": {"m": {"source": "image://models/qwen:1"}}}
    helm_python.lint(chart_path, values, kube_version="v1.35.0")
    assert "image volumes" not in capfd.readouterr().err
    helm_python.lint(chart_path, values, kube_version="v1.30.0")
    assert "image volumes come with 1.31" in capfd.readouterr().err


def test_lint_finds_nothing(chart_path: Path, case: Json) -> None:
    found = helm_python.lint(chart_path, case, strict=True, kube_version="v1.29.0")
    assert [message for message in found["messages"] if message["severity"] > 1] == []


def test_renamed_values_fail_with_their_new_name(chart_path: Path, tmp_path: Path) -> None:
    chart = tmp_path / "headrace"
    shutil.copytree(chart_path, chart)
    renamed = [
        {"old": "replicas", "new": "api.replicas", "since": "0.2.0"},
        {"old": "models.*.workers", "new": "models.*.scaling.min", "since": "0.2.0"},
        {"old": "api.keys.map", "new": "auth.apiKeys", "since": "0.3.0"},
    ]
    (chart / "files/renamed.yaml").write_text(yaml.safe_dump(renamed))
    for path, text in generated(chart).items():
        path.write_text(text)
    render_chart(chart=chart)
    refused: list[tuple[Json, str]] = [
        ({"replicas": 3}, "the value replicas is called api.replicas since version 0.2.0"),
        ({"models": {"m": {**QWEN, "workers": 2}}}, "called models.*.scaling.min since"),
        ({"api": {"keys": {"map": {}}}}, "api.keys.map is called auth.apiKeys since version 0.3.0"),
    ]
    for values, sentence in refused:
        with pytest.raises(HelmError) as refusal:
            render_chart(values, chart=chart)
        assert sentence in str(refusal.value)
