"""Celery's consumer, as it comes back to a broker that was away: soon, in silence, whatever the broker did."""

import contextlib
import logging
import time
from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from redis.exceptions import ResponseError

from shared.store.outage import Outage, kind_of, level, told
from worker.tasks.redis_retry import pauses

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
"""While the store is known to be away, its coming back is looked for as often."""
REFUSED_SECONDS = 0.5
"""Before a broker that has refused something is asked again; it would be at once, as often as the CPU allows."""


def reconnecting_consumer(outage: Outage) -> type[Consumer]:
    """The class of the consumer."""

    class ReconnectingConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
        """Says nothing of an outage that is told elsewhere, and tells of a broker that refuses what only it asks for.

        Celery's own has a traceback per loss, a line per try, pauses of up to thirty seconds, none where the broker
        refuses (out of memory, read-only, a permission), and ends the process over a server that is no Redis.
        """

        def ensure_connected(self, conn: Any) -> Any:
            pause = pauses()
            while True:
                maybe_shutdown()
                if outage.reason:
                    time.sleep(LOOK_SECONDS)
                    continue
                try:
                    conn.ensure_connection(max_retries=1, interval_start=LOOK_SECONDS)
                except Exception as error:
                    cause = error.__cause__ or error
                    log.log(level(cause), "The broker cannot be reached: %s", cause)
                    time.sleep(next(pause))
                else:
                    self.first_connection_attempt = False
                    return conn

        def on_connection_error_before_connected(self, exc: Exception) -> None:
            self._note(exc)

        def on_connection_error_after_connected(self, exc: Exception) -> None:
            self._note(exc)
            with contextlib.suppress(Exception):
                self.connection.collect()

        def _note(self, error: Exception) -> None:
            log.log(level(error), "The broker's connection is lost: %s", error)
            if isinstance(error, ResponseError):
                if (kind := kind_of(error)) is not None:
                    outage.refused(kind, told(kind, str(error)))
                time.sleep(REFUSED_SECONDS)

    return ReconnectingConsumer
