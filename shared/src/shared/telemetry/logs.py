"""Logs of a process: JSON lines or readable ones, with the task and its place in its trace on every line about it."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from opentelemetry import trace
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

TASK_FIELDS = ("task_id", "model", "tenant", "key_id", "attempt", "trace_id", "span_id")
"""In the order in which a readable line shows them."""

QUIET: Mapping[str, Level] = {
    # "Task ... received" comes before anything but the id is known; the worker says the same once it has the task.
    "celery.worker.strategy": "WARNING",
}
"""Levels that hold unless the settings name the logger."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a process logs; picklable, because the engine process is told too."""

    level: Level = "INFO"
    format: Literal["auto", "json", "text"] = "auto"
    levels: Mapping[str, Level] = field(default_factory=dict)
    """By the name of a logger; those below it inherit."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """On every line of the process."""


_bound: ContextVar[dict[str, Any] | None] = ContextVar("log_fields", default=None)


def bind(**fields: Any) -> None:
    """Puts fields on all further lines of the innermost `scope`, and of the threads and asyncio tasks that share it."""
    current = _bound.get()
    if current is None:
        _bound.set(fields)
    else:
        current.update(fields)


def begin_thread(**fields: Any) -> None:
    """Forgets what was bound in this thread before: for pooled threads that run one task after another."""
    _bound.set(fields)


@contextmanager
def scope(**fields: Any) -> Iterator[None]:
    """What is bound inside ends with it."""
    token = _bound.set({**(_bound.get() or {}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def set_up_logging(options: LogOptions) -> None:
    """Replaces the root logger's handlers by one on stderr. Whatever Python code logs or warns of goes there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Fields(options.fields))
    as_json = options.format == "json" or (options.format == "auto" and not sys.stderr.isatty())
    handler.setFormatter(_json_formatter() if as_json else _TextFormatter())
    logging.basicConfig(level=options.level, handlers=[handler], force=True)
    for name, level in {**QUIET, **options.levels}.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)


def adopt(library: str) -> None:
    """Lets a library that brings its own handlers log like everything else; to be called once it is imported."""
    logger = logging.getLogger(library)
    logger.handlers.clear()
    logger.propagate = True


class _Fields(logging.Filter):
    """Adds the bound fields to a record, and keeps what users wrote and models answered out of Celery's lines."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def filter(self, record: logging.LogRecord) -> bool:
        fields = {**self._fields, **(_bound.get() or {})}
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            fields |= {
                "trace_id": trace.format_trace_id(span.trace_id),
                "span_id": trace.format_span_id(span.span_id),
            }
        if record.name.startswith("celery."):
            record.__dict__.pop("data", None)  # the same once more, as `extra`
            if isinstance(record.args, dict):
                fields.setdefault("task_id", record.args.get("id"))
                # The answer of a task that succeeded, and its arguments.
                record.args = {**record.args, **dict.fromkeys(("return_value", "args", "kwargs"), "...")}
        for name, value in fields.items():
            if value and not hasattr(record, name):
                setattr(record, name, value)
        return True


def _json_formatter() -> logging.Formatter:
    return JsonFormatter(
        "%(levelname)s %(name)s %(message)s",
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
        timestamp=True,
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
        json_ensure_ascii=False,
    )


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        known = ((name, getattr(record, name, None)) for name in TASK_FIELDS)
        shown = " ".join(f"{name}={value}" for name, value in known if value)
        return f"{super().formatMessage(record)}{f'  [{shown}]' if shown else ''}"
