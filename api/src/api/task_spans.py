"""The API's spans of tasks: one for each that it sends, and one for each attempt whose worker died."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from shared.celery_app import queue_for
from shared.store.task_record import TaskRecord
from shared.telemetry import semantic_conventions as names
from shared.telemetry.tracing import context_of, context_text, link_to, tracing_is_on
from shared.wire.schemas import Priority

_tracer = trace.get_tracer("headrace.api")


@contextmanager
def sending(task_id: str, *, model: str, priority: Priority, tenant: str, parent: str) -> Iterator[str]:
    """The span of a task's acceptance and of its message; yields the context that all its attempts hang on.

    `parent`: place in its trace from which the task comes (`tracing.context_text`).
    """
    queue = queue_for(model, priority)
    attributes = {
        names.MESSAGING_SYSTEM: "celery",
        names.MESSAGING_OPERATION: "send",
        names.MESSAGING_OPERATION_TYPE: "send",
        names.MESSAGING_DESTINATION: queue,
        names.MESSAGING_MESSAGE_ID: task_id,
        names.TASK_ID: task_id,
        names.REQUEST_MODEL: model,
        names.TENANT: tenant,
    }
    with _tracer.start_as_current_span(
        f"send {queue}", context_of(parent), SpanKind.PRODUCER, attributes, record_exception=False
    ) as span:
        try:
            yield context_text(span)
        except Exception as error:
            span.set_attribute(names.ERROR_TYPE, type(error).__name__)
            raise


def link_stream(record: TaskRecord) -> None:
    """Ties the span of the request that reads a stream to the trace of its task."""
    span = trace.get_current_span()
    task = link_to(record.context)
    if span.is_recording():
        span.set_attribute(names.TASK_ID, record.task_id)
        if task.is_valid:
            span.add_link(task)


def export_lost_attempt(record: TaskRecord) -> None:
    """Exports the span of an attempt whose worker died before it could, under the id that the worker had announced."""
    lost = link_to(record.attempt_context)
    if not (tracing_is_on() and lost.is_valid and lost.trace_flags.sampled and record.started_at):
        return
    from shared.telemetry.span_export import span_id

    attributes: dict[str, str | int] = {
        names.MESSAGING_SYSTEM: "celery",
        names.MESSAGING_OPERATION_TYPE: "process",
        names.MESSAGING_MESSAGE_ID: record.task_id,
        names.TASK_ID: record.task_id,
        names.REQUEST_MODEL: record.model,
        names.TENANT: record.tenant,
        names.ATTEMPT: record.attempt,
        names.OUTCOME: "lost",
        names.ERROR_TYPE: "worker_lost",
    }
    with span_id(lost.span_id):
        span = _tracer.start_span(
            f"process {record.model}",
            context_of(record.context),
            SpanKind.CONSUMER,
            attributes,
            start_time=record.started_at * 1_000_000,
        )
    span.set_status(Status(StatusCode.ERROR, "the worker's lease ran out; exported by the janitor"))
    span.end()
