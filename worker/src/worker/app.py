"""One worker process: Celery's consumer in the main thread, the event loop in a second one, a thread per task."""

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType

from pydantic import ValidationError

from shared.celery_app import make_celery
from shared.settings import wrong_settings
from shared.store.installation import PrefixTaken
from shared.store.outage import Outage
from shared.telemetry.logs import set_up_logging
from shared.telemetry.tracing import start_tracing
from worker.consumer.celery_worker import Delivered, make_worker, register_task, stop_worker
from worker.consumer.gate import ConsumerGate
from worker.engines.supervisor import EngineUnavailable
from worker.model_files import ModelUnavailable
from worker.settings import WorkerSettings
from worker.status.health import InternalServer
from worker.worker_loop import WorkerLoop

log = logging.getLogger(__name__)

LOOP_STALL_SECONDS = 30.0
"""Liveness: an event loop that has not turned for so long has lost every lease."""


def main() -> int:
    """Runs a worker until it is told to stop; the exit code."""
    try:
        settings = WorkerSettings()
    except ValidationError as error:
        print(f"headrace worker: {'; '.join(wrong_settings(error))}", file=sys.stderr)  # noqa: T201  # there is no log yet
        return 2
    set_up_logging(settings.log_options(service="headrace-worker", model=settings.model_name))
    end_tracing = start_tracing("headrace-worker")
    try:
        return WorkerProcess(settings).run()
    finally:
        end_tracing()


class WorkerProcess:
    """The threads of one worker, their start, and their end within a bound."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._outage = Outage()
        self._worker_loop = WorkerLoop(settings, self._outage, on_change=self._on_change)
        self._gate = ConsumerGate(lambda: self._worker_loop.takes_tasks)
        gate = self._gate
        self._worker_loop.metrics.watch(connects=lambda: gate.connects, stalled_seconds=gate.stalled_seconds)
        self._ready: Future[bool] = Future()
        """True when tasks can be taken for the first time, False when the worker stops before that."""
        self._end: asyncio.Task[None] | None = None
        self._last_resort: threading.Timer | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Blocks until the worker has stopped; the exit code."""
        try:
            server = self._serve_internal()
        except OSError as error:
            log.critical("The port %d is not free: %s", self._settings.internal_port, error)
            return 1
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        faulthandler.register(signal.SIGUSR1)  # prints what every thread is doing
        thread = threading.Thread(target=self._run_loop, name="event-loop")
        thread.start()
        try:
            # Not before: the engine's process is started in the other thread, undisturbed.
            if self._ready.result():
                self._consume()
        finally:
            self._end_within(self._settings.handover_seconds)
            self._on_loop(self._worker_loop.stop)
            thread.join()
            if server is not None:
                server.close()
        return self._exit_code

    def _serve_internal(self) -> InternalServer | None:
        settings = self._settings
        if settings.internal_port == 0:
            return None
        return InternalServer(
            settings.internal_host,
            settings.internal_port,
            healthy=self._sick,
            ready=self._unready,
            registry=self._worker_loop.metrics.registry,
        )

    def _run_loop(self) -> None:
        """The event loop's thread."""
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._worker_loop.live(on_ready=lambda: self._ready.set_result(True)))
        except (EngineUnavailable, ModelUnavailable, PrefixTaken) as error:
            log.critical("The worker ends: %s", error)
            self._exit_code = 1
        except Exception:
            log.exception("The worker ends by a fault of its own.")
            self._exit_code = 1
        finally:
            self._end_within(self._settings.handover_seconds)
            if not self._ready.done():
                self._ready.set_result(False)
            stop_worker(self._exit_code, self._gate)

    def _consume(self) -> None:
        """Runs Celery's consumer in this thread until `stop_worker`."""
        settings = self._settings
        app = make_celery(settings)
        register_task(app, settings.model_name, self._deliver)
        worker = make_worker(
            app,
            name=settings.worker_name,
            model=settings.model_name,
            slots=settings.slots,
            gate=self._gate,
            outage=self._outage,
            task_events=settings.task_events,
        )
        # What was imported and loaded stays for ever: to look through it for cycles stopped all streams for 50 ms.
        gc.freeze()
        worker.start()
        self._exit_code = self._exit_code or worker.exitcode or 0

    def _deliver(self, message_id: str, context: str) -> Future[Delivered]:
        """Called in a thread of Celery's pool, which waits for the future."""
        runner = self._worker_loop.runner
        assert runner is not None
        taken = message_id, context

        def took(task_id: str, context: str) -> None:
            nonlocal taken
            taken = task_id, context

        async def deliver() -> Delivered:
            end = await runner.run(message_id, context, took=took)
            return Delivered(*taken, end)

        work = deliver()
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()  # the loop has ended
            raise

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: finish or hand over, then leave. Asking again changes nothing."""
        log.info("%s: this worker takes no more tasks.", signal.Signals(number).name)
        self._end_within(self._settings.drain_seconds + self._settings.handover_seconds)
        self._on_loop(self._begin_end)

    def _begin_end(self) -> None:
        if self._end is None:
            self._end = asyncio.ensure_future(self._leave())

    async def _leave(self) -> None:
        await self._worker_loop.drain(self._settings.drain_seconds)
        if self._ready.done():
            stop_worker(0, self._gate)
        else:
            self._worker_loop.stop()

    def _end_within(self, seconds: float) -> None:
        """Whatever is stuck then, the process is gone: leases run out, and others take over."""
        if self._last_resort is None:
            self._last_resort = threading.Timer(seconds, _give_up)
            self._last_resort.daemon = True
            self._last_resort.start()

    def _on_loop(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call)

    def _on_change(self) -> None:
        self._gate.wake()

    def _sick(self) -> str:
        """Why this process should be restarted; empty when it should not."""
        worker, patience = self._worker_loop, self._settings.consumption_stall_seconds
        if time.monotonic() - worker.ticked_at > LOOP_STALL_SECONDS:
            return "the event loop does not turn"
        if worker.engine.silence > 2 * self._settings.engine_stall_seconds:
            return "the engine gives no sign of life"
        # While Redis is away or refuses, nobody can take tasks, and a restart would not help.
        stalled = min(self._gate.stalled_seconds(), worker.registration.redis_up_seconds)
        if worker.takes_tasks and stalled > patience and not self._outage.reason:
            return f"Redis answers, but this worker has not asked for work for {stalled:.0f} s"
        return ""

    def _unready(self) -> str:
        """Why no tasks are taken now; empty when they are."""
        worker = self._worker_loop
        if not worker.registration.redis_up_seconds:
            return self._outage.reason or "Redis does not answer"
        if not worker.takes_tasks:
            return f"not taking tasks: {worker.engine.progress.detail}"
        return self._outage.refusal


def _give_up() -> None:
    log.critical("The worker did not stop in time; it ends now.")
    os._exit(1)
