"""The batch on vLLM's core, beyond the contract of all engines. Its environment is its own: `make test-vllm`."""

import dataclasses
from collections.abc import Iterator

import pytest

from testbed.real_engine import RealEngine
from worker.engine_options import PACKAGED_MODEL, VllmOptions
from worker.engine_protocol import Generate, Grammar, Output

pytest.importorskip("vllm", reason="`make test-vllm` runs this, in an environment of its own")

STORY = "Tell me a long story about a fox."


@pytest.fixture(scope="module")
def engine() -> Iterator[RealEngine]:
    engine = RealEngine(VllmOptions(engine="vllm", model_source=PACKAGED_MODEL, slots=8, threads=2))
    yield engine
    assert engine.close() == 0


def test_logprobs_tell_what_the_model_thinks_whatever_the_grammar_forbids(engine: RealEngine) -> None:
    free = Generate("free", engine.prompt("Choose."), max_new_tokens=1, logprobs=5)
    bound = dataclasses.replace(free, request_id="bound", grammar=Grammar("regex", "xyz|zyx"))
    engine.send(free, bound)
    outputs = engine.follow("free", "bound")
    (of_free,), (of_bound,) = outputs["free"][0].logprobs, outputs["bound"][0].logprobs
    assert outputs["free"][0].token_ids != outputs["bound"][0].token_ids
    assert [token for token, _ in of_bound.top] == [token for token, _ in of_free.top]
    assert of_bound.own is not None
    assert of_free.own is not None
    assert of_bound.own < of_free.own


def test_requests_with_grammars_go_on_at_every_cut_beside_others(engine: RealEngine) -> None:
    grammar = Grammar("json_schema", '{"type": "array", "items": {"type": "integer"}, "minItems": 6, "maxItems": 9}')
    whole = Generate("whole", engine.prompt("Some numbers."), max_new_tokens=60, temperature=1, seed=3, grammar=grammar)
    neighbour = Generate("neighbour", engine.prompt(STORY), max_new_tokens=40, temperature=1, top_p=0.9, seed=4)
    answers = engine.run(whole, neighbour)
    tokens, last = answers["whole"]
    assert last.finish == "stop"
    cuts = [
        dataclasses.replace(whole, request_id=f"at {cut}", generated_ids=tuple(tokens[:cut]))
        for cut in range(1, len(tokens) - 1)
    ]
    again = engine.run(*cuts, neighbour)
    for request in cuts:
        assert [*request.generated_ids, *again[request.request_id][0]] == tokens, request.request_id
        assert again[request.request_id][1].finish == "stop"
    assert again["neighbour"] == answers["neighbour"]


def test_what_the_core_refuses_ends_its_own_request_alone(engine: RealEngine) -> None:
    refused = Generate("refused", engine.prompt(STORY), max_new_tokens=8, logprobs=-7)
    good = Generate("good", engine.prompt(STORY), max_new_tokens=4)
    answers = engine.run(refused, good)
    assert answers["refused"] == ([], Output("refused", (), error=answers["refused"][1].error))
    assert "The engine refused the request" in (answers["refused"][1].error or "")
    assert answers["good"][1].finish == "length"


def test_beside_a_long_prompt_no_step_computes_more_than_others_can_wait_for(engine: RealEngine) -> None:
    """A prompt of 700 tokens takes eleven steps of 64 beside an answer, and three of 256 alone."""
    long = Generate("long", engine.prompt("A text about rivers. " * 200)[:700], max_new_tokens=1)
    answer = Generate("answer", engine.prompt(STORY), max_new_tokens=60)
    engine.send(answer)
    engine.step()
    engine.send(long)
    before = len(engine.steps)
    engine.follow("long")
    assert len(engine.steps) - before >= 10
    engine.follow("answer")
