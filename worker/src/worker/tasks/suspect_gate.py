"""Who may be in the batch together: a task that may have killed an engine before runs alone."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class SuspectGate:
    """First come, first served: a suspect waits until the batch is empty, and whoever comes behind it waits for it."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._queue: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def entered(self, *, alone: bool) -> AsyncIterator[None]:
        """Holds a place in the batch, or the whole batch."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((alone, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            else:
                self._admit()
            raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        self._alone = False
        self._admit()

    def _admit(self) -> None:
        while self._queue and not self._alone:
            alone, turn = self._queue[0]
            if alone and self._inside and not turn.cancelled():
                return
            self._queue.popleft()
            if turn.cancelled():  # whoever waited here has gone
                continue
            self._inside += 1
            self._alone = alone
            turn.set_result(None)
