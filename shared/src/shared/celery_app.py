"""The Celery application both services build, the task's name, and the queue of each model and class."""

from typing import Any, get_args

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.transport import virtual
from kombu.utils.json import dumps

from shared.settings import SharedSettings
from shared.store.task_record import TaskMessage
from shared.wire.schemas import QueueClass

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
    # Results are the ledger's, which writes them in the step that ends the task (lua/results.lua).
    app = Celery("headrace", broker=settings.redis_url.get_secret_value(), backend="disabled://", set_as_current=False)
    app.conf.update(
        broker_transport_options={
            **_transport_options(settings),
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
        accept_content=["json"],
        task_publish_retry=False,
        task_create_missing_queues=True,
    )
    return app


def send_task(
    app: Celery,
    task_id: str,
    model: str,
    queue_class: QueueClass,
    headers: dict[str, str],
    connection: Connection | None = None,
) -> None:
    """Publishes the message of one task, to the model's workers. Blocking; call it in a thread.

    `headers` carry the W3C trace context; `connection` is None for one of the application's. Raises kombu's
    OperationalError when Redis does not answer; the outcome is then unknown, and the janitor sends the message again if
    it never arrived.
    """
    queue = queue_for(model, queue_class)
    app.send_task(
        TASK_NAME, args=[task_id], task_id=task_id, queue=queue, headers=headers, retry=False, connection=connection
    )


class MessageWriter:
    """Writes tasks' messages for the ledger, which puts them into their queues itself (lua/accept.lua)."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection = Connection(transport=_WritingTransport)  # type: ignore[no-untyped-call]  # kombu has no types
        self._channel: Any = self._connection.default_channel

    def write(self, task_id: str, model: str, queue_class: QueueClass, headers: dict[str, str]) -> TaskMessage:
        """What `send_task` would send. Without I/O; for one thread at a time."""
        send_task(self._app, task_id, model, queue_class, headers, self._connection)
        return TaskMessage(self._channel.text, queue_for(model, queue_class), own_queue_for(model, ""))


class _WritingChannel(virtual.Channel):
    text = ""
    """Of the last message: what kombu's Redis transport would have put into the queue's list."""

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.text = dumps(message)  # type: ignore[no-untyped-call]

    def _size(self, queue: str) -> int:
        return 0


class _WritingTransport(virtual.Transport):
    Channel = _WritingChannel


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
