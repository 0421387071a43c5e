"""Draws the dashboard's panels from a real Prometheus: `python -m charts.generate.picture docs/dashboard.png`.

Needs matplotlib. Two minutes of the load of `testbed.monitored.load` on the scripted engine: it shows what the panels
look like, not how fast anything is.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from charts.generate.dashboard import ROWS
from testbed.monitored import Prometheus, load, monitored
from testbed.valkey import Valkey

SECONDS = 60.0
COLUMNS = 6

Curves = dict[str, list[tuple[str, list[tuple[float, float]]]]]
"""By panel: label and points of each curve."""


async def watch(folder: Path) -> Curves:
    """Runs everything for a while; what the panels showed."""
    with Valkey(folder / "valkey", durable=False) as valkey:
        async with monitored(valkey.url, folder) as running:
            loading = asyncio.create_task(load(running.stack))
            begin = time.time()
            await asyncio.sleep(SECONDS)
            loading.cancel()
            await asyncio.wait([loading])
            return await _curves(running.prometheus, begin, time.time())


async def _curves(prometheus: Prometheus, begin: float, end: float) -> Curves:
    curves: Curves = {}
    for members in ROWS.values():
        for title, _, queries in members:
            curves[title] = []
            for query, legend in queries:
                for series in await prometheus.query_range(query, begin, end):
                    points = [(float(at) - begin, float(value)) for at, value in series["values"]]
                    curves[title].append((_label(legend, series["metric"]), points))
    return curves


def _label(legend: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace("{{" + name + "}}", value)
    return legend


def draw(curves: Curves, path: Path) -> None:
    """One picture with all rows."""
    heights = [-(-len(members) // COLUMNS) for members in ROWS.values()]
    figure = plt.figure(figsize=(3.4 * COLUMNS, 2.3 * sum(heights)), dpi=60, layout="constrained")
    parts: Any = figure.subfigures(len(ROWS), 1, height_ratios=heights)
    for part, height, (row, members) in zip(parts, heights, ROWS.items(), strict=True):
        part.suptitle(row, x=0.005, ha="left", fontweight="bold")
        for number, (title, unit, _) in enumerate(members):
            axes = part.add_subplot(height, COLUMNS, number + 1)
            for label, points in curves[title]:
                axes.plot([at for at, _ in points], [value for _, value in points], label=label, linewidth=1)
            axes.set_title(f"{title} ({unit})", fontsize=8)
            axes.tick_params(labelsize=6)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=5, loc="upper left")
    figure.savefig(path, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        draw(asyncio.run(watch(Path(temporary))), Path(sys.argv[1]))
