"""What it costs to be seen: every task traced and both services scraped, against neither."""

import asyncio
import contextlib
import os
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import psutil

from bench.experiments import Scale
from bench.interleave import interleaved, observed
from bench.load import closed_loop
from bench.measures import Metrics, percentile, ratio
from bench.processes import running, until_listening
from bench.results_file import Result
from bench.servers import Server, headrace
from bench.trace import stories
from testbed.ports import free_port

SCRIPTED = "scripted:?token_ms=20"
USERS = 32
TOKENS = 100


async def telemetry(scale: Scale) -> Result:
    """The scripted engine: steps of exactly 20 ms, so that whatever is lost is lost on the path."""
    result = Result("telemetry", "python -m bench run telemetry")
    repetitions = 2 * scale.repetitions
    async with (
        _sink() as url,
        headrace(SCRIPTED) as plain,
        headrace(SCRIPTED, env=_traced(url)) as seen,
        _scraped(seen),
    ):
        for label, requests, users in (
            ("32 users", scale.count(128, 64), USERS),
            ("one user", scale.count(30, 15), 1),
        ):
            found = await interleaved(
                {
                    "unseen": partial(_measure, plain, requests, users),
                    "traced and scraped": partial(_measure, seen, requests, users),
                },
                repetitions,
            )
            for name, each in found.items():
                result.add_arm(f"{name}, {label}", each)
            unseen, traced = found["unseen"], found["traced and scraped"]
            if users > 1:
                kept = ratio(traced, unseen, "tokens_per_s")
                result.add_ratio("tokens per second, traced and scraped / unseen", kept, 0.95)
                used = [a / b for a, b in zip(map(_cpu, traced), map(_cpu, unseen), strict=True)]
                result.add_ratio("CPU per token, traced and scraped / unseen", percentile(used, 50), at_least=False)
            else:
                added = percentile(
                    [a["first_token_ms_p50"] - b["first_token_ms_p50"] for a, b in zip(traced, unseen, strict=True)], 50
                )
                result.add_ratio("added to the first token, p50", added, 5.0, at_least=False, unit="ms")
    result.notes.append("Counters and histograms are kept in both arms: they cannot be switched off.")
    return result


def _cpu(metrics: Metrics) -> float:
    """Of all processes; on a busy machine the one figure that others hardly change."""
    return sum(value for name, value in metrics.items() if name.startswith("cpu_s_per_1000_tokens_"))


def _traced(url: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_TRACES_SAMPLER": "always_on"}


@contextlib.asynccontextmanager
async def _sink() -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="headrace-bench-sink-") as folder:
        port, log = free_port(), Path(folder) / "log"
        with running([sys.executable, "-m", "bench.otlp_sink", str(port)], log, dict(os.environ)) as process:
            await until_listening(process, port, log, "/")
            yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def _scraped(server: Server) -> AsyncIterator[None]:
    """Reads `/metrics` of API and worker each second, fifteen times as often as Prometheus does."""
    ports = [psutil.Process(server.pids[name]).environ()["HEADRACE_INTERNAL_PORT"] for name in ("api", "worker")]

    def scrape(port: str) -> int:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )
        with urllib.request.urlopen(request, timeout=5) as reply:
            return len(reply.read())

    async def again_and_again() -> None:
        while True:
            await asyncio.gather(*(asyncio.to_thread(scrape, port) for port in ports))
            await asyncio.sleep(1)

    scraping = asyncio.create_task(again_and_again())
    try:
        yield
    finally:
        scraping.cancel()
        await asyncio.wait([scraping])
        if not scraping.cancelled():
            scraping.result()


async def _measure(server: Server, requests: int, users: int, number: int) -> Metrics:
    await closed_loop(server.ask, stories(f"warm {number}", 3, 2), 1)
    turns = stories(f"telemetry {number}", requests, TOKENS if users > 1 else 2)
    return await observed(server, lambda: closed_loop(server.ask, turns, users))
