"""Lines of a log, as a process writes them."""

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from shared.telemetry.logs import LogOptions, adopt, begin_thread, bind, scope, set_up_logging

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Lines]]:
    """Sets logging up as a process does, and restores pytest's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    written = ""

    def lines() -> list[dict[str, Any]]:
        nonlocal written
        written += capsys.readouterr().err
        return [json.loads(line) for line in written.splitlines()]

    def start(**options: Any) -> Lines:
        set_up_logging(LogOptions(**{"format": "json", **options}))
        return lines

    yield start
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("quiet.library", "celery", "celery.worker.strategy"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_line_is_one_json_object_with_level_logger_time_and_message(log: Callable[..., Lines]) -> None:
    lines = log(fields={"service": "headrace-test"})
    logging.getLogger("some.module").info("It is %s.\nReally.", "so")
    (line,) = lines()
    assert line.pop("timestamp").startswith("20")
    assert line == {
        "level": "INFO", "logger": "some.module", "message": "It is so.\nReally.", "service": "headrace-test"
    }  # fmt: skip


def test_an_exception_is_a_field_of_its_line(log: Callable[..., Lines]) -> None:
    lines = log()
    try:
        raise ValueError("broken")
    except ValueError:
        logging.exception("It failed.")
    (line,) = lines()
    assert line["message"] == "It failed."
    assert line["exception"].endswith("ValueError: broken")


def test_what_is_bound_stands_on_every_line_of_its_scope_and_on_no_other(log: Callable[..., Lines]) -> None:
    lines = log()
    with scope(task_id="t1"):
        bind(attempt=2)
        logging.info("inside")
    logging.info("outside")
    inside, outside = lines()
    assert (inside["task_id"], inside["attempt"]) == ("t1", 2)
    assert "task_id" not in outside


async def test_two_requests_at_once_do_not_mix_their_fields(log: Callable[..., Lines]) -> None:
    lines = log()
    both = asyncio.Barrier(2)

    async def request(task_id: str) -> None:
        with scope():
            bind(task_id=task_id)
            await both.wait()
            logging.info("%s", task_id)

    await asyncio.gather(request("a"), request("b"))
    assert sorted((line["message"], line["task_id"]) for line in lines()) == [("a", "a"), ("b", "b")]


async def test_a_thread_that_waits_for_the_loop_learns_what_the_loop_binds(log: Callable[..., Lines]) -> None:
    lines = log()
    loop = asyncio.get_running_loop()

    async def on_the_loop() -> None:
        bind(attempt=1)

    def task(task_id: str) -> None:
        begin_thread(task_id=task_id)
        asyncio.run_coroutine_threadsafe(on_the_loop(), loop).result(5)
        logging.info("done")

    with ThreadPoolExecutor(1) as pool:
        await loop.run_in_executor(pool, task, "t1")
        await loop.run_in_executor(pool, task, "t2")
    assert [(line["task_id"], line["attempt"]) for line in lines()] == [("t1", 1), ("t2", 1)]


def test_the_current_span_names_its_trace(log: Callable[..., Lines]) -> None:
    lines = log()
    context = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        logging.info("inside")
    assert lines()[0]["trace_id"] == f"{0xABC:032x}"
    assert lines()[0]["span_id"] == f"{0xDEF:016x}"


def test_celerys_lines_about_a_task_carry_its_id_and_never_its_answer(log: Callable[..., Lines]) -> None:
    lines = log()
    logger = logging.getLogger("celery.app.trace")
    details = {"id": "t1", "name": "run", "return_value": "the answer", "runtime": 0.1, "args": "()", "kwargs": "{}"}
    logger.info("Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s", details, extra={"data": details})
    (line,) = lines()
    assert line["task_id"] == "t1"
    assert "the answer" not in json.dumps(line)
    assert line["message"] == "Task run[t1] succeeded in 0.1s: ..."


def test_levels_hold_for_single_loggers_and_those_below_them(log: Callable[..., Lines]) -> None:
    lines = log(level="INFO", levels={"quiet.library": "ERROR", "celery.worker.strategy": "INFO"})
    logging.getLogger("quiet.library.part").warning("not this")
    logging.getLogger("celery.worker.strategy").info("this, although it is quiet by default")
    logging.getLogger("other").info("and this")
    assert [line["logger"] for line in lines()] == ["celery.worker.strategy", "other"]


def test_a_library_with_handlers_of_its_own_is_adopted(log: Callable[..., Lines]) -> None:
    library = logging.getLogger("quiet.library")
    own = io.StringIO()
    library.addHandler(logging.StreamHandler(own))
    library.propagate = False
    lines = log()
    adopt("quiet.library")
    library.warning("hello")
    assert [line["message"] for line in lines()] == ["hello"]
    assert own.getvalue() == ""


def test_warnings_are_lines_too(log: Callable[..., Lines]) -> None:
    lines = log()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert [line["logger"] for line in lines()] == ["py.warnings"]


def test_a_readable_line_ends_with_the_task(log: Callable[..., Lines], capsys: pytest.CaptureFixture[str]) -> None:
    log(format="text")
    with scope(task_id="t1", model="m"):
        logging.getLogger("some.module").info("Hello.")
    assert capsys.readouterr().err.endswith("INFO some.module: Hello.  [task_id=t1 model=m]\n")
