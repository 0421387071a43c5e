"""One request in a batch: our words for it, and vLLM's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.outputs import LogprobsLists, LogprobsTensors
from vllm.v1.request import Request

from worker.engine_protocol import FinishReason as Finish
from worker.engine_protocol import Generate, Logprobs, Output
from worker.engines.reasoning_first import AnswerConstraint
from worker.engines.vllm.grammar import RequestGrammar
from worker.engines.vllm.sampling import GENERATE

FINISH: dict[FinishReason, Finish] = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


@dataclass(slots=True)
class Answer:
    """One request and how far it is."""

    generate: Generate
    constraint: AnswerConstraint | None = None
    grammar: RequestGrammar | None = None
    """The constraint once it has joined."""
    core_id: str = ""
    """The id that the core knows it by, once it has joined."""
    cancelled: bool = False
    sent: bool = False
    """True once an output went out."""
    admitted_at: float = 0.0


def core_request(
    answer: Answer, eos_token_ids: tuple[int, ...], block_hasher: Callable[[Request], list[Any]] | None
) -> Request:
    """What the core is given. Raises what vLLM makes of parameters that it does not take."""
    generate = answer.generate
    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=generate.max_new_tokens - len(generate.generated_ids),
        ignore_eos=True,
        stop_token_ids=list(eos_token_ids),
        detokenize=False,
        logprobs=generate.logprobs,
        prompt_logprobs=generate.logprobs if generate.scores_prompt else None,
        # Names no grammar that is read anywhere: the compiled one is set below.
        structured_outputs=StructuredOutputsParams(grammar="ours") if answer.constraint is not None else None,
        extra_args={GENERATE: generate},
    )
    request = Request(
        answer.core_id,
        [*generate.prompt_ids, *generate.generated_ids],
        parameters,
        pooling_params=None,
        block_hasher=block_hasher,
    )
    if answer.constraint is not None:
        assert parameters.max_tokens is not None
        answer.grammar = RequestGrammar(answer.constraint, parameters.max_tokens, eos_token_ids)
        assert request.structured_output_request is not None
        request.structured_output_request.grammar = answer.grammar
    return request


def our_output(answer: Answer, output: EngineCoreOutput) -> Output:
    """What a step made of the request; one that the core goes on with may end here, behind a complete document."""
    generate, grammar = answer.generate, answer.grammar
    finish = None if output.finish_reason is None else FINISH.get(output.finish_reason)
    error = None if output.finish_reason is None or finish else "The engine ended the request without a reason."
    if grammar is not None:
        error = grammar.error or error
        finish = "stop" if grammar.complete and error is None else finish
    if error is not None:
        return Output(generate.request_id, (), error=error)
    first, answer.sent = not answer.sent, True
    return Output(
        generate.request_id,
        tuple(output.new_token_ids),
        finish,
        cached_tokens=_cached(output, generate) if first else 0,
        admitted_at=answer.admitted_at if first else 0.0,
        logprobs=_logprobs(output.new_logprobs, generate),
        prompt_logprobs=_prompt_logprobs(output.new_prompt_logprobs_tensors, generate),
    )


def _cached(output: EngineCoreOutput, generate: Generate) -> int:
    """Prompt tokens found in the prefix cache."""
    cached = 0 if output.prefill_stats is None else output.prefill_stats.num_cached_tokens
    return min(cached, len(generate.prompt_ids))


def _logprobs(told: LogprobsLists | None, generate: Generate) -> tuple[Logprobs, ...]:
    """Of the new tokens. Each row has the token itself, then the likeliest, as many as anybody in the batch wants."""
    if told is None or generate.logprobs is None:
        return ()
    rows = zip(told.logprob_token_ids.tolist(), told.logprobs.tolist(), strict=True)
    return tuple(_one(ids, values, generate.logprobs) for ids, values in rows)


def _prompt_logprobs(told: LogprobsTensors | None, generate: Generate) -> tuple[Logprobs, ...]:
    """Of the prompt's tokens, all at once; the first has none."""
    if told is None or generate.logprobs is None:
        return ()
    count = len(generate.prompt_ids) - 1
    rows = zip(told.logprob_token_ids[:count].tolist(), told.logprobs[:count].tolist(), strict=True)
    return (Logprobs(None), *(_one(ids, values, generate.logprobs) for ids, values in rows))


def _one(ids: list[int], values: list[float], alternatives: int) -> Logprobs:
    top = zip(ids[1 : alternatives + 1], values[1 : alternatives + 1], strict=True)
    return Logprobs(values[0], tuple(top))
