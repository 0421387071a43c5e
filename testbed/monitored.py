"""A real API and a real worker under a small load, scraped by a real Prometheus that evaluates the chart's alerts."""

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
from prometheus_client import CollectorRegistry, make_wsgi_app

from testbed.nvml import OneGpu
from testbed.ports import free_port
from testbed.programs import program
from testbed.stack import MODEL, Stack, stack
from testbed.waiting import until
from worker.status.gpus import Gpus

RULES = Path(__file__).parents[1] / "charts/headrace/files/alerts.yaml"
WINDOW = "8s"
"""What stands for Grafana's $__rate_interval at a scrape per second."""

Json = dict[str, Any]


@dataclass
class Prometheus:
    """Its HTTP API."""

    url: str
    client: httpx.AsyncClient

    async def query(self, expression: str) -> list[Json]:
        """The instant vector that an expression of the dashboard or of an alert gives now; NaN counts as nothing."""
        reply = await self.client.get(f"{self.url}/api/v1/query", params={"query": concrete(expression)})
        body = reply.json()
        assert body["status"] == "success", (expression, body)
        return [series for series in body["data"]["result"] if series["value"][1] != "NaN"]

    async def query_range(self, expression: str, begin: float, end: float) -> list[Json]:
        """The same over time, a value per second."""
        span: dict[str, str | float] = {"query": concrete(expression), "start": begin, "end": end, "step": 1}
        reply = await self.client.get(f"{self.url}/api/v1/query_range", params=span)
        return list(reply.json()["data"]["result"])

    async def exemplars(self, metric: str) -> list[Json]:
        """The exemplars of the last minutes."""
        reply = await self.client.get(
            f"{self.url}/api/v1/query_exemplars", params={"query": metric, "start": 0, "end": 4102444800}
        )
        return [one for series in reply.json()["data"] for one in series["exemplars"]]


def concrete(expression: str) -> str:
    """An expression of the dashboard with its variables filled in."""
    values = {"$__rate_interval": WINDOW, "$namespace": "test", "$model": ".*", "$price": "2.5"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def selectors(expression: str) -> list[str]:
    """The vector selectors of an expression, each on its own."""
    return re.findall(r"\b(?:headrace|gen_ai)_[a-z_]+(?:\{[^}]*\})?", expression)


@dataclass
class Monitored:
    """What one run consists of."""

    stack: Stack
    prometheus: Prometheus
    ports: dict[str, list[int]]
    """By job: ports with /metrics."""


@contextlib.asynccontextmanager
async def monitored(redis_url: str, folder: Path, **env: str) -> AsyncIterator[Monitored]:
    """Everything running; no load yet."""
    async with stack(redis_url, folder, HEADRACE_MAX_WAITING="6", HEADRACE_SLOTS="4", **env) as running:
        await asyncio.gather(running.start_api(), running.start_worker())
        with gpu_stand_in() as gpu_port:
            ports = {
                "headrace-api": [int(process.env["HEADRACE_INTERNAL_PORT"]) for process in running.apis],
                "headrace-worker": [int(process.env["HEADRACE_INTERNAL_PORT"]) for process in running.workers],
                "gpu": [gpu_port],
            }
            async with _prometheus(folder, ports, running.client) as prometheus:
                yield Monitored(running, prometheus, ports)


@contextlib.asynccontextmanager
async def _prometheus(
    folder: Path, ports: dict[str, list[int]], client: httpx.AsyncClient
) -> AsyncIterator[Prometheus]:
    scrape = [
        {
            "job_name": job,
            "static_configs": [
                {"targets": [f"127.0.0.1:{port}" for port in found], "labels": {"namespace": "test", "pod": job}}
            ],
        }
        for job, found in ports.items()
    ]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "scrape_configs": scrape,
        "rule_files": [str(RULES)],
    }
    path = folder / "prometheus.json"  # YAML's subset
    path.write_text(json.dumps(config))
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        program("prometheus"), f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={url.removeprefix('http://')}", "--enable-feature=exemplar-storage",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220  # returns at once

    async def ready() -> bool:
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        with contextlib.suppress(httpx.HTTPError):
            return (await client.get(f"{url}/-/ready")).status_code == 200
        return False

    try:
        await until(ready, 20, "Prometheus is ready")
        yield Prometheus(url, client)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def gpu_stand_in() -> Iterator[int]:
    """Serves what a worker with a GPU would add to its metrics; the port."""
    registry = CollectorRegistry()
    registry.register(Gpus(OneGpu()))
    server = make_server("127.0.0.1", 0, make_wsgi_app(registry), handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


async def load(running: Stack) -> None:
    """A bit of everything, for ever: answers, a resumed stream, a cancellation, a crash, refusals."""
    number = 0
    while True:
        number += 1
        answers = [await running.submit(words=20) for _ in range(3)]
        followed = [asyncio.create_task(running.follow(history)) for history in answers]
        if number % 3 == 1:
            await asyncio.gather(*followed)
            first = answers[0].task_id
            await running.client.get(f"{running.urls[0]}/stream/{first}", headers={"Last-Event-ID": "0-1"})
            cancelled = await running.submit(words=4000)
            await running.until_tokens(cancelled, 2)
            await running.rpc("cancel_message", {"taskId": cancelled.task_id})
        if number == 2:
            await running.submit("!crash 2", words=10)
        if number % 3 == 0:
            await asyncio.gather(*followed)
            await running.rpc("create_message", {"message": "hello", "model": "unknown"})
            full = [running.rpc("create_message", {"message": "!tokens 30", "model": MODEL}) for _ in range(30)]
            accepted = [reply["result"]["taskId"] for reply in await asyncio.gather(*full) if "result" in reply]
            for task_id in accepted:  # to their ends, so that there is room again
                await running.client.get(f"{running.urls[0]}/stream/{task_id}")
        await asyncio.gather(*followed)
        await asyncio.sleep(0.3)
