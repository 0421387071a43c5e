"""An engine process of any kind, spoken to over its pipe as the worker does."""

import contextlib
import importlib.util
import multiprocessing
from collections import defaultdict
from collections.abc import Sequence

from shared.telemetry.logs import LogOptions
from shared.wire.chat import UserMessage
from shared.wire.schemas import InferenceRequest
from worker.engine_options import EngineKind, EngineOptions
from worker.engine_protocol import Command, Generate, Loading, Message, Output, Ready, Step, Stop
from worker.engines import child
from worker.engines.catalogue import load_prompts

TRAINED: EngineKind = "vllm" if importlib.util.find_spec("vllm") else "transformers"
"""The engine that runs models in this environment; each of the two has its own."""


class RealEngine:
    """Started and loaded when it is made; close it."""

    def __init__(self, options: EngineOptions) -> None:
        self.prompts = load_prompts(options, default_max_tokens=2048)
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=child.main, args=(theirs, options, LogOptions()))
        self.process.start()
        theirs.close()
        self.steps: list[Step] = []
        """All since the start."""
        self.loading: list[Loading] = []
        """What it said before it was ready."""
        while not isinstance(message := self.receive(seconds=120), Ready):
            assert isinstance(message, Loading), message
            self.loading.append(message)
        self.ready = message

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def prompt(self, text: str) -> tuple[int, ...]:
        """A user's message, as the model is spoken to."""
        message = UserMessage(role="user", content=text)
        return self.prompts.prompt_ids(InferenceRequest(model="m", messages=[message]))

    def text(self, token_ids: Sequence[int]) -> str:
        return self.prompts.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def send(self, *commands: Command) -> None:
        for command in commands:
            self.connection.send(command)

    def receive(self, seconds: float = 30) -> Message:
        """The next message; fails when none comes."""
        assert self.connection.poll(seconds), "the engine is silent"
        message: Message = self.connection.recv()
        if isinstance(message, Step):
            self.steps.append(message)
        return message

    def step(self, seconds: float = 30) -> Step:
        """The next message, which must be a step."""
        message = self.receive(seconds)
        assert isinstance(message, Step), message
        return message

    def follow(self, *request_ids: str) -> dict[str, list[Output]]:
        """The outputs of requests until each of them has ended."""
        outputs: dict[str, list[Output]] = defaultdict(list)
        open_requests = set(request_ids)
        while open_requests:
            for output in self.step().outputs:
                outputs[output.request_id].append(output)
                if output.ends:
                    open_requests.discard(output.request_id)
        return outputs

    def run(self, *requests: Generate) -> dict[str, tuple[list[int], Output]]:
        """Generates together; per request its tokens and its last output."""
        self.send(*requests)
        outputs = self.follow(*(request.request_id for request in requests))
        return {
            request.request_id: (
                [token for output in outputs[request.request_id] for token in output.token_ids],
                outputs[request.request_id][-1],
            )
            for request in requests
        }

    def tokens(self, request: Generate) -> list[int]:
        """The tokens of one request alone."""
        return self.run(request)[request.request_id][0]

    def exit_code(self, seconds: float = 20) -> int | None:
        """Of a process that was told to leave; None when it has not. What it still says is thrown away."""
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll(seconds):
                self.connection.recv()
        self.process.join(seconds)
        return self.process.exitcode

    def close(self) -> int | None:
        """Stops it; its exit code."""
        with contextlib.suppress(OSError):
            self.send(Stop())
        code = self.exit_code()
        self.process.kill()
        self.process.join()
        self.connection.close()
        return code
