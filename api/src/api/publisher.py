"""The API's way to the Celery broker: blocking calls in a small thread pool, each with a deadline."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import celery
from prometheus_client import Counter

from shared.celery_app import MessageWriter, send_task
from shared.store.outage import level
from shared.wire.schemas import QueueClass

log = logging.getLogger(__name__)

THREADS = 8
"""More would only wait for each other: Celery keeps ten connections for publishing."""


class Publisher:
    """Sends task messages. What fails is logged and counted, never raised: the ledger has the task."""

    def __init__(self, app: celery.Celery, *, timeout: float, failures: Counter) -> None:
        """`timeout` in seconds, per message."""
        self._app = app
        self.writer = MessageWriter(app)
        self._timeout = timeout
        self._failures = failures
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="publish")

    async def warm_up(self) -> None:
        """Builds what Celery builds lazily, without connecting: the first message is as fast as the others."""

        def build() -> None:
            self._app.finalize()
            self._app.connection_for_write().transport  # noqa: B018  # a property that imports and builds
            self._app.amqp.queues  # noqa: B018
            self.writer.write("", "", "normal", {})

        await asyncio.get_running_loop().run_in_executor(self._threads, build)

    async def send(self, task_id: str, model: str, queue_class: QueueClass, headers: dict[str, str]) -> bool:
        """Publishes the task's message; False when the broker did not say within the deadline that it has it."""
        future = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: send_task(self._app, task_id, model, queue_class, headers)
        )
        try:
            # A thread that hangs on a silent broker ends with its socket's own timeout; one not begun is not begun.
            async with asyncio.timeout(self._timeout):
                await future
        except Exception as error:
            self._failures.inc()
            cause = error.__cause__  # kombu wraps redis-py's
            why = f"{type(error).__name__}: {str(error)[:200]}"
            log.log(level(cause or error), "publishing task %s failed: %s", task_id, why)
            return False
        return True

    def close(self) -> None:
        """Drops messages that wait for a thread; does not wait for those under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._app.close()
