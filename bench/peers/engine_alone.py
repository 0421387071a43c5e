"""One of the worker's engines alone in one process: no server, no queue, no text.

It is asked, and answers, as `raw_manager.py` is.
"""

import json
import os
import sys
import time
from typing import Any

from testbed.real_engine import RealEngine
from worker.engine_options import OPTIONS
from worker.engine_protocol import Generate

SLOTS = 32


def main(kind: Any, source: str) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not stand between the replies
    engine = RealEngine(OPTIONS[kind](engine=kind, model_source=source, slots=SLOTS))
    print(json.dumps("ready"), file=replies, flush=True)
    for number, line in enumerate(sys.stdin):
        print(json.dumps(_run(engine, number, **json.loads(line))), file=replies, flush=True)
    engine.close()


def _run(engine: RealEngine, run: int, users: int, requests: list[Any]) -> list[Any]:
    waiting = list(enumerate(requests))[::-1]
    timelines: list[Any] = [None] * len(requests)
    running = 0
    while waiting or running:
        while waiting and running < users:
            at, (ids, most) = waiting.pop()
            timelines[at] = [time.perf_counter(), []]
            engine.send(Generate(f"{run}/{at}", tuple(ids), max_new_tokens=most))
            running += 1
        outputs, now = engine.step().outputs, time.perf_counter()
        for output in outputs:
            assert not output.error, output
            arrivals = timelines[int(output.request_id.partition("/")[2])][1]
            if output.token_ids:
                arrivals.append((now, (arrivals[-1][1] if arrivals else 0) + len(output.token_ids)))
            running -= output.ends
    return timelines


if __name__ == "__main__":
    main(*sys.argv[1:])
