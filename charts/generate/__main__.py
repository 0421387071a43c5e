"""Writes what follows from values.yaml: the schema and the README's table. `python charts/generate.py`."""

import json
from pathlib import Path

import yaml
from dashboard import dashboard
from values_schema import values_schema
from values_table import with_table

CHART = Path(__file__).parent / "headrace"


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


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
