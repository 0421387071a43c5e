"""What follows from values.yaml: the schema, the README's table, the dashboard."""

import json
from pathlib import Path

import yaml

from charts.generate.dashboard import dashboard
from charts.generate.values_schema import values_schema
from charts.generate.values_table import with_table

CHART = Path(__file__).parents[1] / "headrace"


def generated(chart: Path = CHART) -> dict[Path, str]:
    """Path -> text of each generated file."""
    text = (chart / "values.yaml").read_text()
    values = yaml.safe_load(text)
    renamed = yaml.safe_load((chart / "files/renamed.yaml").read_text())
    readme = chart / "README.md"
    return {
        chart / "values.schema.json": json.dumps(values_schema(values, renamed), indent=1) + "\n",
        readme: with_table(readme.read_text(), text, values),
        chart / "files/dashboards/headrace.json": json.dumps(dashboard(), indent=1) + "\n",
    }
