"""An engine without a model: deterministic words, and directives that make it misbehave. For tests and benches.

Source `scripted:?token_ms=20&context=8192&tokens=32`. Token i of an answer depends on the prompt (or the seed, when it
is not 0) and on i alone. Directives are lines of the last user message:

    !say TEXT        answer TEXT (the rest of the message), then stop
    !tokens N        stop after N words
    !crash [K]       the process dies before token K (default 0)
    !hang [K]        no step any more from token K on, for all requests
    !hold-gil S      before the first token: hold the interpreter for S seconds
    !slow MS         MS more per token
    !fail TEXT       the engine reports TEXT as this request's error
"""

import ctypes
import os
import queue
import re
import threading
import time
import zlib
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from urllib.parse import parse_qsl

from worker.engine_options import SCRIPT, EngineOptions
from worker.engine_protocol import (
    Cancel,
    FinishReason,
    Generate,
    Output,
    Ready,
    StartFailed,
    Stats,
    Step,
    Stop,
)

EOS = 0
FIRST_BYTE = 1
"""Token 1 + b is the byte b; prompts and `!say` are written in these."""
FIRST_WORD = FIRST_BYTE + 256
WORDS = tuple(
    f" {a}{b}" for a in ("ba", "de", "fi", "go", "ku", "la", "me", "ni") for b in ("ra", "so", "ti", "vu", "xe", "yo")
)
LAST_USER = "\x02"
"""Stands before the last user message in a scripted prompt."""


@dataclass(frozen=True, slots=True)
class Script:
    """The options behind `scripted:`."""

    token_ms: float
    """Length of a step; 0: as fast as it goes."""
    context: int
    tokens: int
    """Words of an answer without a directive."""
    start_ms: float
    fail_start: str
    """Not empty: the engine does not start, and says this."""
    fail_if: str
    """A path: the engine does not start once there is a file."""

    @classmethod
    def parse(cls, source: str) -> "Script":
        """Raises ValueError for an unknown option or a value that is no number."""
        given = dict(parse_qsl(source.removeprefix(SCRIPT).removeprefix("?")))
        script = cls(
            token_ms=float(given.pop("token_ms", 5.0)),
            context=int(given.pop("context", 8192)),
            tokens=int(given.pop("tokens", 32)),
            start_ms=float(given.pop("start_ms", 0.0)),
            fail_start=given.pop("fail_start", ""),
            fail_if=given.pop("fail_if", ""),
        )
        if given:
            raise ValueError(f"The scripted engine has no option {', '.join(sorted(given))}.")
        return script


@dataclass
class Running:
    """One request in the scripted batch."""

    generate: Generate
    index: int
    said: tuple[int, ...] | None
    tokens: int
    directives: dict[str, str]
    key: int
    fresh: bool = field(default=True)

    @classmethod
    def of(cls, generate: Generate, script: Script) -> "Running":
        prompt = bytes(token - FIRST_BYTE for token in generate.prompt_ids).decode(errors="replace")
        message = prompt.rpartition(LAST_USER)[2]
        said = re.search(r"^!say (.*)", message, re.MULTILINE | re.DOTALL)
        directives = dict(re.findall(r"^!(tokens|crash|hang|hold-gil|slow|fail)\b ?(.*)$", message, re.MULTILINE))
        return cls(
            generate=generate,
            index=len(generate.generated_ids),
            said=tuple(FIRST_BYTE + byte for byte in said[1].encode()) if said else None,
            tokens=int(directives.get("tokens") or script.tokens),
            directives=directives,
            key=generate.seed or hash(generate.prompt_ids),
        )

    def at(self, directive: str) -> bool:
        return directive in self.directives and self.index == int(self.directives[directive] or 0)

    def next_token(self) -> int:
        if self.said is not None:
            return self.said[self.index] if self.index < len(self.said) else EOS
        if self.index >= self.tokens:
            return EOS
        return FIRST_WORD + zlib.crc32(self.index.to_bytes(4), self.key & 0xFFFFFFFF) % len(WORDS)


def serve(connection: Connection, options: EngineOptions) -> None:
    """Main function of the scripted engine process; returns after `Stop` or when the parent is gone."""
    try:
        script = Script.parse(options.model_source)
    except ValueError as error:
        connection.send(StartFailed(str(error)))
        os._exit(1)
    time.sleep(script.start_ms / 1000)
    if script.fail_start or (script.fail_if and os.path.exists(script.fail_if)):
        connection.send(StartFailed(script.fail_start or f"There is a file {script.fail_if}."))
        os._exit(1)
    context = min(script.context, options.context_length or script.context)
    revision = options.model_revision or "scripted"
    connection.send(Ready(context, revision, (EOS,), options.slots, "cpu", "none", script.start_ms / 1000))
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
        self._requests: dict[str, Running] = {}

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
                command = self._commands.get(block=not self._requests, timeout=1.0)
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
                    self._requests[command.request_id] = Running.of(command, self._script)

    def _advance(self, request: Running, began: float) -> Output:
        request_id = request.generate.request_id
        admitted_at = began if request.fresh else 0.0
        self._misbehave(request)
        if "fail" in request.directives:
            del self._requests[request_id]
            return Output(request_id, (), error=request.directives["fail"])
        token = request.next_token()
        request.index += 1
        finish: FinishReason | None = None
        if token == EOS:
            finish = "stop"
        elif request.index >= request.generate.max_new_tokens:
            finish = "length"
        if finish:
            del self._requests[request_id]
        return Output(request_id, (token,), finish, admitted_at=admitted_at)

    def _misbehave(self, request: Running) -> None:
        if request.at("crash"):
            os._exit(139)
        if request.at("hang"):
            threading.Event().wait()
        if "hold-gil" in request.directives and request.fresh:
            # PyDLL, unlike CDLL, keeps the interpreter's lock during the call.
            ctypes.PyDLL(None).usleep(int(float(request.directives["hold-gil"]) * 1_000_000))
        request.fresh = False
