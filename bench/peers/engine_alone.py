"""One of the worker's engines alone in one process: no server, no queue, no text. Asked as `closed_loop.py` says."""

import sys
from functools import partial
from typing import Any

from bench.peers.closed_loop import serve
from testbed.real_engine import RealEngine
from worker.engine_options import OPTIONS
from worker.engine_protocol import Generate

SLOTS = 32


class Worker:
    """The engine's process, spoken to as the worker does."""

    def __init__(self, kind: Any, source: str) -> None:
        self._engine = RealEngine(OPTIONS[kind](engine=kind, model_source=source, slots=SLOTS))
        self.close = self._engine.close

    def start(self, request_id: str, ids: list[int], most: int) -> None:
        self._engine.send(Generate(request_id, tuple(ids), max_new_tokens=most))

    def arrivals(self) -> list[tuple[str, int, bool]]:
        outputs = self._engine.step().outputs
        assert not any(output.error for output in outputs), outputs
        return [(output.request_id, len(output.token_ids), output.ends) for output in outputs]


if __name__ == "__main__":
    serve(partial(Worker, *sys.argv[1:]))
