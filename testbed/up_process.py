"""A running `headrace up`."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from testbed.waiting import wait_until

BOUND_SECONDS = 120.0
"""On every wait: far above what the machine needs."""
ANSWERS = "scripted:?token_ms=5&tokens=8"


class Up:
    """One running `headrace up`."""

    def __init__(
        self, *options: str, data_dir: Path, source: str | None = ANSWERS, stdin: int = subprocess.DEVNULL
    ) -> None:
        command = [sys.executable, "-m", "headrace", "up", "--data-dir", str(data_dir)]
        if source is not None:
            command += ["--model-source", source]
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [*command, *(() if "--port" in options else ("--port", "0")), *options],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "DEMO_ONCE"},
        )
        self.output = ""
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self._seen: set[psutil.Process] = set()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while text := self.process.stdout.read(1):
            self.output += text

    def says(self, text: str, *, times: int = 1, within: float = BOUND_SECONDS) -> None:
        def said() -> bool:
            assert self.output.count(text) >= times or self.process.poll() is None, self.output
            return self.output.count(text) >= times

        wait_until(said, within, lambda: self.output)

    def children(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children(recursive=True)
        self._seen.update(found)
        return found

    def child(self, module: str) -> psutil.Process:
        """The process of that name, waited for: while it becomes its program (exec), it has no command line."""
        found: list[psutil.Process] = []

        def listed() -> bool:
            found[:] = (
                child for child in psutil.Process(self.process.pid).children() if _command(child)[-2:] == ["-m", module]
            )
            return len(found) == 1

        wait_until(listed, BOUND_SECONDS, lambda: f"one process runs {module}, not {len(found)}: {self.output}")
        return found[0]

    def exit_code(self) -> int:
        """Waits for the end; all that it started must be gone then."""
        code = self.process.wait(BOUND_SECONDS)
        self._reading.join(BOUND_SECONDS)
        wait_until(
            lambda: not any(_lives(child) for child in self._seen), BOUND_SECONDS, lambda: "all children are gone"
        )
        return code

    def addresses(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self.data_dir / "stack.env").read_text().splitlines())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._reading.join(BOUND_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


StartUp = Callable[..., Up]
