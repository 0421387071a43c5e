"""The process of the scripted engine: a batch like any other, its answers by `script.py`."""

import ctypes
import os
import queue
import signal
import threading
import time
from multiprocessing.connection import Connection

from worker.engine_options import EngineOptions
from worker.engine_protocol import (
    SIGN_OF_LIFE_SECONDS,
    Cancel,
    FinishReason,
    Generate,
    Logprobs,
    Output,
    Ready,
    StartFailed,
    Stats,
    Step,
    Stop,
)
from worker.engines.scripted.script import EOS, Script, ScriptedAnswer


def serve(connection: Connection, options: EngineOptions) -> None:
    """Main function of the scripted engine process; returns after `Stop` or when the parent is gone."""
    try:
        script = Script.parse(options.model_source)
    except ValueError as error:
        connection.send(StartFailed(str(error)))
        os._exit(1)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    time.sleep(script.start_ms / 1000)
    if script.fail_start or (script.fail_if and os.path.exists(script.fail_if)):
        connection.send(StartFailed(script.fail_start or f"There is a file {script.fail_if}."))
        os._exit(1)
    context = min(script.context, options.context_length or script.context)
    revision = options.model_revision or "scripted"
    connection.send(
        Ready(
            context_length=context,
            revision=revision,
            eos_token_ids=(EOS,),
            slots=options.slots,
            device="cpu",
            dtype="none",
            load_seconds=script.start_ms / 1000,
            sampling=script.sampling,
            grammars=False,
            continues_draws=True,
        )
    )
    commands: queue.SimpleQueue[Generate | Cancel | Stop] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, commands), daemon=True).start()
    _Batch(connection, commands, script, options.slots).run()


def _receive(connection: Connection, commands: "queue.SimpleQueue[Generate | Cancel | Stop]") -> None:
    try:
        while True:
            commands.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)  # the parent is gone


class _Batch:
    """All requests of the process; one step gives one token to each of the first `slots`."""

    def __init__(
        self,
        connection: Connection,
        commands: "queue.SimpleQueue[Generate | Cancel | Stop]",
        script: Script,
        slots: int,
    ) -> None:
        self._connection = connection
        self._commands = commands
        self._script = script
        self._slots = slots
        self._requests: dict[str, ScriptedAnswer] = {}

    def run(self) -> None:
        next_step = time.monotonic()
        while self._take_commands():
            begin = time.monotonic()
            running = list(self._requests.values())[: self._slots]
            outputs = tuple(self._advance(request, begin) for request in running)
            slow = sum(float(request.directives.get("slow") or 0) for request in running)
            next_step = max(next_step, begin) + (self._script.token_ms + slow) / 1000
            time.sleep(max(0.0, next_step - time.monotonic()))
            waiting = max(0, len(self._requests) - self._slots)
            stats = Stats(time.monotonic() - begin, len(running), waiting, len(running) / self._slots)
            self._connection.send(Step(outputs, stats))

    def _take_commands(self) -> bool:
        """Applies what has arrived; while idle, waits for more and gives a sign of life each second."""
        while True:
            try:
                command = self._commands.get(block=not self._requests, timeout=SIGN_OF_LIFE_SECONDS)
            except queue.Empty:
                if self._requests:
                    return True
                self._connection.send(Step())
                continue
            match command:
                case Stop():
                    return False
                case Cancel(request_id):
                    self._requests.pop(request_id, None)
                case Generate():
                    self._requests[command.request_id] = ScriptedAnswer.of(command, self._script)

    def _advance(self, request: ScriptedAnswer, began: float) -> Output:
        request_id = request.generate.request_id
        fresh, admitted_at = request.fresh, began if request.fresh else 0.0
        self._misbehave(request)
        if "fail" in request.directives:
            del self._requests[request_id]
            return Output(request_id, (), error=request.directives["fail"])
        scored: tuple[Logprobs, ...] = ()
        if fresh and request.generate.scores_prompt:
            prompt = enumerate(request.generate.prompt_ids)
            scored = tuple(request.logprobs(at, token) if at else Logprobs(None) for at, token in prompt)
        token = request.next_token()
        place = len(request.generate.prompt_ids) + request.index
        logprobs = () if request.generate.logprobs is None else (request.logprobs(place, token),)
        request.index += 1
        finish: FinishReason | None = None
        if token == EOS:
            finish = "stop"
        elif request.index >= request.generate.max_new_tokens:
            finish = "length"
        if finish:
            del self._requests[request_id]
        return Output(request_id, (token,), finish, admitted_at=admitted_at, logprobs=logprobs, prompt_logprobs=scored)

    def _misbehave(self, request: ScriptedAnswer) -> None:
        if request.at("crash"):
            os._exit(139)
        if request.at("hang"):
            threading.Event().wait()
        if "hold-gil" in request.directives and request.fresh:
            # PyDLL, unlike CDLL, keeps the interpreter's lock during the call.
            ctypes.PyDLL(None).usleep(int(float(request.directives["hold-gil"]) * 1_000_000))
        request.fresh = False
