"""Who decides about replicas, and by what."""

from charts.tests.cases import QWEN
from charts.tests.rendering import Manifests, Render, container, env


def test_no_replicas_where_somebody_else_scales(manifests: Manifests) -> None:
    scaled = {
        item["spec"]["scaleTargetRef"]["name"] for item in manifests.of("ScaledObject", "HorizontalPodAutoscaler")
    }
    for item in manifests.of("Deployment"):
        assert ("replicas" in item["spec"]) != (item["metadata"]["name"] in scaled)
    assert scaled <= {item["metadata"]["name"] for item in manifests.of("Deployment")}


def test_keda_scales_on_waiting_and_running_tasks_of_the_model(render: Render) -> None:
    manifests = render(
        {"autoscaling": {"provider": "keda"}, "models": {"m": {**QWEN, "scaling": {"min": 0, "max": 4}}}}
    )
    spec = manifests.one("ScaledObject", "worker-m")["spec"]
    (trigger,) = spec["triggers"]
    service = manifests.one("Service", "-api-internal")
    port = service["spec"]["ports"][0]["port"]
    assert trigger["metadata"] == {
        "url": f"http://{service['metadata']['name']}.ml.svc:{port}/internal/scaling/m",
        "valueLocation": "work",
        "targetValue": "24",
        "timeout": "2s",
    }
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 4)
    assert spec["initialCooldownPeriod"] == 900


def test_a_model_with_fixed_workers_has_no_autoscaler(render: Render) -> None:
    manifests = render({"autoscaling": {"provider": "keda"}, "models": {"m": {**QWEN, "scaling": {"min": 3}}}})
    assert not manifests.of("ScaledObject")
    assert manifests.one("Deployment", "worker-m")["spec"]["replicas"] == 3


def test_an_external_metric_is_asked_for_one_model(render: Render) -> None:
    manifests = render({"autoscaling": {"provider": "hpa"}, "models": {"m": {**QWEN, "scaling": {"min": 1, "max": 4}}}})
    (metric,) = manifests.one("HorizontalPodAutoscaler", "worker-m")["spec"]["metrics"]
    assert metric["external"]["metric"] == {
        "name": "headrace_tasks_in_flight",
        "selector": {"matchLabels": {"model": "m"}},
    }


def test_the_api_scales_by_cpu_and_open_streams(render: Render) -> None:
    manifests = render({"api": {"autoscaling": {"enabled": True, "targetOpenStreams": 500}}})
    metrics = manifests.one("HorizontalPodAutoscaler", "-api")["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["Resource", "Pods"]
    assert metrics[1]["pods"]["target"]["averageValue"] == "500"
    assert container(manifests, "Deployment", "-api", "api")["resources"]["requests"]["cpu"]


def test_workers_write_their_deletion_cost_only_where_workers_come_and_go(render: Render) -> None:
    scaled = {**QWEN, "scaling": {"min": 1, "max": 2}}
    manifests = render({"autoscaling": {"provider": "keda"}, "models": {"a": scaled, "b": QWEN}})
    assert env(container(manifests, "Deployment", "worker-a", "worker"))["HEADRACE_DELETION_COST"] == "true"
    assert "HEADRACE_DELETION_COST" not in env(container(manifests, "Deployment", "worker-b", "worker"))
    assert manifests.one("Role", "-worker")["rules"] == [
        {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]}
    ]
    fixed = render({"models": {"b": QWEN}})
    assert [role["metadata"]["name"] for role in fixed.of("Role")] == ["headrace-api"]
