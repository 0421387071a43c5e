"""The Celery worker inside this process: one task, one thread per message, our signals instead of Celery's."""

import contextlib
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

from celery import Celery, signals
from celery.apps.worker import Worker
from celery.exceptions import BackendStoreError, Ignore, SecurityWarning
from celery.worker import state
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from shared.celery_app import QUEUE_CLASSES, TASK_NAME, own_queue, queue_for, send_task
from shared.store.outage import Outage, level
from shared.telemetry.logs import begin_thread
from shared.telemetry.tracing import message_headers, received
from worker.consumer.gate import ConsumerGate, gate_step, let_requests_end_while_they_are_counted
from worker.consumer.reconnecting import reconnecting_consumer
from worker.tasks.outcomes import Answered, Dropped, Failed, HandedOver, MessageEnd, Revoked

log = logging.getLogger(__name__)


class TaskFailed(Exception):
    """The task ended in FAILURE; the message is the one of its error event."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message at work on this worker."""

    taken: Future[tuple[str, str] | None]
    """Id of the task that it brought to work, and its place in its trace (`telemetry.context_text`); None for none."""
    ended: Future[MessageEnd]


def register_task(app: Celery, model: str, deliver: Callable[[str, str], Delivery]) -> None:
    """Registers the one Celery task. `deliver` begins with a message: the id of the task that it was sent for, and its
    place in a trace. Which of the model's tasks is worked on is the ledger's choice; its result is stored under its own
    id.
    """

    def run_llm_inference_task(self: Any, message_id: str) -> dict[str, Any] | None:
        context = received({name: self.request.get(name) or "" for name in ("traceparent", "tracestate")})
        begin_thread(task_id=message_id)
        delivery = deliver(message_id, context)
        task_id, context = delivery.taken.result() or (message_id, context)
        # Not by `track_started`: there, a Redis that refuses this write makes a FAILURE of a task that still waits.
        with contextlib.suppress(BackendStoreError, RedisError):
            self.backend.store_result(task_id, {"hostname": self.request.hostname}, "STARTED", request=self.request)
        end = _end_of(delivery)
        if task_id != message_id:
            _store_result(self.backend, task_id, end)
        match end:
            case Answered(result) if task_id == message_id:
                return result.as_dict()
            case Answered():
                # No result of the message's own task. Celery's way to say so, `Ignore`, has it copy the traceback
                # twice, with every code object in it: a seventh of a short task's cost.
                self.request.ignore_result = True
                return None
            case Failed(message) if task_id == message_id:
                raise TaskFailed(message)
            case Revoked() if task_id == message_id:
                self.backend.mark_as_revoked(task_id, "cancelled", request=self.request, store_result=True)
            case HandedOver():
                _send_again(app, task_id, model, context)
            case Dropped():
                log.debug("The message of task %s is dropped.", message_id)
        raise Ignore

    # An answer belongs to one tenant; Celery's events, which carry the beginning of a result, go to whoever listens.
    # What fails is the task, not the worker: no traceback in its log.
    options = {"bind": True, "track_started": False, "resultrepr_maxsize": 1, "throws": (TaskFailed,)}
    app.task(name=TASK_NAME, **options)(run_llm_inference_task)


def _end_of(delivery: Delivery) -> MessageEnd:
    try:
        return delivery.ended.result()
    except (CancelledError, RuntimeError):
        # The loop has ended under the task: its lease runs out, and another worker goes on.
        return Dropped()


def _store_result(backend: Any, task_id: str, end: MessageEnd) -> None:
    """What Celery does at the end of a message's own task, for another one. The janitor mends what fails here."""
    with contextlib.suppress(BackendStoreError, RedisError):
        match end:
            case Answered(result):
                backend.mark_as_done(task_id, result.as_dict())
            case Failed(message):
                backend.mark_as_failure(task_id, TaskFailed(message))
            case Revoked():
                backend.mark_as_revoked(task_id, "cancelled")


def _send_again(app: Celery, task_id: str, model: str, context: str) -> None:
    try:
        send_task(app, task_id, model, "handover", message_headers(context))
    except OperationalError as error:
        loud = level(error.__cause__ or error)
        log.log(loud, "The message of task %s could not be sent again, the janitor will: %s", task_id, error)


class QuietWorker(Worker):  # type: ignore[misc]  # Celery has no types
    """Celery's worker program without its banner and its signal handlers: SIGTERM is app.py's."""

    def emit_banner(self) -> None:
        log.info("Taking tasks as %s.", self.hostname)

    def install_platform_tweaks(self, worker: Any) -> None:
        """No signal handlers of Celery's."""


def make_worker(
    app: Celery, *, name: str, model: str, slots: int, gate: ConsumerGate, outage: Outage, task_events: bool
) -> QuietWorker:
    """The worker, not started. `start()` blocks the main thread until `stop_worker`."""
    let_requests_end_while_they_are_counted()
    app.steps["consumer"].add(gate_step(gate))
    app.conf.update(
        worker_consumer=reconnecting_consumer(outage),
        worker_pool="threads",
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_send_task_events=task_events,
        # Our commands and cancellations go through the ledger; Celery's raise NotImplementedError in this pool.
        worker_enable_remote_control=False,
        # A Redis error that is not a lost connection (out of memory, read-only replica) reconnects instead of ending
        # the process with "Unrecoverable error".
        broker_channel_error_retry=True,
        # `ConsumerGate.full` counts what is really in hand, also across reconnects.
        worker_enable_prefetch_count_reduction=False,
        worker_redirect_stdouts=False,
        # About a minute per result; the ledger has it in any case.
        result_backend_max_retries=60,
        result_backend_max_sleep_between_retries_ms=1000,
    )
    # Behind those of the model: that a message is for this worker alone is no reason to take it sooner.
    own = app.amqp.queues.add(own_queue(model, name))
    # Celery configures no logging where this signal has a receiver.
    signals.setup_logging.connect(_keep_logging, weak=False)
    # Celery warns of running as root because of pickle; only JSON is accepted here.
    warnings.simplefilter("ignore", SecurityWarning)
    return QuietWorker(
        app=app,
        hostname=f"{model}@{name}",
        # None beyond the slots: what waits here waits beside another worker's free slot.
        concurrency=slots,
        queues=[*(queue_for(model, queue_class) for queue_class in QUEUE_CLASSES), own.name],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=not task_events,
        task_events=task_events,
        loglevel=logging.getLogger().level,
    )


def _keep_logging(**_: Any) -> None:
    """Leaves the logging as app.py has set it up."""


def stop_worker(exit_code: int, gate: ConsumerGate) -> None:
    """Makes `start()` return; from any thread."""
    state.should_stop = exit_code
    gate.wake()
