"""Every query of the dashboard and of the alerts against a real Prometheus that scrapes a real API and worker."""

import asyncio
import json
import re
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import yaml

from charts.generate.dashboard import dashboard
from testbed.monitored import RULES, Monitored, load, monitored, selectors
from testbed.otlp_receiver import otlp_receiver
from testbed.programs import program
from testbed.valkey import Valkey
from testbed.waiting import until

DOCS = Path(__file__).parents[2] / "docs"
PATIENCE = 40.0
"""Seconds that the load has to make every query say something."""

ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panel_queries() -> dict[str, str]:
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    }


def alert_selectors() -> dict[str, str]:
    """An alert is silent while all is well: the series that it looks at must be there."""
    return {
        f"{rule.get('alert') or rule['record']}: {selector}": f"group({selector})"
        for rule in ALERTS
        for selector in selectors(rule["expr"])
    }


async def until_all_say_something(
    query: Callable[[str], Awaitable[Sequence[object]]], expressions: dict[str, str]
) -> list[str]:
    """The names of those that never did."""
    silent = dict(expressions)
    stop_at = asyncio.get_running_loop().time() + PATIENCE
    while silent and asyncio.get_running_loop().time() < stop_at:
        for name, expression in list(silent.items()):
            if await query(expression):
                del silent[name]
        await asyncio.sleep(0.5)
    return sorted(silent)


@pytest.mark.needs("prometheus")
async def test_every_panel_and_every_alert_finds_its_series_and_every_metric_is_documented(
    valkey: Valkey, tmp_path: Path
) -> None:
    with otlp_receiver() as receiver:
        tracing = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        async with monitored(valkey.url, tmp_path, **tracing) as running:
            loading = asyncio.create_task(load(running.stack))
            try:
                expressions = panel_queries() | alert_selectors()
                silent = await until_all_say_something(running.prometheus.query, expressions)
                exemplars = await running.prometheus.exemplars("headrace_task_first_token_seconds_bucket")
                documented, served = documented_metrics(), await served_metrics(running)
            finally:
                loading.cancel()
                await asyncio.wait([loading])
            if not loading.cancelled():
                loading.result()
            traces = {one["labels"]["trace_id"] for one in exemplars}
            await until(lambda: traces <= {span.trace_id for span in receiver.spans}, 5, "the traces of the exemplars")
    assert silent == []
    assert traces
    assert documented == served


def documented_metrics() -> set[str]:
    return set(
        re.findall(r"^\| `((?:headrace|gen_ai)_[a-z_]+)` \|", (DOCS / "observability.md").read_text(), re.MULTILINE)
    )


async def served_metrics(running: Monitored) -> set[str]:
    pages = [
        (await running.stack.client.get(f"http://127.0.0.1:{port}/metrics")).text
        for ports in running.ports.values()
        for port in ports
    ]
    return set(re.findall(r"^# TYPE ((?:headrace|gen_ai)_[a-z_]+) ", "\n".join(pages), re.MULTILINE))


@pytest.mark.needs("promtool")
def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    tests = Path(__file__).parent / "alerts_test.yaml"
    done = subprocess.run([program("promtool"), "test", "rules", tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)", tests.read_text()))
    assert tested == {rule["alert"] for rule in ALERTS if "alert" in rule}


def test_every_alert_has_a_runbook_section_of_its_own() -> None:
    headings = set(re.findall(r"^### (\w+)$", (DOCS / "operations.md").read_text(), re.MULTILINE))
    for rule in ALERTS:
        if name := rule.get("alert"):
            assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
            assert name in headings


@pytest.mark.parametrize(
    "panel", [panel for panel in dashboard()["panels"] if panel["type"] != "row"], ids=lambda p: p["title"]
)
def test_panels_do_not_overlap(panel: dict[str, dict[str, int]]) -> None:
    def cells(one: dict[str, dict[str, int]]) -> set[tuple[int, int]]:
        place = one["gridPos"]
        return {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }

    others = [one for one in dashboard()["panels"] if one["id"] != panel["id"]]
    assert not any(cells(panel) & cells(other) for other in others)


def test_the_rendered_dashboard_and_rules_are_the_files(render: Callable[..., object]) -> None:
    manifests = render({"telemetry": {"dashboard": {"enabled": True}, "prometheusRule": {"enabled": True}}})
    config_map = manifests.one("ConfigMap", "headrace-dashboard")  # type: ignore[attr-defined]
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config_map["data"]["headrace.json"]) == dashboard()
    rules = manifests.one("PrometheusRule", "headrace")  # type: ignore[attr-defined]
    assert rules["spec"] == yaml.safe_load(RULES.read_text())
