"""What the cluster at hand does not know is refused before Helm fails, with what to install."""

from pathlib import Path

import pytest
from helm_python import Chart, HelmError

from charts.tests.cases import CASES, QWEN
from charts.tests.rendering import Json, render_chart

from .api_server import api_server

KEDA: Json = {"autoscaling": {"provider": "keda"}, "models": {"m": {**QWEN, "scaling": {"min": 0, "max": 2}}}}
GATEWAY: Json = {"gateway": {"enabled": True, "parentRefs": [{"name": "g"}]}}
CASES_OF_KINDS = [
    (KEDA, "keda.sh/v1alpha1", ["ScaledObject"], "provider is keda and scales models.m, but", "Install KEDA"),
    (GATEWAY, "gateway.networking.k8s.io/v1", ["HTTPRoute"], "gateway.enabled is true, but", "Install the Gateway API"),
    (
        {"telemetry": {"serviceMonitor": {"enabled": True}}},
        "monitoring.coreos.com/v1",
        ["ServiceMonitor", "PodMonitor"],
        "telemetry.serviceMonitor.enabled is true, but",
        "Install the Prometheus operator",
    ),
    (
        {"telemetry": {"prometheusRule": {"enabled": True}}},
        "monitoring.coreos.com/v1",
        ["PrometheusRule"],
        "telemetry.prometheusRule.enabled is true, but",
        "Install the Prometheus operator",
    ),
]


def refusal_by(kinds: dict[str, list[str]], chart_path: Path, values: Json) -> str:
    """By a cluster with these kinds. Behind the chart's own checks Helm misses more than there is here."""
    with api_server() as cluster, Chart.load(chart_path) as chart:
        cluster.kinds |= kinds
        with pytest.raises(HelmError) as refusal:
            cluster.helm.install(chart, "headrace", values, namespace="ml", dry_run="server")
    return str(refusal.value)


@pytest.mark.parametrize(("values", "version", "kinds", "because", "install"), CASES_OF_KINDS)
def test_a_kind_that_is_not_there_is_refused_with_what_to_install(
    chart_path: Path, values: Json, version: str, kinds: list[str], because: str, install: str
) -> None:
    said = refusal_by({}, chart_path, values)
    assert "\nheadrace: " in said
    assert f"{because} this cluster does not know {version}/{kinds[-1]}. {install}" in said
    assert "headrace: " not in refusal_by({version: kinds}, chart_path, values)


def test_what_no_object_needs_is_not_asked_for(chart_path: Path) -> None:
    fixed = {"autoscaling": {"provider": "keda"}, "models": {"m": QWEN}}
    assert "headrace: " not in refusal_by({}, chart_path, fixed)


def test_a_render_without_a_cluster_is_let_pass() -> None:
    for values in (KEDA, GATEWAY, CASES["values-production"]):
        assert render_chart(values).all
