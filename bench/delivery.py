"""Token delivery by one API process: latency from the worker's write to the client's socket, CPU, memory.

This process plays the workers (they write through the ledger and the event stream) and the clients (raw HTTP/1.1).

    python -m bench.delivery --streams 500 --rate 10 --seconds 20
"""

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis.asyncio import Redis

from bench.lean_writer import LeanWriter
from bench.measures import Metrics, spread
from bench.processes import Usage, running, until_listening
from bench.stream_client import StreamClient
from shared.settings import SharedSettings
from shared.store.event_stream import EventStream, TokenWriter
from shared.store.keys import Keys
from shared.store.outage import Outage
from shared.store.redis_client import connect
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.wire.schemas import InferenceRequest
from testbed import services
from testbed.ports import free_port
from testbed.valkey import Valkey

MODEL = "delivery"


@dataclass(frozen=True)
class Delivery:
    """What is measured."""

    streams: int = 500
    rate: float = 10.0
    """Tokens per second of each stream; 0: idle streams."""
    seconds: float = 15.0
    warm_up: float = 3.0
    """Seconds that are not measured."""
    batch: int = 25
    """Streams that one worker writes to at the same moment."""
    lean: bool = False
    """Write the same commands with less Python, for high rates."""
    profile: Path | None = None
    """py-spy writes a profile of the API here (speedscope)."""


async def accept_and_claim(redis: Redis, keys: Keys, count: int) -> list[str]:
    ledger = TaskLedger(redis, keys, retention_seconds=600, max_failures=3)
    request = InferenceRequest.model_validate({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})
    task_ids = [new_task_id() for _ in range(count)]
    for task_id in task_ids:
        await ledger.accept(
            task_id, request, tenant="default", timeout_seconds=3600, max_waiting=10**6, max_tenant_tasks=10**6
        )
        await ledger.claim(task_id, worker="bench", lease_seconds=3600, revision="r")
    return task_ids


async def play_worker(
    clients: list[StreamClient], write: Any, period: float, delay: float, stop: asyncio.Event, late: list[float]
) -> None:
    """One worker: a token for each of its streams, all written at once, once per period."""
    writers = [(client, TokenWriter(client.task_id, 1, 0)) for client in clients]
    loop = asyncio.get_running_loop()
    due = loop.time() + delay
    number = 0
    while not stop.is_set():
        await asyncio.sleep(max(0.0, due - loop.time()))
        late.append(loop.time() - due)
        due += period
        number += 1
        writes = []
        for _, writer in writers:
            writer.add([number], " token")
            if write_ := writer.take():
                writes.append(write_)
        now = time.perf_counter()
        for client, _ in writers:
            client.sent[number] = now
        await write(writes)


async def measure(options: Delivery, valkey: Valkey, api_port: int, api_pid: int) -> Metrics:
    settings = SharedSettings(redis_url=SecretStr(valkey.url))
    keys = Keys(settings.key_prefix)
    redis = connect(settings, Outage())
    stream = EventStream(redis, keys)
    task_ids = await accept_and_claim(redis, keys, options.streams)
    # One stream before, so that what every process has once is not counted per stream.
    first = StreamClient((await accept_and_claim(redis, keys, 1))[0])
    await first.connect(api_port)
    await asyncio.wait_for(first.opened, 10)
    before = Usage.of(api_pid)
    clients = [StreamClient(task_id) for task_id in task_ids]
    began = time.perf_counter()
    for at in range(0, len(clients), 50):
        some = clients[at : at + 50]
        await asyncio.gather(*(client.connect(api_port) for client in some))
        await asyncio.wait_for(asyncio.gather(*(client.opened for client in some)), 30)
    opening = time.perf_counter() - began
    await asyncio.sleep(1)
    opened = Usage.of(api_pid)
    stop, late = asyncio.Event(), list[float]()
    tasks = []
    if options.rate:
        lean = LeanWriter(keys, valkey.port)
        await lean.open()
        lean.discard_replies()
        groups = [clients[at : at + options.batch] for at in range(0, len(clients), options.batch)]
        period = 1 / options.rate
        write = lean.write if options.lean else stream.write
        tasks = [
            asyncio.create_task(play_worker(group, write, period, period * at / len(groups), stop, late))
            for at, group in enumerate(groups)
        ]
    await asyncio.sleep(options.warm_up)
    for client in clients:
        client.latencies.clear()
        client.tokens = client.chunks = 0
    late.clear()
    start, own, began = Usage.of(api_pid), time.process_time(), time.perf_counter()
    store = Usage.of(valkey.pid)
    if options.profile:
        await asyncio.create_subprocess_exec(
            *("py-spy", "record", "-p", str(api_pid), "-d", str(int(options.seconds) - 1), "-r", "250"),
            *("-f", "speedscope" if options.profile.suffix == ".json" else "raw", "-o", str(options.profile)),
            stdout=subprocess.DEVNULL,
        )
    await asyncio.sleep(options.seconds)
    elapsed = time.perf_counter() - began
    end, own_cpu = Usage.of(api_pid), time.process_time() - own
    store_cpu = Usage.of(valkey.pid).cpu - store.cpu
    tokens, chunks = sum(client.tokens for client in clients), sum(client.chunks for client in clients)
    latencies = [latency for client in clients for latency in client.latencies]
    stop.set()
    await asyncio.gather(*tasks)
    await redis.aclose()
    cpu = end.cpu - start.cpu
    metrics: Metrics = {
        "streams": options.streams,
        "offered_per_second": options.streams * options.rate,
        "delivered_per_second": round(tokens / elapsed),
        "api_cpu_share": round(cpu / elapsed, 3),
        "kilobytes_per_stream": round((opened.resident - before.resident) / 1024 / options.streams, 1),
        "kilobytes_per_stream_at_end": round((end.resident - before.resident) / 1024 / options.streams, 1),
        "opened_per_second": round(options.streams / opening),
        "store_cpu_share": round(store_cpu / elapsed, 3),
        "own_cpu_share": round(own_cpu / elapsed, 3),
        "load_average": round(os.getloadavg()[0], 2),
    }
    if tokens:
        metrics |= spread("latency", latencies) | spread("own_lateness", late)
        metrics["api_cpu_seconds_per_1000_tokens"] = round(1000 * cpu / tokens, 4)
        metrics["tokens_per_chunk"] = round(tokens / chunks, 2)
    return metrics


async def deliver(options: Delivery) -> Metrics:
    """Starts a Valkey and an API process, measures, stops both."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="headrace-bench-") as name,
        Valkey((folder := Path(name)) / "valkey", durable=False) as valkey,
    ):
        log = folder / "api.log"
        environment = services.settings(
            redis_url=valkey.url, port=port, internal_port=free_port(), models=MODEL, log_level="WARNING"
        )
        with running(services.command("api"), log, environment) as api:
            await until_listening(api, port, log)
            return await measure(options, valkey, port, api.pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=Delivery.streams)
    parser.add_argument("--rate", type=float, default=Delivery.rate, help="tokens/s of each stream; 0: idle streams")
    parser.add_argument("--seconds", type=float, default=Delivery.seconds)
    parser.add_argument("--warm-up", type=float, default=Delivery.warm_up, help="seconds that are not measured")
    parser.add_argument("--batch", type=int, default=Delivery.batch, help="streams that one worker writes to at once")
    parser.add_argument("--lean", action="store_true", help="write the same commands with less Python, for high rates")
    parser.add_argument("--profile", type=Path, help="py-spy writes a profile of the API here (speedscope)")
    print(json.dumps(asyncio.run(deliver(Delivery(**vars(parser.parse_args())))), indent=2))


if __name__ == "__main__":
    main()
