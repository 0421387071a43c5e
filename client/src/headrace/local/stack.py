"""The local stack while it runs: processes started in order, watched, restarted, stopped."""

import collections
import contextlib
import fcntl
import re
import signal
import sys
import threading
import time
from collections.abc import Callable

from headrace.local import vllm_environment
from headrace.local.child import Child
from headrace.local.plan import Plan, Process, StackError, choose_ports, require_installed, services, valkey
from headrace.local.probes import NOBODY, KeyRefused, answers_ping, is_ready, unready_model
from headrace.local.report import Report

WATCH_SECONDS = 0.1
VALKEY_START_SECONDS = 60.0
"""It may have to read a long append-only file."""
API_START_SECONDS = 60.0
STOP_SECONDS = 10.0
"""After that a process that was asked to stop is killed."""
RESTARTS_PER_MINUTE = 5


class Stack:
    """The processes of one plan."""

    def __init__(self, plan: Plan, report: Report) -> None:
        self._plan = plan
        self._report = report
        self._children: list[Child] = []
        self._on_stop = contextlib.ExitStack()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watcher")
        self._detail = ""
        """What the workers of a model that is not ready say of themselves."""
        self.url = ""
        self.failure: str | None = None
        """Why the stack gave up after it was ready; the main thread then gets a SIGINT."""

    def start(self) -> None:
        """Starts everything and returns when the model is ready. Raises StackError. Call `stop` in any case."""
        plan = self._plan
        require_installed()
        self._take_data_dir()
        ports = choose_ports(plan)
        self.url = ports.url
        worker_python = sys.executable if plan.engine == "transformers" else str(vllm_environment.ready(self._report))
        self._report.begin("Valkey")
        self._start(valkey(plan, ports))
        self._until(lambda: answers_ping(ports.valkey), VALKEY_START_SECONDS, "Valkey does not answer")
        self._report.begin("the API")
        for process in services(plan, ports, worker_python):
            self._start(process)
        self._until(lambda: is_ready(ports.internal_url), API_START_SECONDS, "The API does not become ready")
        self._report.tell(f"The API is ready at {self.url}; the model is loading.")
        self._report.begin("the model")
        self._until(self._model_is_ready, plan.start_seconds, "The model does not become ready")
        addresses = plan.data_dir / "stack.env"
        addresses.write_text(f"HEADRACE_URL={self.url}\nHEADRACE_REDIS_URL={ports.redis_url}\n")
        self._on_stop.callback(addresses.unlink, missing_ok=True)
        self._watcher.start()

    def stop(self) -> None:
        """Stops every process that was started. Ctrl-C in the middle of it kills them."""
        self._stopping.set()
        finish = self._watcher.join if self._watcher.ident else self._stop_children
        try:
            finish()
        except KeyboardInterrupt:
            self._hurry.set()
            finish()
        self._on_stop.close()

    def _take_data_dir(self) -> None:
        directory = self._plan.data_dir
        try:
            for part in (directory / "logs", directory / "valkey"):
                part.mkdir(parents=True, exist_ok=True)
            lock = self._on_stop.enter_context((directory / "lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"Another `headrace up` uses {directory}: stop it, or choose another --data-dir") from None
        except OSError as error:
            raise StackError(f"The data directory {directory} cannot be used: {error.strerror}") from None

    def _start(self, process: Process) -> None:
        log = self._plan.data_dir / "logs" / f"{process.name}.log"
        child = Child(process.name, process.command, {**process.environment, **self._plan.environment}, log)
        self._children.append(child)
        child.start()

    def _until(self, ready: Callable[[], bool], seconds: float, otherwise: str) -> None:
        begin = time.monotonic()
        while not ready():
            for child in self._children:
                if death := child.death():
                    raise StackError(f"{child.name} {death} while starting: {_last_words(child)}")
            if time.monotonic() > begin + seconds:
                raise StackError(f"{otherwise} within {seconds:.0f} s; the logs are in {self._plan.data_dir / 'logs'}")
            self._report.progress(self._detail or self._last_line())
            time.sleep(WATCH_SECONDS)

    def _model_is_ready(self) -> bool:
        try:
            unready = unready_model(self.url, self._plan.api_key)
        except KeyRefused:
            raise StackError(
                "The API asks for a key and does not take "
                + ("none." if self._plan.api_key is None else "this one.")
                + " Give one that may ask with --api-key or HEADRACE_API_KEY."
            ) from None
        self._detail = "" if unready == NOBODY else unready
        return not unready

    def _last_line(self) -> str:
        """Of a worker's log, which takes longest; of Valkey's while there is none."""
        child = self._children[min(1, len(self._children) - 1)]
        lines = child.log_lines() or ["starting"]
        return f"{child.name}: {lines[-1]}"

    def _watch(self) -> None:
        """Restarts what dies, and stops everything in the end: what this thread started dies with it."""
        deaths: dict[str, collections.deque[float]] = collections.defaultdict(collections.deque)
        try:
            while self.failure is None and not self._stopping.wait(WATCH_SECONDS):
                for child in self._children:
                    if death := child.death():
                        self._restart(child, death, deaths[child.name])
        finally:
            self._stop_children()
            if self.failure is not None:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _restart(self, child: Child, death: str, deaths: collections.deque[float]) -> None:
        now = time.monotonic()
        deaths.append(now)
        while deaths[0] < now - 60:
            deaths.popleft()
        if len(deaths) > RESTARTS_PER_MINUTE:
            self.failure = f"{child.name} {death}, {len(deaths)} times in a minute: {_last_words(child)}"
            return
        self._report.tell(f"{child.name} {death} and is started again; its last words: {_last_words(child)}")
        child.wait(0)  # what the process left behind in its group
        child.start()

    def _stop_children(self) -> None:
        """API and workers first, then Valkey, which takes their last words."""
        for children in (self._children[1:], self._children[:1]):
            for child in children:
                child.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            for child in children:
                while child.death() is None and time.monotonic() < deadline and not self._hurry.is_set():
                    time.sleep(WATCH_SECONDS / 5)
                child.wait(0)


TELLING = (re.compile(r"\bCRITICAL\b|^headrace"), re.compile(r"^[\w.]*(Error|Exception)\b"), re.compile(r"\bERROR\b"))
"""Log lines that say why a process ended, the most telling kind first: its own word, an exception, an error."""


def _last_words(child: Child) -> str:
    lines = child.log_lines()
    telling = next((found for kind in TELLING if (found := [line for line in lines if kind.search(line)])), lines)
    return f"{telling[-1] if telling else 'none'} (log: {child.log})"
