"""The process that owns a trained model: commands come in over one pipe, one message per engine step goes out.

What engines have in common; each brings its batch.
"""

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from worker.engine_protocol import (
    STOP_SECONDS,
    Cancel,
    Command,
    Generate,
    Message,
    Output,
    Ready,
    StartFailed,
    Step,
    Stop,
)
from worker.engines.heap import keep_freed_memory
from worker.model_files import ModelUnavailable

if TYPE_CHECKING:
    from worker.engines.grammar import Grammars
    from worker.engines.reasoning_first import AnswerConstraint

log = logging.getLogger(__name__)

SPIN_COUNT = "5000"
"""Rounds (some tenths of a millisecond) for which a torch thread waits awake before it sleeps.

libgomp's own 300,000 make steps six times longer beside a busy process; sleeping at once, a third to two thirds longer
on cores that nobody else wants (docs/decisions/0003-engine.md). The environment variable of libgomp goes first.
"""


class HeldRequest(Protocol):
    """A request that an engine holds."""

    generate: Generate
    constraint: "AnswerConstraint | None"


Held = TypeVar("Held", bound=HeldRequest)


class Batch(Protocol[Held]):
    """All requests being decoded together. A thread of its own makes the steps; these methods are called by others."""

    def hold(self, generate: Generate) -> Held | None:
        """Registers a request before it may join; None when its id is already held."""

    def join_batch(self, held: Held) -> None:
        """Lets a held request take part from the next step on."""

    def end_at_once(self, output: Output) -> None:
        """Sends the only output of a request that never joins."""

    def cancel(self, request_id: str) -> None:
        """Forgets a request: no output follows, its slot is free after the current step."""

    def is_running(self) -> bool:
        """False when no more steps will come."""

    def end(self, seconds: float) -> None:
        """Lets the step in progress end, for so long."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Held]):
    """A model that is ready."""

    ready: Ready
    batch: Batch[Held]
    grammars: "Grammars | None"
    """None where the model's tokenizer cannot be used for them."""


Send = Callable[[Message], None]
Load = Callable[[Send], Loaded[Held]]
"""Loads the model and starts its batch, whose steps go to the given function. Raises ModelUnavailable."""


def run(connection: Connection, load: Load[Held]) -> None:
    """The process from its start to its end: loads, then answers commands until `Stop`, SIGTERM or the parent's end.

    Ends the process: with 0 after `Stop`, with 1 when the engine cannot start or its generation loop has died.
    """
    # libgomp reads it when torch is imported, which `load` does.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    code = EngineProcess(connection, load).run()
    logging.shutdown()
    os._exit(code)  # not sys.exit: a thread that hangs in a step or in a grammar would keep the interpreter alive


class EngineProcess(Generic[Held]):
    """The child's end of the pipe: commands are read by one thread, steps are sent by the generation thread."""

    def __init__(self, connection: Connection, load: Load[Held]) -> None:
        self._connection = connection
        self._load = load
        self._sending = threading.Lock()
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._compiling = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
        self._batch: Batch[Held]
        self._grammars: Grammars | None = None

    def run(self) -> int:
        """Loads, serves and returns the exit code."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._receive, name="commands", daemon=True).start()
        try:
            # In a thread of its own, whose OpenMP helpers end with it: beside those of the generation thread they would
            # be more than the cores, and libgomp lets every thread sleep early then. A step took half as long again.
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loading") as loading:
                loaded = loading.submit(self._load, self._send_loaded).result()
        except ModelUnavailable as error:
            self._send(StartFailed(str(error)))
            return 1
        except Exception as error:
            log.exception("The engine could not start.")
            self._send(StartFailed(f"The engine could not start: {type(error).__name__}: {error}"))
            return 1
        self._batch, self._grammars = loaded.batch, loaded.grammars
        gc.freeze()  # what was imported and loaded stays: to look through it for cycles would be a step of 100 ms
        keep_freed_memory()
        self._send(loaded.ready)
        self._ready.set()
        while self._batch.is_running() and not self._stop.wait(timeout=0.2):
            pass
        if self._stop.is_set():
            # The rest of the bound is for what has gone by since `Stop`, and for the end of the process.
            self._batch.end(STOP_SECONDS - 0.5)
            return 1 if self._batch.is_running() else 0
        log.error("The generation loop has died; the engine process leaves.")
        return 1

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        self._stop.set()
        if not self._ready.is_set():
            os._exit(0)  # nothing to finish while loading

    def _send_loaded(self, message: Message) -> None:
        """What loading and the batch send: progress, and steps once the model is ready."""
        if self._ready.is_set() or not isinstance(message, Step):
            self._send(message)

    def _send(self, message: Message) -> None:
        with self._sending:
            try:
                self._connection.send(message)
            except (BrokenPipeError, ConnectionResetError):
                os._exit(1)  # the parent is gone

    def _receive(self) -> None:
        """Reads commands until the parent's end of the pipe closes, which ends this process."""
        try:
            while True:
                self._obey(self._connection.recv())
        except (EOFError, OSError):
            log.info("The parent is gone; the engine process leaves.")
        except BaseException:
            log.exception("The engine process cannot take commands any more and leaves.")
        os._exit(1)

    def _obey(self, command: Command) -> None:
        match command:
            case Generate():
                self._ready.wait()
                self._generate(command)
            case Cancel(request_id):
                self._ready.wait()
                self._batch.cancel(request_id)
            case Stop():
                self._leave()

    def _generate(self, generate: Generate) -> None:
        held = self._batch.hold(generate)
        if held is None:
            log.error("The request %s is already held; its second command is dropped.", generate.request_id)
            return
        if generate.grammar is None:
            self._batch.join_batch(held)
        else:
            self._compiling.submit(self._compile, held)

    def _compile(self, held: Held) -> None:
        """Compiles a grammar beside the generation thread: a large schema does not stall the batch."""
        from worker.engines.constraint import InvalidGrammar

        generate = held.generate
        assert generate.grammar is not None
        assert self._grammars is not None
        try:
            held.constraint, complete = self._grammars.compile(generate.grammar, generate.generated_ids)
        except InvalidGrammar as error:
            self._batch.end_at_once(Output(generate.request_id, (), error=f"The grammar cannot be used: {error}"))
            return
        if complete:
            self._batch.end_at_once(Output(generate.request_id, (), finish="stop"))
        else:
            self._batch.join_batch(held)
