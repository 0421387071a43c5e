"""Redis dies again and again under the same processes: what an outage leaves behind adds up."""

import os
import signal

import psutil
import pytest
from redis.asyncio import Redis

from testbed.footprint import FILES
from testbed.stack import Stack
from testbed.valkey import Valkey
from testbed.worker_process import engine_of

OUTAGES = 12


@pytest.mark.slow
async def test_twelve_deaths_of_redis_leave_as_many_connections_as_one(
    headrace: Stack, valkey: Valkey, redis: Redis
) -> None:
    """One descriptor per outage, which is what was lost once, would be eleven more; pools that fill on demand and hold
    a connection that nobody has used since account for `FILES`, whatever the number of outages.
    """
    worker = await headrace.start_worker()
    pids = {"api": headrace.apis[0].pid, "worker": worker.pid, "engine": engine_of(worker.pid)}
    undisturbed = await headrace.run(words=150)
    counts: list[dict[str, tuple[int, int]]] = []
    for _ in range(OUTAGES):
        await redis.config_set("appendfsync", "always")
        history = await headrace.submit(words=150)  # a task that outlives the connection it came by
        history.expected = undisturbed.text
        following = await headrace.until_tokens(history, 5)
        os.kill(valkey.pid, signal.SIGKILL)
        valkey.stop()
        valkey.start()
        await following
        assert history.state == "SUCCESS"
        assert (await headrace.run(words=5)).state == "SUCCESS"  # all are connected again
        counts.append({name: _held(pid) for name, pid in pids.items()})
    print("descriptors, and sockets in CLOSE_WAIT among them:", counts)
    for name in pids:
        files, waiting = zip(*(count[name] for count in counts), strict=True)
        assert files[-1] <= files[0] + FILES, f"{name} has {files} descriptors"
        assert waiting[-1] <= waiting[0] + FILES, f"{name} has {waiting} sockets that the server has closed"


def _held(pid: int) -> tuple[int, int]:
    """Open descriptors, and how many of them are sockets whose other end is closed."""
    process = psutil.Process(pid)
    waiting = [one for one in process.net_connections("tcp") if one.status == psutil.CONN_CLOSE_WAIT]
    return process.num_fds(), len(waiting)
