"""Background responses across drops and kills, by OpenAI's client, as a table of docs/responses.md.

`python -m bench.background_responses headrace`, or `vllm PYTHON MODEL_FOLDER` with an environment that has vLLM.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import psutil

from testbed.ports import free_port

QUESTION = "Write a long story about a river."
TOKENS = 150
DROPS = (1, 5, 40)
"""Events after which something breaks; the answer has more."""
START_SECONDS = 300.0
Kill = Callable[[], None]


@contextlib.contextmanager
def headrace(folder: Path, port: int) -> Iterator[Kill]:
    """API and worker are killed; `headrace up` starts them again, as a Deployment does."""
    command = [sys.executable, "-m", "headrace", "up", "--port", str(port), "--data-dir", str(folder)]
    with running(command, folder / "log") as process:

        def kill() -> None:
            children = [(child, child.cmdline()) for child in psutil.Process(process.pid).children(recursive=True)]
            doomed = [child for child, line in children if "valkey" not in " ".join(line)]
            for child in doomed:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()

        yield kill


@contextlib.contextmanager
def vllm(folder: Path, port: int, python: str, model: str) -> Iterator[Kill]:
    """The server is killed, and started again with the same command."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "model"]
    command += ["--port", str(port), "--max-model-len", "2048", "--enforce-eager", "--max-num-seqs", "4"]
    env = {"VLLM_ENABLE_RESPONSES_API_STORE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with contextlib.ExitStack() as servers:
        process = servers.enter_context(running(command, folder / "log", env))

        def kill() -> None:
            nonlocal process
            stop(process)
            process = servers.enter_context(running(command, folder / "log", env))

        yield kill


@contextlib.contextmanager
def running(command: list[str], log: Path, env: dict[str, str] | None = None) -> "Iterator[subprocess.Popen[bytes]]":
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=os.environ | (env or {}), stdout=file, stderr=file)
    try:
        yield process
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """It and what it started, at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in (parent := psutil.Process(process.pid)).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        parent.kill()
    process.wait(30)


class Asked:
    """One background response, its events as they were seen."""

    def __init__(self, client: openai.OpenAI, model: str) -> None:
        self._client = client
        self._stream = client.responses.create(
            model=model,
            input=QUESTION,
            background=True,
            stream=True,
            temperature=0,
            max_output_tokens=TOKENS,
        )
        self.numbers: list[int] = []
        self.text = ""
        self.response_id = ""

    def read(self, count: int) -> None:
        """So many events, then the connection is dropped."""
        self._take(self._stream, count)
        self._stream.close()

    def resume(self) -> str:
        """Reads the rest by the number of the last event; how that went, in words."""
        try:
            stream = self._client.responses.retrieve(
                self.response_id, stream=True, starting_after=self.numbers[-1], timeout=60
            )
            self._take(stream)
            whole = self._client.responses.retrieve(self.response_id)
        except (openai.OpenAIError, httpx.HTTPError) as error:
            return f"lost: {type(error).__name__}"
        if whole.status not in ("completed", "incomplete"):
            return f"{whole.status}, {len(self.text)} characters"
        same = self.numbers == list(range(len(self.numbers))) and self.text == whole.output_text
        return "the exact rest" if same else "a rest with gaps"

    def _take(self, stream: "openai.Stream[openai.types.responses.ResponseStreamEvent]", count: int = -1) -> None:
        for event in stream:
            if event.type == "response.created":
                self.response_id = event.response.id
            if event.type == "response.output_text.delta":
                self.text += event.delta
            self.numbers.append(event.sequence_number)
            if len(self.numbers) == count:
                return


def ready(client: openai.OpenAI, model: str) -> None:
    """Returns when it answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.responses.create(model=model, input="Hi", max_output_tokens=16, store=False, timeout=60)
            return
        except (openai.OpenAIError, httpx.HTTPError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def results(client: openai.OpenAI, model: str, kill: Kill) -> Iterator[tuple[str, str]]:
    """What is done, and what became of it."""
    ready(client, model)
    for count in DROPS:
        asked = Asked(client, model)
        asked.read(count)
        yield f"the reader is dropped after event {count}", asked.resume()
    asked = Asked(client, model)
    asked.read(5)
    client.responses.cancel(asked.response_id)
    yield "cancelled after event 5", str(client.responses.retrieve(asked.response_id).status)
    whole = Asked(client, model)
    whole.read(-1)
    broken = [(count, Asked(client, model)) for count in DROPS]
    for count, asked in broken:
        asked.read(count)
    kill()
    ready(client, model)
    for count, asked in broken:
        yield f"the server is killed after event {count}", asked.resume()
    try:
        after = client.responses.retrieve(whole.response_id)
        outcome = "there" if after.output_text == whole.text else "changed"
    except openai.OpenAIError as error:
        outcome = f"lost: {type(error).__name__}"
    yield "the server is killed after the last event", outcome


def main(kind: str, *arguments: str) -> None:
    port = free_port()
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    with tempfile.TemporaryDirectory(prefix="background-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if kind == "vllm":
            kill, model = stack.enter_context(vllm(folder, port, *arguments)), "model"
        else:
            kill, model = stack.enter_context(headrace(folder, port)), "smollm2-135m-instruct"
        try:
            for done, outcome in results(client, model, kill):
                print(f"| {done} | {outcome} |", flush=True)
        except BaseException:
            print((folder / "log").read_text()[-3000:], file=sys.stderr)
            raise


if __name__ == "__main__":
    main(*sys.argv[1:])
