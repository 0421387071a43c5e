"""The engine seen from the worker: one process kept alive, its steps handed on, its tasks told when it dies."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.telemetry.logs import LogOptions
from worker.engine_options import EngineOptions
from worker.engine_protocol import KILL_SECONDS, Cancel, Generate, Loading, Message, Ready, StartFailed, Step
from worker.engines.child import EngineChild

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.5


class EngineUnavailable(Exception):
    """The engine does not start; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long the engine may take for what, and how often it may fail."""

    start_seconds: float
    """From the start of the process to a model that is ready."""
    stall_seconds: float
    """Without a message while it is ready."""
    start_attempts: int
    """Failed restarts in a row."""


class Engine:
    """Starts the engine process, watches it, starts it again when it has died or hangs."""

    def __init__(
        self,
        options: EngineOptions,
        logs: LogOptions,
        limits: Limits,
        *,
        on_step: Callable[[Step], None],
        on_change: Callable[[], None],
    ) -> None:
        """`on_step` gets every step; `on_change` is called when the engine has become ready, or has died with all its
        requests."""
        self._options = options
        self._logs = logs
        self._limits = limits
        self._on_step = on_step
        self._on_change = on_change
        self._child: EngineChild | None = None
        self._exit: asyncio.Future[int | None]
        self._started: asyncio.Future[Ready]
        self._heard = 0.0
        self.info: Ready | None = None
        """What the running process said of itself; None while there is no ready process."""
        self.progress = Loading("starting the engine", 0.0)
        self.restarts = 0

    @property
    def ready(self) -> bool:
        return self.info is not None

    @property
    def silence(self) -> float:
        """Seconds since the ready process last gave a sign of life."""
        return time.monotonic() - self._heard if self.ready else 0.0

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def submit(self, generate: Generate) -> None:
        """Adds a request that needs a step; to be called while the engine is ready."""
        assert self._child is not None
        assert self.info is not None
        prompt, earlier = len(generate.prompt_ids), generate.generated_ids
        assert 0 < prompt <= prompt + generate.max_new_tokens <= self.info.context_length, "no room in the context"
        assert len(earlier) < generate.max_new_tokens, "its answer has its length"
        assert not earlier or earlier[-1] not in self.info.eos_token_ids, "its answer has ended"
        self._child.send(generate)

    def cancel(self, request_id: str) -> None:
        """Ends a request without further output; unknown ids are ignored."""
        if self._child is not None:
            self._child.send(Cancel(request_id))

    async def start(self) -> Ready:
        """Starts the process and waits until the model is ready. Raises EngineUnavailable."""
        loop = asyncio.get_running_loop()
        self._exit, self._started = loop.create_future(), loop.create_future()
        self._child = EngineChild(self._options, self._logs, self._on_message, self._on_exit)
        try:
            async with asyncio.timeout(self._limits.start_seconds):
                return await self._started
        except TimeoutError:
            seconds, detail = self._limits.start_seconds, self.progress.detail
            raise EngineUnavailable(f"The engine was not ready within {seconds:.0f} s (at: {detail}).") from None
        finally:
            if not self.ready:
                self._child.kill()
                await self._exit

    async def keep_alive(self) -> None:
        """Watches the started process and replaces it; returns never. Raises EngineUnavailable when it gives up."""
        while True:
            await self._watch()
            failures = 0
            while not self.ready:
                self.restarts += 1
                try:
                    await self.start()
                except EngineUnavailable as error:
                    failures += 1
                    limit = self._limits.start_attempts
                    log.error("The engine could not be restarted (%d of %d): %s", failures, limit, error)
                    if failures >= limit:
                        raise
                    await asyncio.sleep(FIRST_BACKOFF_SECONDS * 2**failures)

    async def _watch(self) -> None:
        """Returns when the process is gone; kills it when it hangs."""
        # An engine that computes gives a sign of life with each step, an idle one each second: silence is a hang. It is
        # counted in looks: while this process stood still, the machine may have, and the engine with it.
        interval = min(1.0, self._limits.stall_seconds / 4)
        heard, silent = self._heard, 0.0
        while not self._exit.done():
            await asyncio.wait([self._exit], timeout=interval)
            silent = silent + interval if self._heard == heard else 0.0
            heard = self._heard
            if not self._exit.done() and silent > self._limits.stall_seconds:
                log.error("The engine has been silent for %.0f s; it is killed and started again.", silent)
                assert self._child is not None
                self._child.kill()
                await self._exit

    async def stop(self) -> None:
        """Ends the process; `on_change` is not called."""
        loading = self.info is None
        self.info = None
        if self._child is not None and not self._exit.done():
            # There is nothing to finish while it loads, and it may not listen.
            await self._child.stop(0 if loading else KILL_SECONDS)

    def _on_message(self, message: Message) -> None:
        match message:
            case Step():
                self._heard = time.monotonic()
                self._on_step(message)
            case Loading():
                self.progress = message
            case Ready():
                layers = f", its linear layers {message.linear_layers}" if message.linear_layers else ""
                log.info("The engine is ready after %.1f s on %s%s.", message.load_seconds, message.device, layers)
                self.info, self._heard = message, time.monotonic()
                self._resolve(message)
                self._on_change()
            case StartFailed():
                self._resolve(EngineUnavailable(message.message))

    def _on_exit(self, code: int | None) -> None:
        self._exit.set_result(code)
        assert self._child is not None
        if self.ready:
            log.error("The engine process %s.", _end(code, self._child.killed))
            self.info = None
            self._on_change()
        end = _end(code, self._child.killed, " while it started")
        self._resolve(EngineUnavailable(f"The engine process {end}."))

    def _resolve(self, outcome: Ready | EngineUnavailable) -> None:
        if self._started.done():
            return
        if isinstance(outcome, Ready):
            self._started.set_result(outcome)
        else:
            self._started.set_exception(outcome)


def _end(code: int | None, killed: bool, when: str = "") -> str:
    """How the process ended, in words. `killed`: by its supervisor, which has said why."""
    if code != -signal.SIGKILL or killed:
        return f"ended with code {code}{when}"
    return (
        f"was killed{when} (SIGKILL, code {code}), most likely by the kernel because it was out of memory: raise the "
        "memory limit of the worker (in Kubernetes resources.limits.memory), or lower slots, context_length or "
        "kv_memory_gib"
    )
