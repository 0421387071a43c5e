"""Processes whose wall clock is wrong, as a node's is that nobody sets."""

import contextlib
import importlib.metadata
from pathlib import Path
from typing import TypedDict

import psutil


class Clock(TypedDict):
    """Environment variables."""

    LD_PRELOAD: str
    FAKETIME: str
    FAKETIME_DONT_FAKE_MONOTONIC: str
    FAKETIME_WAIT_MS: str
    NO_FAKE_STAT: str


def clock(seconds: int) -> Clock:
    """Environment of a process, and of those that it starts, for whom it is so many seconds later than it is.

    How fast time goes, and what timers see of it, is as ever.
    """
    files = importlib.metadata.files("libfaketime") or []
    library = next(file for file in files if file.name == "libfaketime.so.1")
    return {
        "LD_PRELOAD": str(Path(str(library.locate()))),
        "FAKETIME": f"{seconds:+}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # By the monotonic clock, a timed wait for a condition would be over at once (libfaketime's pull request 503
        # mends it; no wheel has that yet). So Python's threads wait for the interpreter's lock: they would spin, and
        # keep the one that has it from giving it up, for seconds. Now each such wait is `sys.getswitchinterval()` long.
        "FAKETIME_WAIT_MS": "5",
        "NO_FAKE_STAT": "1",  # it would slow imports down
    }


def tidy_up() -> None:
    """Removes what libfaketime keeps in shared memory for processes that were killed."""
    for file in Path("/dev/shm").glob("*faketime_s[eh]m_*"):
        if not psutil.pid_exists(int(file.name.rpartition("_")[2])):
            with contextlib.suppress(OSError):  # somebody else's, or just gone
                file.unlink()
