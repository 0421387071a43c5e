"""Server processes of a measurement: started on free ports, watched through /proc, always stopped."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

START_SECONDS = 400.0
"""Ray and the LiteLLM proxy take half a minute on a quiet machine."""


@dataclass(frozen=True)
class Usage:
    """CPU seconds and resident bytes of a process and its descendants."""

    cpu: float
    resident: int

    @classmethod
    def of(cls, pid: int, *, tree: bool = True) -> "Usage":
        cpu, resident = 0.0, 0
        root = psutil.Process(pid)
        for process in [root, *(root.children(recursive=True) if tree else [])]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu += times.user + times.system
                resident += process.memory_info().rss
        return cls(cpu, resident)


def ended(pid: int) -> bool:
    """Whether the process is gone, or waits as a zombie for its parent."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    env: Mapping[str, str] | None = None,
    cpus: set[int] | None = None,
    folder: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a process with its output in `log`; on leaving it and all its descendants are gone."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        popen = subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
    if cpus is not None:
        os.sched_setaffinity(popen.pid, cpus)
    try:
        yield popen
    finally:
        _end(popen)


def _end(popen: subprocess.Popen[bytes]) -> None:
    family = [popen.pid]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += [child.pid for child in psutil.Process(popen.pid).children(recursive=True)]
    with contextlib.suppress(ProcessLookupError):
        popen.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(10)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    popen.wait(10)


async def until_listening(popen: subprocess.Popen[bytes], port: int, log: Path, path: str | None = None) -> None:
    """Returns when the port accepts connections and, with `path`, answers it with a status below 400."""
    from bench.http_connection import Disconnected, HttpConnection

    stop_at = time.monotonic() + START_SECONDS
    while time.monotonic() < stop_at:
        if popen.poll() is not None:
            break
        with contextlib.suppress(OSError, Disconnected):
            connection = HttpConnection("127.0.0.1", port)
            try:
                status, _ = await asyncio.wait_for(connection.request("GET", path or "/"), 5)
            finally:
                connection.close()
            if path is None or status < 400:
                return
        await asyncio.sleep(0.2)
    raise RuntimeError(f"{popen.args!r} does not serve on port {port}:\n{tail(log)}")


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def machine() -> dict[str, str | int | float]:
    """What the numbers were taken on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": sys.version.split()[0],
        "load_average": round(os.getloadavg()[0], 2),
    }
