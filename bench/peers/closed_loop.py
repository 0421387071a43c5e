"""What a process that drives an engine alone is asked, and answers.

One JSON line in, `{"users": 8, "requests": [[[token ids], max_new_tokens], ...]}`: a closed loop of that many users.
One JSON line out: a timeline per request, `[sent, [[time, tokens], ...]]`. The first line out says that it is ready.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol


class Driver(Protocol):
    """An engine that is loaded."""

    def start(self, request_id: str, ids: list[int], most: int) -> None:
        """Begins an answer of at most so many tokens."""

    def arrivals(self) -> Iterable[tuple[str, int, bool]]:
        """Waits for news: request, its new tokens, whether it has ended."""

    def close(self) -> None:
        """Ends what it started."""


def serve(load: Callable[[], Driver]) -> None:
    """Until nothing more is asked."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not stand between the replies
    driver = load()
    print(json.dumps("ready"), file=replies, flush=True)
    for number, line in enumerate(sys.stdin):
        print(json.dumps(_run(driver, number, **json.loads(line))), file=replies, flush=True)
    driver.close()


def _run(driver: Driver, run: int, users: int, requests: list[Any]) -> list[Any]:
    waiting = list(enumerate(requests))[::-1]
    timelines: list[Any] = [None] * len(requests)
    running = 0
    while waiting or running:
        while waiting and running < users:
            at, (ids, most) = waiting.pop()
            timelines[at] = [time.perf_counter(), []]
            driver.start(f"{run}/{at}", ids, most)
            running += 1
        news, now = driver.arrivals(), time.perf_counter()
        for request_id, tokens, ended in news:
            pieces = timelines[int(request_id.partition("/")[2])][1]
            if tokens:
                pieces.append((now, (pieces[-1][1] if pieces else 0) + tokens))
            running -= ended
    return timelines
