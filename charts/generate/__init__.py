"""`python -m charts.generate` writes what stands in the chart by generation: schema, table of values, dashboard."""
