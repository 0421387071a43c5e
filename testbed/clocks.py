"""Processes whose wall clock is wrong, as a node's is that nobody sets."""

import importlib.metadata
from pathlib import Path
from typing import TypedDict


class Clock(TypedDict):
    """Environment variables."""

    LD_PRELOAD: str
    FAKETIME: str
    FAKETIME_DONT_FAKE_MONOTONIC: str
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
        "NO_FAKE_STAT": "1",  # it would slow imports down
    }
