"""The engine process as its parent holds it: started, spoken to, ended. One object per process."""

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from shared.telemetry.logs import LogOptions, set_up_logging
from worker.engine_options import EngineOptions
from worker.engine_protocol import Command, Message, Stop
from worker.engines.catalogue import serve

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PROCESS_NAME = b"headrace-engine"
"""What `ps -e` and `top` call it; the kernel keeps 15 bytes."""
EXIT_SECONDS = 1.0
"""A process that has closed its end is given this long to end by itself, so that its exit code is its own."""


class EngineChild:
    """One engine process; `on_message` is called on the event loop for each of its messages, `on_exit` once."""

    def __init__(
        self,
        options: EngineOptions,
        logs: LogOptions,
        on_message: Callable[[Message], None],
        on_exit: Callable[[int | None], None],
    ) -> None:
        """Starts the process. To be called on the event loop's own thread: the kernel ties the child to it."""
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_exit = on_exit
        self._exited = False
        self.killed = False
        """By this object: SIGKILL says nothing about the process then."""
        self._joining = asyncio.Lock()
        self._reaping: asyncio.Task[None]
        self._outbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        # Not fork: this process has threads.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=main, args=(theirs, options, logs), name="engine")
        self._process.start()
        theirs.close()
        self._fd = self._connection.fileno()
        self._loop.add_reader(self._fd, self._read)
        threading.Thread(target=self._write, name="engine-commands", daemon=True).start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Never blocks: a hung engine does not read, and a long prompt is larger than the pipe."""
        self._outbox.put(command)

    def kill(self) -> None:
        """SIGKILL; `on_exit` follows."""
        self.killed = True
        self._process.kill()

    async def stop(self, seconds: float) -> None:
        """Lets the process free its device and leave; kills it after `seconds`."""
        self.send(Stop())
        await self._reap(seconds)

    def _read(self) -> None:
        # More than one message at a time only when the loop was busy; a bound keeps it responsive.
        for _ in range(64):
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                # It closed its end: whatever it still does, nobody hears of it.
                self._loop.remove_reader(self._fd)
                self._reaping = asyncio.create_task(self._reap(EXIT_SECONDS))
                return
            self._on_message(message)
            if not self._connection.poll():
                return

    async def _reap(self, seconds: float) -> None:
        """Lets the process end by itself for so long, and sees to it that it has."""
        if not await self._joined(seconds):
            self.kill()
            await self._joined(None)
        if not self._exited:
            self._exited = True
            self._loop.remove_reader(self._fd)
            self._outbox.put(None)
            self._connection.close()
            self._on_exit(self._process.exitcode)

    async def _joined(self, seconds: float | None) -> bool:
        async with self._joining:
            await asyncio.to_thread(self._process.join, seconds)
            return self._process.exitcode is not None

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # the process is gone; `_read` notices
            while (command := self._outbox.get()) is not None:
                self._connection.send(command)


def main(connection: Connection, options: EngineOptions, logs: LogOptions) -> None:
    """First function of the engine process, whatever its kind."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_NAME, PROCESS_NAME)
        # Die with the parent even when its end of the pipe stays open in another process.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Out of the process group that a terminal's or a supervisor's signals reach: when to leave, the parent decides.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C may reach it before that
    set_up_logging(logs)
    serve(options.engine)(connection, options)
