"""One request inside the engine: what was asked, how far it is, and transformers' state of it in the batch."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from worker.engine_protocol import FinishReason, Generate, Logprobs, Output
from worker.engines.constraint import InvalidGrammar
from worker.engines.reasoning_first import AnswerConstraint


@dataclass(slots=True)
class Answer:
    """How far one request is; outlives preemptions, which give it a new `Sequence`."""

    generate: Generate
    constraint: AnswerConstraint | None = None
    told: "Callable[[Answer, int], Logprobs] | None" = None
    """How likely a token was that the last step chose for this request."""
    tokens: int = 0
    """Tokens of the answer so far, those of earlier attempts included."""
    pending: list[int] = field(default_factory=list)
    """Tokens of the current step, not yet sent."""
    logprobs: list[Logprobs] = field(default_factory=list)
    """Of those tokens."""
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    """Of tokens of the prompt, not yet sent."""
    scored: int = 0
    """Tokens of the prompt whose logprobs are known."""
    finish: FinishReason | None = None
    error: str | None = None
    cancelled: bool = False
    computed_tokens: int = 0
    """Tokens whose keys and values this request computed itself, before its first token."""
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache; reported with the first token."""
    admitted_at: float = 0.0
    """When it first entered the batch, by CLOCK_MONOTONIC (transformers' perf_counter is the same on Linux)."""
    sequence_id: str | None = None
    """The id of its `Sequence` once it has joined the batch."""
    preemptions: int = 0
    sent: bool = False
    """True once an output went out."""

    def take_output(self) -> Output | None:
        """What the last step produced for this request, once."""
        if not (self.pending or self.prompt_logprobs) and self.finish is None and self.error is None:
            return None
        output = Output(
            self.generate.request_id,
            tuple(self.pending),
            self.finish,
            self.error,
            cached_tokens=0 if self.sent else self.cached_tokens,
            admitted_at=0.0 if self.sent else self.admitted_at,
            logprobs=tuple(self.logprobs),
            prompt_logprobs=tuple(self.prompt_logprobs),
        )
        self.pending.clear()
        self.logprobs.clear()
        self.prompt_logprobs.clear()
        self.sent = True
        return output

    @property
    def unscored(self) -> int:
        """Tokens of the prompt whose logprobs are still wanted."""
        return len(self.generate.prompt_ids) - self.scored if self.generate.scores_prompt else 0

    def score(self, logprobs: list[Logprobs], admitted_at: float) -> None:
        """Takes those of the prompt's next tokens."""
        self.admitted_at = self.admitted_at or admitted_at
        if not self.scored:
            logprobs = [Logprobs(None), *logprobs]
        self.prompt_logprobs += logprobs
        self.scored += len(logprobs)

    @property
    def ended(self) -> bool:
        """True when no more output follows."""
        return self.finish is not None or self.error is not None


@dataclass
class Sequence(RequestState):
    """transformers' state of a request; every token it takes is noted in its `Answer`."""

    answer: Answer = field(kw_only=True)

    def update_and_check_completion(self, token_id: int, logprob: float | None) -> bool:
        """Takes the token that the step chose; True when the request is complete."""
        answer = self.answer
        if not answer.sent:
            answer.cached_tokens = max(0, self.position_offset - answer.computed_tokens)
            answer.admitted_at = answer.admitted_at or self.lifespan[0]
        before = self.generated_len()
        complete: bool = super().update_and_check_completion(token_id, logprob)
        answer.pending.extend(self.generated_tokens[before:])
        answer.tokens += self.generated_len() - before
        if answer.generate.logprobs is not None and self.generated_len() > before:
            assert answer.told is not None
            answer.logprobs.append(answer.told(answer, token_id))
        if complete:
            answer.finish = "stop" if token_id in self._eos_token_ids else "length"
        if answer.constraint is not None and answer.finish != "stop":
            complete = self._follow_grammar(answer, token_id) or complete
        if complete:
            # Of a request that is FINISHED already, transformers keeps no page that its last step filled: an answer of
            # one token would leave the end of its prompt, or all of it, to be computed again.
            self.status = RequestStatus.DECODING
        return complete

    def _follow_grammar(self, answer: Answer, token_id: int) -> bool:
        """Notes the token; True when the document is complete (no step for end-of-sequence) or the grammar failed."""
        assert answer.constraint is not None
        try:
            if answer.error is None and answer.constraint.take(token_id):
                answer.finish = "stop"
        except InvalidGrammar as error:
            answer.error = f"The grammar failed: {error}"
        if answer.error is not None:
            answer.pending.clear()
            answer.logprobs.clear()
            answer.finish = None
        return answer.ended

    def create_equivalent_initial_request(self) -> "Sequence":
        """The same request after a preemption: its answer so far becomes prompt and is computed again."""
        plain = super().create_equivalent_initial_request()
        self.answer.preemptions += 1
        return Sequence(**{f.name: getattr(plain, f.name) for f in fields(RequestState)}, answer=self.answer)
