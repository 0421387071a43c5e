"""A process whose wall clock is wrong is no worse off than others in anything else."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed.clocks import clock, tidy_up

PROGRAM = """
import json, threading, time

awake, over, waited = threading.Event(), False, 0.0


def want_the_lock():
    global waited
    before = time.thread_time()
    awake.set()
    while not over:
        time.sleep(0.001)
    waited = time.thread_time() - before


thread = threading.Thread(target=want_the_lock)
thread.start()
awake.wait()
before = time.thread_time()
sum(range(10_000_000))  # holds the interpreter's lock all the time
computed = time.thread_time() - before
over = True
thread.join()
print(json.dumps([time.time(), time.monotonic(), computed, waited]))
"""
"""Prints what the clocks say, and how many seconds of CPU one thread takes that has the interpreter's lock, and another
that wants it."""


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, **extra}


@pytest.mark.parametrize("seconds", [30, -30])
def test_a_wrong_wall_clock_is_all_that_is_wrong(seconds: int) -> None:
    env = environment(**clock(seconds))
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE, timeout=60, check=True)
    wall, monotonic, computed, waited = json.loads(run.stdout)
    assert wall - time.time() == pytest.approx(seconds, abs=10)
    assert monotonic == pytest.approx(time.monotonic(), abs=10)
    assert waited < computed / 4, "a thread that waits for the interpreter's lock sleeps"


def test_what_a_killed_process_leaves_in_shared_memory_is_removed() -> None:
    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "print(flush=True); input()"]
        env = environment(**clock(30))
        process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        return process

    def kept(process: subprocess.Popen[bytes]) -> int:
        return len(list(Path("/dev/shm").glob(f"*faketime_*_{process.pid}")))

    with start() as living, start() as killed:
        killed.kill()
        killed.wait(10)
        assert (kept(living), kept(killed)) == (2, 2)
        tidy_up()
        assert (kept(living), kept(killed)) == (2, 0)
