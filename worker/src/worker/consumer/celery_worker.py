"""The Celery worker inside this process: one task, one thread per message, our signals instead of Celery's."""

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

from celery import Celery, signals
from celery.apps.worker import Worker
from celery.exceptions import Ignore, SecurityWarning
from celery.worker import state
from kombu.exceptions import OperationalError

from shared.celery_app import QUEUE_CLASSES, TASK_NAME, own_queue, queue_for, send_task
from shared.store.outage import Outage, level
from shared.telemetry.logs import begin_thread
from shared.telemetry.tracing import message_headers, received
from worker.consumer.gate import ConsumerGate, gate_step, let_requests_end_while_they_are_counted
from worker.consumer.reconnecting import reconnecting_consumer
from worker.tasks.outcomes import Answered, Dropped, Failed, HandedOver, MessageEnd

log = logging.getLogger(__name__)


class TaskFailed(Exception):
    """The task ended in FAILURE; the message is the one of its error event."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a message."""

    task_id: str
    """Of the task that it brought to work: maybe not the one that it was sent for."""
    context: str
    """That task's place in its trace (`tracing.context_text`)."""
    end: MessageEnd


def register_task(app: Celery, model: str, deliver: Callable[[str, str], Future[Delivered]]) -> None:
    """Registers the one Celery task. `deliver` begins with a message: the id of the task that it was sent for, and its
    place in a trace. Which of the model's tasks is worked on is the ledger's choice, and so is every result.
    """

    def run_llm_inference_task(self: Any, message_id: str) -> None:
        context = received({name: self.request.get(name) or "" for name in ("traceparent", "tracestate")})
        begin_thread(task_id=message_id)
        try:
            done = deliver(message_id, context).result()
        except (CancelledError, RuntimeError):
            # The loop has ended under the task: its lease runs out, and another worker goes on.
            done = Delivered(message_id, context, Dropped())
        match done.end:
            case Answered():
                return
            case Failed(message) if done.task_id == message_id:
                raise TaskFailed(message)
            case HandedOver():
                _send_again(app, done.task_id, model, done.context)
            case Dropped():
                log.debug("The message of task %s is dropped.", message_id)
        # Of this Celery's events tell no end. An answer goes without: Celery copies its traceback, with every code
        # object, which was a seventh of a short task's cost.
        raise Ignore

    # An answer belongs to one tenant; Celery's events, which carry the beginning of a result, go to whoever listens.
    # What fails is the task, not the worker: no traceback in its log.
    options = {"bind": True, "resultrepr_maxsize": 1, "throws": (TaskFailed,)}
    app.task(name=TASK_NAME, **options)(run_llm_inference_task)


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
