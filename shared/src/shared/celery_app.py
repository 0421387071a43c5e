"""The Celery application both services build, the task's name, and the queue of each model and class."""

import logging
from collections.abc import Iterator
from typing import Any, get_args
from urllib.parse import urlsplit

from celery import Celery
from celery.backends.redis import RedisBackend, SentinelBackend
from kombu.entity import Queue
from redis.exceptions import RedisError

from shared.settings import SharedSettings
from shared.store.outage import level
from shared.wire.schemas import QueueClass

log = logging.getLogger(__name__)

TASK_NAME = "run_llm_inference_task"

QUEUE_CLASSES: tuple[QueueClass, ...] = get_args(QueueClass)

LONGEST_TASK_SECONDS = 24 * 3600
"""Upper bound of `timeoutSeconds`; the broker's own redelivery stays out of the way for longer than that."""


def queue_for(model: str, queue_class: QueueClass) -> str:
    """Name of the Celery queue of a model and class: `<model>.<class>`."""
    return f"{model}.{queue_class}"


def own_queue_for(model: str, worker: str) -> str:
    """Name of the Celery queue of one worker: `<model>:<worker>`."""
    return f"{model}:{worker}"


def own_queue(model: str, worker: str) -> Queue:
    """A worker's own queue. Nobody declares it: kombu keeps what is declared, and workers come and go."""
    return Queue(own_queue_for(model, worker), no_declare=True)  # type: ignore[no-untyped-call]  # kombu has no types


def make_celery(settings: SharedSettings) -> Celery:
    """A configured Celery application that has registered no task and opened no connection.

    Every option here has its measurement or its reason in docs/decisions/0002-celery-on-redis.md.
    """
    url = settings.redis_url.get_secret_value()
    transport = _transport_options(settings)
    app = Celery("headrace", broker=url, backend=_backend_url(url), set_as_current=False)
    app.conf.update(
        broker_transport_options={
            **transport,
            # Queues share a Redis with other applications only under our own prefix, kombu's bindings included.
            "global_keyprefix": settings.key_prefix,
            # The ledger's lease is the authority on who runs what; redelivery by age would only make duplicates.
            "visibility_timeout": 2 * LONGEST_TASK_SECONDS,
            # Strict order of QUEUE_CLASSES instead of Celery's round robin.
            "queue_order_strategy": "priority",
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_publish_retry=False,
        task_create_missing_queues=True,
        result_expires=settings.retention_seconds,
        # No prefix on results: AsyncResult(task_id).get() must work for any Celery client that knows the URL.
        result_backend_transport_options=transport,
        # One result backend, and one pool of connections, for all threads instead of one each.
        result_backend_thread_safe=True,
        result_backend_always_retry=True,
        result_backend_max_retries=8,
    )
    return app


def close_celery(app: Celery) -> None:
    """Closes the application and its connections to the results; `app.close()` leaves those to the garbage collector.

    Connections to the broker stay with kombu, which lends them to every application of the process.
    """
    app.close()
    app.backend.result_consumer.stop()
    app.backend.client.connection_pool.disconnect()


def send_task(
    app: Celery,
    task_id: str,
    model: str,
    queue_class: QueueClass,
    headers: dict[str, str],
    worker: str | None = None,
) -> None:
    """Publishes the message of one task, to the model's workers or to one. Blocking; call it in a thread.

    `headers` carry the W3C trace context. Raises kombu's OperationalError when Redis does not answer; the outcome is
    then unknown, and the janitor sends the message again if it never arrived.
    """
    queue = queue_for(model, queue_class) if worker is None else own_queue(model, worker)
    app.send_task(TASK_NAME, args=[task_id], task_id=task_id, queue=queue, headers=headers, retry=False)


def _transport_options(settings: SharedSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_timeout,
        "socket_keepalive": True,
        "health_check_interval": 5,
    }
    if settings.redis_url.get_secret_value().startswith("sentinel"):
        if login := settings.sentinel_login:  # then redis-py takes over nothing else for the Sentinels
            options["sentinel_kwargs"] = options | login
        options["master_name"] = settings.redis_sentinel_service
    return options


class _ResultRules:
    """Mixed into a result backend."""

    def on_task_call(self, producer: object, task_id: str) -> None:
        """No SUBSCRIBE for every published task: nobody here waits for a result."""

    def exception_safe_to_retry(self, error: Exception) -> bool:
        """Also when Redis is out of memory, read-only or loading: else a result that is not written is a FAILURE."""
        return isinstance(error, RedisError)

    def on_connection_error(self, max_retries: int, exc: Exception, intervals: Iterator[float], retries: int) -> float:
        """The pause before the next try. No line for each: the outage is told where it is found."""
        log.log(level(exc), "the results cannot be reached: %s", exc)
        return next(intervals)


class SilentRedisBackend(_ResultRules, RedisBackend):  # type: ignore[misc]  # Celery has no types
    """The results, in Redis."""


class SilentSentinelBackend(_ResultRules, SentinelBackend):  # type: ignore[misc]  # Celery has no types
    """The results, in a Redis that Sentinel watches."""


def _backend_url(url: str) -> str:
    backend = SilentSentinelBackend if urlsplit(url).scheme == "sentinel" else SilentRedisBackend
    return f"{__name__}:{backend.__name__}+{url}"
