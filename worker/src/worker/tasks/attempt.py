"""One attempt at one task on this worker: engine outputs become text and stream entries, until something ends it."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from shared.store.event_stream import LOGPROBS, Entry, TokenWriter
from shared.store.task_record import Claim
from shared.wire.schemas import (
    FinalTextEvent,
    FinishReason,
    InferenceRequest,
    Timings,
    TokenEvent,
    TokenLogprob,
    ToolCallsEvent,
    Usage,
)
from worker.engine_protocol import Output
from worker.tasks.attempt_telemetry import AttemptTelemetry
from worker.tasks.outcomes import AttemptEnd, Errored, Finished
from worker.tasks.prepared import Prepared
from worker.tasks.redraws import redraw_seed
from worker.text.reasoning import Said


class Attempt:
    """A claimed task from its claim to its ending. Whatever ends it first, ends it."""

    def __init__(self, claim: Claim, request: InferenceRequest, telemetry: AttemptTelemetry) -> None:
        self.record = claim.record
        self.task_id = claim.record.task_id
        self.number = claim.attempt
        self.suspect = claim.suspect
        self.redraw = claim.record.redraws
        """Which redraw of the answer it is; 0: none."""
        self.request_id = f"{self.task_id}/{claim.attempt}"
        self.request = request
        self.telemetry = telemetry
        self.writer = TokenWriter(self.task_id, claim.attempt, 0)
        self.ended: asyncio.Future[AttemptEnd] = asyncio.get_running_loop().create_future()
        self._prepared: Prepared | None = None
        self._rest = Said()
        """Text of the finished answer that waits to be shown."""
        self._shown_before = _Shown()
        """Of that, what an earlier attempt has shown."""
        self.earlier_ids: tuple[int, ...] = ()
        """Tokens that earlier attempts streamed and this one goes on behind."""
        self._scored = 0
        """Tokens of the prompt whose logprobs this attempt knows."""
        self._scores_told = 0
        """Those that earlier attempts have told."""
        self._generated = 0
        self._cached = 0
        self._queued = (claim.claimed_at - claim.record.accepted_at) / 1000
        self._claimed = time.monotonic()
        self._first_token: float | None = None

    @property
    def seed(self) -> int:
        """From the request's, or from one of the task's own: every attempt at one draw must get the same numbers."""
        seed = self.request.seed
        if seed is None:
            seed = int.from_bytes(hashlib.blake2b(self.task_id.encode(), digest_size=7).digest())
        return redraw_seed(seed, self.redraw)

    @property
    def prepared(self) -> Prepared:
        """What the engine is to generate; to be asked for once it was found out."""
        assert self._prepared is not None
        return self._prepared

    def end(self, end: AttemptEnd) -> None:
        """Ends the generation; later reasons are ignored."""
        if not self.ended.done():
            self.ended.set_result(end)

    def begin(self, prepared: Prepared) -> None:
        """Notes what the engine is to generate."""
        self._prepared = prepared
        if self.number == 1:
            self.resume((), ())

    def resume(self, entries: Sequence[Entry], eos_token_ids: Sequence[int]) -> None:
        """Goes on behind what earlier attempts streamed, if anything, which may already be the whole answer."""
        ids, logprobs, shown = _streamed(entries)
        self.earlier_ids = tuple(ids)
        self._generated = len(ids)
        self.writer = TokenWriter(self.task_id, self.number, len(ids))
        # The prompt comes first, where it is told.
        echo = self.prepared.echo
        self.writer.add((), echo[shown.text :])
        self._scores_told = min(shown.logprobs, len(self.prepared.prompt_ids) if self.prepared.scores_prompt else 0)
        shown = _Shown(max(0, shown.text - len(echo)), shown.reasoning, shown.logprobs - self._scores_told)
        said, finish = self.prepared.answer.add(ids, logprobs)
        # The same tokens give the same text, but the last attempt may have died before it streamed all of it.
        self.writer.add((), said.text[shown.text :], said.reasoning[shown.reasoning :])
        told = self._tell_logprobs((), after=shown.logprobs)
        self._shown_before = _Shown(
            max(0, shown.text - len(said.text)),
            max(0, shown.reasoning - len(said.reasoning)),
            max(0, shown.logprobs - told),
        )
        if not self.unscored:
            finish = finish or self.prepared.complete(ids, eos_token_ids)
        if finish is not None:
            self.end(Finished(finish))

    def take(self, output: Output) -> None:
        """Adds what one engine step produced."""
        if self.ended.done():
            return
        self.telemetry.took(output)
        self._take_scores(output)
        if self.prepared.max_new_tokens == 0 and output.error is None:
            if output.ends:
                self.end(Finished("length"))
            return
        if self._generated == 0 and output.token_ids:
            self._first_token = time.monotonic() - self._claimed
        self._generated += len(output.token_ids)
        self._cached = output.cached_tokens or self._cached
        logprobs = self._logprobs_of(output)
        said, finish = self.prepared.answer.add(output.token_ids, logprobs)
        self.writer.add(output.token_ids, said.text, said.reasoning)
        self._tell_logprobs(logprobs)
        if output.error is not None:
            self.end(Errored("engine_failed", output.error))
        elif reason := finish or output.finish:
            self.end(Finished(reason))

    @property
    def unscored(self) -> int:
        """Tokens of the prompt whose logprobs are still to be told."""
        return len(self.prepared.prompt_ids) - self._scores_told if self.prepared.scores_prompt else 0

    def _take_scores(self, output: Output) -> None:
        if output.prompt_logprobs:
            begin, self._scored = self._scored, self._scored + len(output.prompt_logprobs)
            token_ids = self.prepared.prompt_ids[begin : self._scored]
            told = self.prepared.logprobs(token_ids, output.prompt_logprobs)[max(0, self._scores_told - begin) :]
            self.writer.add_logprobs((), told, untold=False)

    def _logprobs_of(self, output: Output) -> list[TokenLogprob]:
        return self.prepared.logprobs(output.token_ids, output.logprobs) if output.logprobs else []

    def _tell_logprobs(self, drawn: Sequence[TokenLogprob], *, after: int = 0) -> int:
        """`after`: those of so many tokens have been told before. Returns of how many they may be told by now."""
        answer = self.prepared.answer
        told = answer.told()
        new = [logprob for logprob in told[after:] if logprob is not None]
        self.writer.add_logprobs(drawn, new, untold=answer.untold)
        return len(told)

    def outcome(self, finish: FinishReason) -> FinalTextEvent | ToolCallsEvent:
        """The event that ends a finished answer. Text that was held back waits for `show_rest`."""
        answer = self.prepared.answer
        self._rest = answer.finish(complete=finish == "stop")
        usage = Usage(
            prompt_tokens=len(self.prepared.prompt_ids),
            completion_tokens=self._generated,
            cached_tokens=self._cached,
            reasoning_tokens=answer.reasoning_tokens or None,
        )
        first = None if self._first_token is None else self._queued + self._first_token
        timings = Timings(queued=self._queued, first_token=first, total=self._queued + time.monotonic() - self._claimed)
        text, reasoning = self.prepared.echo + answer.text, answer.reasoning or None
        dropped = self.prepared.dropped_messages or None
        if answer.tool_calls:
            return ToolCallsEvent(
                task_id=self.task_id,
                tool_calls=answer.tool_calls,
                text=text,
                reasoning=reasoning,
                finish_reason="tool_calls" if finish == "stop" else finish,
                stop_sequence=answer.stop_sequence,
                usage=usage,
                timings=timings,
                dropped_messages=dropped,
            )
        return FinalTextEvent(
            task_id=self.task_id,
            text=text,
            reasoning=reasoning,
            finish_reason=finish,
            stop_sequence=answer.stop_sequence,
            usage=usage,
            timings=timings,
            dropped_messages=dropped,
        )

    def show_rest(self) -> None:
        """The answer is what was demanded: the text that was held back goes to the writer."""
        said, before = self._rest, self._shown_before
        self.writer.add((), said.text[before.text :], said.reasoning[before.reasoning :])
        self._tell_logprobs((), after=before.logprobs)


class _Shown(NamedTuple):
    """Characters, and tokens whose logprobs were told."""

    text: int = 0
    reasoning: int = 0
    logprobs: int = 0


def _streamed(entries: Sequence[Entry]) -> tuple[list[int], list[TokenLogprob | None], _Shown]:
    """The tokens of earlier attempts that still count, what was kept of their logprobs because it was not told yet, and
    how much of their text was shown."""
    token_ids: list[int] = []
    logprobs: list[TokenLogprob | None] = []
    shown = _Shown()
    for entry in entries:
        if entry.restarts:
            token_ids, logprobs, shown = [], [], _Shown()
        elif entry.type == "token":
            token_ids += entry.token_ids
            logprobs += LOGPROBS.validate_json(entry.logprobs) if entry.logprobs else [None] * len(entry.token_ids)
            if entry.data:
                event = TokenEvent.model_validate_json(entry.data, extra="ignore")
                shown = _Shown(
                    shown.text + len(event.text),
                    shown.reasoning + len(event.reasoning or ""),
                    shown.logprobs + len(event.logprobs or ()),
                )
    return token_ids, logprobs, shown
