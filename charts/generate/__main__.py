"""Writes every generated file of the chart."""

from charts.generate.chart_files import generated

for path, text in generated().items():
    path.write_text(text)
