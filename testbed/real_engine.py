"""An engine process with the 135M model, spoken to over its pipe as the worker does."""

import contextlib
import multiprocessing
from collections import defaultdict
from collections.abc import Sequence

from shared.telemetry.logs import LogOptions
from worker.engine_options import TransformersOptions
from worker.engine_protocol import Command, Generate, Loading, Message, Output, Ready, Step, Stop
from worker.engines import child
from worker.engines.transformers.tokenizer import load_tokenizer


class RealEngine:
    """Started and loaded when it is made; close it."""

    def __init__(self, options: TransformersOptions) -> None:
        self.options = options
        self.tokenizer = load_tokenizer(options)
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
        """A user's message in the model's chat template."""
        ids = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        return tuple(ids)

    def text(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

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
                if output.finish or output.error:
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

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.send(Stop())
        self.process.join(20)
        if self.process.is_alive():
            self.process.kill()
        self.connection.close()
