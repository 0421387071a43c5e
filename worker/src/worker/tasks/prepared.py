"""A request made ready for the engine. What needs no engine is decided here, once for all engines."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.conversation.truncation import cut_points, without_oldest
from shared.wire.schemas import FinishReason, InferenceRequest, TokenLogprob
from worker.engine_protocol import Grammar, Logprobs, Ready
from worker.tasks.outcomes import Errored
from worker.text.answer_grammars import must_be_judged
from worker.text.codec import Answer, Codec, Unanswerable


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the engine is to generate, and the answer that grows from it."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    """Most tokens of the answer, over all attempts; with the prompt they fit into the context. 0: the prompt alone is
    the answer."""
    grammar: Grammar | None
    answer: Answer
    logprobs: Callable[[Sequence[int], Sequence[Logprobs]], list[TokenLogprob]]
    """What an engine says of tokens, for clients."""
    echo: str = ""
    """The text that the answer begins with."""
    scores_prompt: bool = False
    """Whether the logprobs of the prompt are a part of the answer."""
    dropped_messages: int = 0
    """The oldest ones, which did not fit into the context."""

    def complete(self, generated_ids: Sequence[int], eos_token_ids: Sequence[int]) -> FinishReason | None:
        """Why the tokens of earlier attempts are the whole answer already; None when there is more to generate."""
        if generated_ids and generated_ids[-1] in eos_token_ids:
            return "stop"
        return "length" if len(generated_ids) >= self.max_new_tokens else None


def prepare(
    codec: Codec, task_id: str, request: InferenceRequest, engine: Ready, default_max_tokens: int
) -> Prepared | Errored:
    """Renders the prompt; the reason when the request cannot be answered.

    `default_max_tokens`: of an answer whose request names no limit. A long conversation or a large schema takes tens of
    milliseconds: to be called in a thread.
    """
    try:
        prompt_ids = codec.prompt_ids(request)
        dropped = 0
        if request.truncate and len(prompt_ids) > (longest := _longest_prompt(request, engine.context_length)):
            prompt_ids, dropped = _cut(codec, request, longest)
        grammar = codec.prompts.grammar(request)
        answer = codec.answer(task_id, request, bounded=grammar is not None, withheld=must_be_judged(request))
    except Unanswerable as error:
        return Errored("invalid_request", str(error))
    if grammar is not None and not engine.grammars:
        return Errored(
            "invalid_request",
            "The engine of this model cannot hold an answer to a form: leave out responseFormat, and let toolChoice be "
            "auto or none.",
        )
    if not prompt_ids:
        return Errored("invalid_request", "There is nothing for the model to read: the prompt has no tokens.")
    room = engine.context_length - len(prompt_ids)
    if room <= 0:
        return Errored(
            "context_too_long",
            f"The prompt has {len(prompt_ids)} tokens; the model's context of {engine.context_length} leaves none for "
            "an answer.",
        )
    return Prepared(
        prompt_ids,
        min(default_max_tokens if request.max_tokens is None else request.max_tokens, room),
        grammar,
        answer,
        codec.logprobs,
        codec.echo(request),
        scores_prompt=bool(request.echo) and request.logprobs is not None,
        dropped_messages=dropped,
    )


def _longest_prompt(request: InferenceRequest, context_length: int) -> int:
    """Of a prompt that may be cut: it leaves room for the answer, a quarter of the context where no length is named."""
    return context_length - min(request.max_tokens or context_length // 4, context_length // 2)


def _cut(codec: Codec, request: InferenceRequest, most_tokens: int) -> tuple[tuple[int, ...], int]:
    """The prompt without the fewest of its oldest turns that let it fit, and the number of messages in them. Where
    nothing lets it fit, only the last turn is left.
    """
    points = cut_points(request.messages)

    def prompt(at: int) -> tuple[int, ...]:
        messages = without_oldest(request.messages, points[at])
        return codec.prompts.prompt_ids(request.model_copy(update={"messages": messages}))

    fits = bisect_left(range(len(points) - 1), True, key=lambda at: len(prompt(at)) <= most_tokens)
    return prompt(fits), points[fits]
