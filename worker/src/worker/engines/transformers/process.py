"""The process that owns the model: commands come in over one pipe, one message per engine step goes out."""

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING

from shared.telemetry.logs import adopt
from worker.engine_options import TransformersOptions
from worker.engine_protocol import (
    STOP_SECONDS,
    Cancel,
    Command,
    Generate,
    Loading,
    Message,
    Output,
    Ready,
    StartFailed,
    Step,
    Stop,
)
from worker.model_files import ModelUnavailable, model_revision

if TYPE_CHECKING:
    from worker.engines.grammar import Grammars
    from worker.engines.transformers.batch import Batch
    from worker.engines.transformers.sequence import Answer

log = logging.getLogger(__name__)

SPIN_COUNT = "5000"
"""Rounds (some tenths of a millisecond) for which a torch thread waits awake before it sleeps.

libgomp's own 300,000 make steps six times longer beside a busy process; sleeping at once, a third to two thirds longer
on cores that nobody else wants (docs/decisions/0003-engine.md). The environment variable of libgomp goes first.
"""


def serve(connection: Connection, options: TransformersOptions) -> None:
    """The process's main function: loads the model, answers commands until `Stop`, SIGTERM or the parent's end.

    Ends the process: with 0 after `Stop`, with 1 when the engine cannot start or its generation loop has died. torch is
    imported in here, so that the parent can name this function without loading it.
    """
    # libgomp reads it when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    code = EngineProcess(connection, options).run()
    logging.shutdown()
    os._exit(code)  # not sys.exit: a thread that hangs in a step or in a grammar would keep the interpreter alive


class EngineProcess:
    """The child's end of the pipe: commands are read by one thread, steps are sent by the generation thread."""

    def __init__(self, connection: Connection, options: TransformersOptions) -> None:
        self._connection = connection
        self._options = options
        self._sending = threading.Lock()
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._compiling = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
        self._batch: Batch
        self._grammars: Grammars | None = None

    def run(self) -> int:
        """Loads, serves and returns the exit code."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._receive, name="commands", daemon=True).start()
        try:
            # In a thread of its own, whose OpenMP helpers end with it: beside those of the generation thread they would
            # be more than the cores, and libgomp lets every thread sleep early then. A step took half as long again.
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loading") as loading:
                ready = loading.submit(self._load).result()
        except ModelUnavailable as error:
            self._send(StartFailed(str(error)))
            return 1
        except Exception as error:
            log.exception("The engine could not start.")
            self._send(StartFailed(f"The engine could not start: {type(error).__name__}: {error}"))
            return 1
        self._send(ready)
        self._ready.set()
        while self._batch.is_running() and not self._stop.wait(timeout=0.2):
            pass
        if self._stop.is_set():
            # The rest of the bound is for what has gone by since `Stop`, and for the end of the process.
            self._batch.stop(block=True, timeout=STOP_SECONDS - 0.5, hard_stop=True)
            return 1 if self._batch.is_running() else 0
        log.error("The generation loop has died; the engine process leaves.")
        return 1

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        self._stop.set()
        if not self._ready.is_set():
            os._exit(0)  # nothing to finish while loading

    def _send(self, message: Message) -> None:
        with self._sending:
            try:
                self._connection.send(message)
            except (BrokenPipeError, ConnectionResetError):
                os._exit(1)  # the parent is gone

    def _send_step(self, step: Step) -> None:
        if self._ready.is_set():
            self._send(step)

    def _load(self) -> Ready:
        begin = time.monotonic()
        self._send(Loading("starting torch", 0.0))
        import torch
        from transformers import GenerationConfig
        from transformers.utils.logging import disable_progress_bar

        adopt("transformers")

        from worker.engines.constraint import InvalidGrammar
        from worker.engines.grammar import Grammars
        from worker.engines.transformers.batch import Batch
        from worker.engines.transformers.generation_config import eos_token_ids, sampling_defaults
        from worker.engines.transformers.sizing import batch_config, context_length
        from worker.engines.transformers.tokenizer import load_tokenizer
        from worker.engines.transformers.weights import load_weights

        disable_progress_bar()
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)
        options = self._options
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        model = load_weights(options, lambda detail, fraction: self._send(Loading(detail, 0.1 + 0.6 * fraction)))
        tokenizer = load_tokenizer(options)
        configured = model.generation_config or GenerationConfig()
        eos = eos_token_ids(configured, tokenizer)
        try:
            self._grammars = Grammars(tokenizer, model.config.get_text_config().vocab_size, eos)
        except InvalidGrammar as error:
            log.warning("Requests with a grammar will fail: %s", error)
        self._send(Loading("preparing the batch", 0.8))
        generation = GenerationConfig(do_sample=False, eos_token_id=list(eos))
        config = batch_config(options, model)
        self._batch = Batch(model, generation, config, options.slots, options.attention, self._send_step)
        self._batch.warmup()
        context = context_length(options, model, self._batch.kv_tokens)
        self._batch.start()
        return Ready(
            context_length=context,
            revision=model_revision(options, options.quantization),
            eos_token_ids=eos,
            slots=options.slots,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            load_seconds=time.monotonic() - begin,
            sampling=sampling_defaults(configured),
            grammars=self._grammars is not None,
            continues_draws=True,
        )

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
        answer = self._batch.hold(generate)
        if answer is None:
            log.error("The request %s is already held; its second command is dropped.", generate.request_id)
            return
        if generate.grammar is None:
            self._batch.join_batch(answer)
        else:
            self._compiling.submit(self._compile, answer)

    def _compile(self, answer: "Answer") -> None:
        """Compiles a grammar beside the generation thread: a large schema does not stall the batch."""
        from worker.engines.constraint import InvalidGrammar

        generate = answer.generate
        assert generate.grammar is not None
        assert self._grammars is not None
        try:
            answer.constraint, complete = self._grammars.compile(generate.grammar, generate.generated_ids)
        except InvalidGrammar as error:
            self._batch.end_at_once(Output(generate.request_id, (), error=f"The grammar cannot be used: {error}"))
            return
        if complete:
            self._batch.end_at_once(Output(generate.request_id, (), finish="stop"))
        else:
            self._batch.join_batch(answer)
