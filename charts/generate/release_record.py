"""Writes charts/tests/released/VERSION.json when a version is released: what later versions must not change."""

import json

import yaml

from charts.generate.chart_files import CHART
from charts.tests.cases import CASES
from charts.tests.rendering import Json, Manifests, render_chart

RELEASED = CHART.parent / "tests" / "released"
"""What each released version rendered from its values, as far as Kubernetes lets nobody change it."""


def immutable(manifests: Manifests) -> Json:
    """By kind and name: what an update of the object must not touch."""
    kept: Json = {}
    for item in manifests.of("Deployment", "StatefulSet", "PersistentVolumeClaim"):
        spec = item["spec"]
        fields = ("selector", "serviceName", "volumeClaimTemplates", "accessModes", "storageClassName")
        kept[f"{item['kind']}/{item['metadata']['name']}"] = {field: spec[field] for field in fields if field in spec}
    for item in manifests.of("RoleBinding"):
        kept[f"RoleBinding/{item['metadata']['name']}"] = item["roleRef"]
    return kept


if __name__ == "__main__":
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    record = [[values, immutable(render_chart(values))] for values in CASES.values()]
    RELEASED.joinpath(f"{version}.json").write_text(json.dumps(record, indent=1) + "\n")
