"""Writes charts/tests/released/VERSION.json when a version is released: what later versions must not change."""

import json

import yaml

from charts.generate.chart_files import CHART
from charts.tests.conftest import CASES, render_chart
from charts.tests.test_upgrade import RELEASED, immutable

if __name__ == "__main__":
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    record = [[values, immutable(render_chart(values))] for values in CASES.values()]
    RELEASED.joinpath(f"{version}.json").write_text(json.dumps(record, indent=1) + "\n")
