"""The running batch: vLLM's EngineCore, stepped by a thread of ours, one output per step out."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.v1.engine import EngineCoreEventType, EngineCoreOutput
from vllm.v1.engine.core import EngineCore

from worker.engine_protocol import SIGN_OF_LIFE_SECONDS, Generate, Output, Stats, Step
from worker.engines.step_budget import SCORED_AT_ONCE, step_budget
from worker.engines.vllm.answer import Answer, core_request, our_output

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a step is."""

    max_batch_tokens: int
    """While nothing is decoding."""
    prefill_chunk: int
    """Tokens of prompts beside as many requests that are decoding (`step_budget`)."""


@dataclass(slots=True)
class _Ended:
    """Told by the next turn of the loop."""

    output: Output


@dataclass(slots=True)
class _Aborted:
    core_id: str


class Batch:
    """All requests being decoded together; `send` gets one `Step` per engine step, from the generation thread."""

    def __init__(
        self,
        make_core: Callable[[], EngineCore],
        shape: Shape,
        eos_token_ids: tuple[int, ...],
        send: Callable[[Step], None],
    ) -> None:
        """Makes the core, and starts the loop. Raises what `make_core` raises.

        Both by one thread: OpenMP keeps helpers for each that ever computed, and both together are more than the cores.
        """
        self._make_core = make_core
        self._shape = shape
        self._eos_token_ids = eos_token_ids
        self._send = send
        self._answers: dict[str, Answer] = {}
        """By the worker's ids."""
        self._joined: dict[str, Answer] = {}
        """By the core's ids; the loop's own."""
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Answer | _Aborted | _Ended | None] = queue.SimpleQueue()
        self._requests_made = 0
        self._preemptions = 0
        self._last_sent = time.monotonic()
        self._stopping = False
        self._failed: BaseException | None = None
        self._made = threading.Event()
        self.core: EngineCore
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()
        self._made.wait()
        if self._failed is not None:
            raise self._failed

    def is_running(self) -> bool:
        """False when no more steps will come."""
        return self._thread.is_alive()

    def end(self, seconds: float) -> None:
        """Lets the step in progress end, for so long."""
        self._stopping = True
        self._inbox.put(None)
        self._thread.join(seconds)

    def hold(self, generate: Generate) -> Answer | None:
        """Registers a request before it may join; None when its id is already held."""
        answer = Answer(generate)
        with self._lock:
            if generate.request_id in self._answers:
                return None
            self._answers[generate.request_id] = answer
        return answer

    def join_batch(self, held: Answer) -> None:
        """Lets a held request take part from the next step on."""
        # Ids are never used twice: a request may come again right behind its own cancellation.
        self._requests_made += 1
        held.core_id = f"{held.generate.request_id}#{self._requests_made}"
        self._inbox.put(held)

    def end_at_once(self, output: Output) -> None:
        """Sends the only output of a request that never joins, with the next turn of the loop."""
        self._inbox.put(_Ended(output))

    def cancel(self, request_id: str) -> None:
        """Forgets a request: no output follows, its slot is free after the current step."""
        with self._lock:
            answer = self._answers.pop(request_id, None)
        if answer is not None:
            answer.cancelled = True
            if answer.core_id:
                self._inbox.put(_Aborted(answer.core_id))

    def _run(self) -> None:
        try:
            self.core = self._make_core()
        except BaseException as error:
            self._failed = error
            return
        finally:
            self._made.set()
        try:
            while not self._stopping:
                self._turn()
        except BaseException:
            # What the core holds is in no known state: the worker starts the process again, and its requests go on.
            log.exception("A step failed.")

    def _turn(self) -> None:
        outputs = self._take_inbox()
        begin = time.monotonic()
        stepped = self.core.scheduler.has_requests()
        if stepped:
            self._set_budget()
            made, _ = self.core.step()
            for output in made[0].outputs if 0 in made else ():
                outputs += self._told(output)
        now = time.monotonic()
        if outputs or now - self._last_sent >= SIGN_OF_LIFE_SECONDS:
            self._last_sent = now
            self._send(Step(tuple(outputs), self._stats(now - begin if stepped else 0.0)))

    def _take_inbox(self) -> list[Output]:
        """What has arrived; while idle it waits for something, until the next sign of life."""
        outputs: list[Output] = []
        while True:
            busy = outputs or self.core.scheduler.has_requests()
            due = max(0.0, self._last_sent + SIGN_OF_LIFE_SECONDS - time.monotonic())
            try:
                item = self._inbox.get(block=not busy, timeout=due)
            except queue.Empty:
                return outputs
            match item:
                case Answer():
                    outputs += self._add(item)
                case _Aborted(core_id):
                    if self._joined.pop(core_id, None) is not None:
                        self.core.abort_requests([core_id])
                case _Ended(output):
                    outputs += self._forget(output)
                case None:
                    return outputs

    def _add(self, answer: Answer) -> list[Output]:
        """Gives the request to the core; where it refuses, the request ends."""
        generate = answer.generate
        if answer.cancelled:
            return []
        try:
            request = core_request(answer, self._eos_token_ids, self.core.request_block_hasher)
            self.core.add_request(request)
        except Exception as error:
            log.exception("The core refused a request.")
            return self._forget(Output(generate.request_id, (), error=f"The engine refused the request: {error}"))
        self._joined[answer.core_id] = answer
        return []

    def _set_budget(self) -> None:
        """Beside decoding requests a step computes no more of a prompt than they can wait for."""
        scheduler: Any = self.core.scheduler
        decoding = sum(request.num_computed_tokens >= request.num_prompt_tokens for request in scheduler.running)
        budget = step_budget(
            decoding,
            len(scheduler.running) + len(scheduler.waiting) - decoding,
            prefill_chunk=self._shape.prefill_chunk,
            max_batch_tokens=self._shape.max_batch_tokens,
        )
        if any(answer.generate.scores_prompt and not answer.sent for answer in self._joined.values()):
            budget = min(budget, decoding + SCORED_AT_ONCE)
        scheduler.max_num_scheduled_tokens = budget

    def _told(self, output: EngineCoreOutput) -> list[Output]:
        """What a step made of one request."""
        answer = self._joined.get(output.request_id)
        for event in output.events or ():
            if event.type == EngineCoreEventType.PREEMPTED:
                self._preemptions += 1
            elif answer is not None and event.type == EngineCoreEventType.SCHEDULED:
                answer.admitted_at = answer.admitted_at or event.timestamp
        if answer is None or answer.cancelled:
            return []
        told = our_output(answer, output)
        if not told.ends:
            return [told]
        del self._joined[output.request_id]
        if output.finish_reason is None:  # to the core it goes on
            self.core.abort_requests([output.request_id])
        return self._forget(told)

    def _forget(self, output: Output) -> list[Output]:
        """The last output of a request, unless it was cancelled."""
        with self._lock:
            return [output] if self._answers.pop(output.request_id, None) is not None else []

    def _stats(self, step_seconds: float) -> Stats:
        scheduler: Any = self.core.scheduler
        return Stats(
            step_seconds=step_seconds,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_used=scheduler.kv_cache_manager.usage,
            preemptions=self._preemptions,
        )
