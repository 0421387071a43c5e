"""What the worker relies on, of every engine: real processes, spoken to over their pipes.

A new kind joins by a row in `KINDS`, and by its options in the fixtures `engine` and `options`. Those with a model run
the packaged one, and a tiny one where the process is ended.
"""

import asyncio
import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest

from shared.cancellation import cancel_and_wait
from testbed.real_engine import TRAINED, RealEngine
from testbed.supervised_engine import limits, supervised
from worker.engine_options import PACKAGED_MODEL, EngineKind, EngineOptions, TransformersOptions, VllmOptions
from worker.engine_protocol import Cancel, Generate, Grammar, Output, Step

CONTEXT = 1024
SLOTS = 8
KV_MEMORY_GIB = 0.055
"""A full context fits, eight long answers do not."""
STORY = "Tell me a long story about a fox."


@dataclass(frozen=True)
class Kind:
    """What an engine promises, and what it has."""

    grammars: bool
    continues_draws: bool
    prefix_cache: bool
    kv_cache: bool
    """One of limited size, from which requests are preempted."""


KINDS: dict[EngineKind, Kind] = {
    "scripted": Kind(grammars=False, continues_draws=True, prefix_cache=False, kv_cache=False),
    "transformers": Kind(grammars=True, continues_draws=True, prefix_cache=True, kv_cache=True),
    "vllm": Kind(grammars=True, continues_draws=True, prefix_cache=True, kv_cache=True),
}
if TRAINED == "vllm":
    KINDS = {"vllm": KINDS["vllm"]}  # `make test-vllm`
else:
    del KINDS["vllm"]


def scripted_options() -> EngineOptions:
    return EngineOptions(model_source="scripted:?token_ms=1&tokens=3000", slots=SLOTS, context_length=CONTEXT)


def vllm_options(source: str, kv_memory_gib: float) -> EngineOptions:
    return VllmOptions(
        engine="vllm",
        model_source=source,
        slots=SLOTS,
        context_length=CONTEXT,
        kv_memory_gib=kv_memory_gib,
        threads=2,
    )


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> EngineKind:
    name: EngineKind = request.param
    return name


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, kind: EngineKind) -> Iterator[RealEngine]:
    """Loaded once for all tests of the kind."""
    if kind == "transformers":
        yield request.getfixturevalue("real_engine")
        return
    engine = RealEngine(vllm_options(PACKAGED_MODEL, KV_MEMORY_GIB) if kind == "vllm" else scripted_options())
    yield engine
    assert engine.close() == 0


Ways = dict[str, tuple[Generate, list[int], Output]]
"""A request for each way to choose the next token, its tokens and its last output when all share a batch."""


@pytest.fixture(scope="module")
def ways(engine: RealEngine) -> Ways:
    story = engine.prompt(STORY)
    requests = [
        Generate("greedy", engine.prompt("What is the capital of France?"), max_new_tokens=12),
        Generate("sampled", story, max_new_tokens=20, temperature=1.0, seed=1),
        Generate("top-p", story, max_new_tokens=20, temperature=0.8, top_p=0.9, seed=-2),
        Generate("top-k", story, max_new_tokens=20, temperature=1.2, top_k=20, top_p=0.95, seed=3),
    ]
    if engine.ready.grammars:
        person = engine.prompt("Describe a person as JSON.")
        requests.append(Generate("grammar", person, max_new_tokens=50, temperature=1.0, seed=4, grammar=PERSON_GRAMMAR))
    answers = engine.run(*requests)
    return {request.request_id: (request, *answers[request.request_id]) for request in requests}


def test_it_says_what_it_is_and_what_it_promises(engine: RealEngine, kind: EngineKind) -> None:
    ready, promises = engine.ready, KINDS[kind]
    assert (ready.context_length, ready.slots) == (CONTEXT, SLOTS)
    assert ready.eos_token_ids
    assert ready.revision
    assert (ready.grammars, ready.continues_draws) == (promises.grammars, promises.continues_draws)
    fractions = [message.fraction for message in engine.loading]
    assert fractions == sorted(fractions)


def test_an_answer_does_not_depend_on_its_neighbours(engine: RealEngine, ways: Ways) -> None:
    for request, together, _ in ways.values():
        assert engine.tokens(request) == together, request.request_id


def test_an_answer_goes_on_behind_streamed_tokens_as_if_nothing_had_happened(engine: RealEngine, ways: Ways) -> None:
    cuts = {
        f"{way} at {cut}": (dataclasses.replace(request, generated_ids=tuple(tokens[:cut])), tokens, last)
        for way, (request, tokens, last) in ways.items()
        for cut in (1, 5, len(tokens) - 1)
    }
    again = engine.run(*(dataclasses.replace(request, request_id=name) for name, (request, _, _) in cuts.items()))
    for name, (request, tokens, last) in cuts.items():
        rest, rest_last = again[name]
        assert [*request.generated_ids, *rest] == tokens, name
        assert rest_last.finish == last.finish, name


def test_a_seed_decides_what_is_drawn(engine: RealEngine, ways: Ways) -> None:
    request, tokens, _ = ways["sampled"]
    assert engine.tokens(dataclasses.replace(request, seed=2)) != tokens
    assert engine.tokens(request) == tokens


def test_an_answer_ends_at_its_length_and_its_last_token_is_told(engine: RealEngine) -> None:
    tokens, last = engine.run(Generate("r", engine.prompt(STORY), max_new_tokens=7))["r"]
    assert (len(tokens), last.finish, last.error) == (7, "length", None)


def test_a_prompt_may_fill_the_context_but_for_one_token(engine: RealEngine) -> None:
    neighbour = Generate("neighbour", engine.prompt(STORY), max_new_tokens=10)
    alone = engine.tokens(neighbour)
    prompt = engine.prompt("word " * CONTEXT)[-(CONTEXT - 1) :]
    answers = engine.run(Generate("full", prompt, max_new_tokens=1), neighbour)
    tokens, last = answers["full"]
    assert (len(tokens), last.error) == (1, None)
    assert last.finish in ("length", "stop")
    assert answers["neighbour"][0] == alone


def test_all_requests_of_a_step_come_in_one_message(engine: RealEngine) -> None:
    before = len(engine.steps)
    engine.run(*(Generate(f"r{at}", engine.prompt(STORY), max_new_tokens=20) for at in range(4)))
    steps = [step for step in engine.steps[before:] if step.outputs]
    assert max(len(step.outputs) for step in steps) == 4
    assert max(step.stats.running for step in steps) == 4
    assert len(steps) < 40


def test_the_first_output_alone_says_when_the_request_was_admitted(engine: RealEngine) -> None:
    engine.send(Generate("r", engine.prompt(STORY), max_new_tokens=3))
    first, *others = [output.admitted_at for output in engine.follow("r")["r"]]
    assert first > 0
    assert set(others) == {0.0}


def test_a_cancelled_request_is_silent_and_its_neighbours_go_on(engine: RealEngine) -> None:
    story = engine.prompt(STORY)
    alone = engine.tokens(Generate("neighbour", story, max_new_tokens=30))
    engine.send(Generate("cancelled", story, max_new_tokens=900), Generate("neighbour", story, max_new_tokens=30))
    first = engine.step()
    engine.send(Cancel("cancelled"), Cancel("unknown"))
    outputs = engine.follow("neighbour")["neighbour"]
    engine.send(Generate("after", story, max_new_tokens=1))
    later = engine.follow("after")
    assert [*tokens_of(first, "neighbour"), *(token for output in outputs for token in output.token_ids)] == alone
    assert set(later) == {"after"}
    assert idle(engine).stats.running == 0


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_prompt_seen_before_changes_no_answer_and_its_cached_tokens_are_told_once(
    engine: RealEngine, kind: EngineKind, tokens: int
) -> None:
    prompt = engine.prompt(f"Here are {tokens} texts about rivers. " * 20)
    first = engine.tokens(Generate("first", prompt, max_new_tokens=tokens))
    engine.send(Generate("second", prompt, max_new_tokens=tokens))
    outputs = engine.follow("second")["second"]
    cached, *later = [output.cached_tokens for output in outputs]
    assert [token for output in outputs for token in output.token_ids] == first
    assert set(later) == ({0} if tokens > 1 else set())
    assert cached < len(prompt)
    assert (cached > len(prompt) / 2) == KINDS[kind].prefix_cache


def test_requests_beyond_the_slots_and_the_memory_wait_and_lose_nothing(engine: RealEngine, kind: EngineKind) -> None:
    """Eight begin with three quarters of the memory and want 1.4 times as much as there is: two may end early."""
    requests = [
        Generate(
            f"r{at}", engine.prompt(f"{at}: " + "a fox and a goose " * 17), max_new_tokens=100, temperature=1, seed=at
        )
        for at in range(SLOTS + 2)
    ]
    few = engine.run(*requests[:3])
    before, preempted = len(engine.steps), engine.steps[-1].stats.preemptions
    many = engine.run(*requests)
    for request in requests[:3]:
        assert many[request.request_id] == few[request.request_id]
    assert all(last.finish and not last.error for _, last in many.values())
    steps = engine.steps[before:]
    assert max(step.stats.running for step in steps) <= SLOTS
    assert max(step.stats.waiting for step in steps) > 0
    assert (steps[-1].stats.preemptions > preempted) == KINDS[kind].kv_cache


def test_an_idle_engine_gives_a_sign_of_life(engine: RealEngine) -> None:
    assert [idle(engine).outputs, idle(engine).outputs] == [(), ()]


def test_sigint_is_left_to_the_parent(engine: RealEngine) -> None:
    os.kill(engine.pid, signal.SIGINT)
    assert len(engine.tokens(Generate("r", engine.prompt(STORY), max_new_tokens=3))) == 3


def test_logprobs_come_with_the_tokens_they_are_of_and_with_no_others(engine: RealEngine, ways: Ways) -> None:
    requests = [dataclasses.replace(request, logprobs=at) for at, (request, _, _) in enumerate(ways.values())]
    engine.send(*requests, Generate("plain", engine.prompt(STORY), max_new_tokens=20))
    outputs = engine.follow("plain", *ways)
    assert not any(output.logprobs for output in outputs["plain"])
    for request, (_, tokens, _) in zip(requests, ways.values(), strict=True):
        own = outputs[request.request_id]
        assert [token for output in own for token in output.token_ids] == tokens, "asking changes no answer"
        assert all(len(output.logprobs) == len(output.token_ids) for output in own)
        told = [logprobs for output in own for logprobs in output.logprobs]
        for token, logprobs in zip(tokens, told, strict=True):
            assert logprobs.own is not None
            assert logprobs.own <= 0
            assert len(logprobs.top) == request.logprobs
            values = [logprob for _, logprob in logprobs.top]
            assert values == sorted(values, reverse=True)
            assert dict(logprobs.top).get(token, logprobs.own) == logprobs.own


def test_the_tokens_of_a_prompt_are_scored_each_once_and_before_the_first_token(engine: RealEngine) -> None:
    prompt = engine.prompt("A long text about rivers. " * 30)
    neighbour = Generate("neighbour", engine.prompt(STORY), max_new_tokens=40)
    alone = engine.tokens(neighbour)
    first = engine.tokens(Generate("r", prompt, max_new_tokens=3))
    scored = Generate("scored", prompt, max_new_tokens=3, logprobs=2, scores_prompt=True)
    short = Generate("short", prompt[:1], max_new_tokens=1, logprobs=2, scores_prompt=True)
    engine.send(neighbour, scored, short)
    outputs = engine.follow("neighbour", "scored", "short")
    told = [logprobs for output in outputs["scored"] for logprobs in output.prompt_logprobs]
    assert [logprobs.own is None for logprobs in told] == [True] + [False] * (len(prompt) - 1)
    assert all(len(logprobs.top) == 2 for logprobs in told[1:])
    with_tokens = [at for at, output in enumerate(outputs["scored"]) if output.token_ids]
    with_scores = [at for at, output in enumerate(outputs["scored"]) if output.prompt_logprobs]
    assert max(with_scores) <= min(with_tokens)
    assert [token for output in outputs["scored"] for token in output.token_ids] == first
    assert [token for output in outputs["neighbour"] for token in output.token_ids] == alone
    assert [logprobs.own for output in outputs["short"] for logprobs in output.prompt_logprobs] == [None]
    # Once more: nothing of it is taken from a prefix cache, and the values are the same.
    engine.send(dataclasses.replace(scored, request_id="again"))
    again = [logprobs for output in engine.follow("again")["again"] for logprobs in output.prompt_logprobs]
    assert [logprobs.own for logprobs in again[1:]] == pytest.approx([logprobs.own for logprobs in told[1:]], abs=1e-3)


def tokens_of(step: Step, request_id: str) -> list[int]:
    return [token for output in step.outputs if output.request_id == request_id for token in output.token_ids]


def idle(engine: RealEngine) -> Step:
    """The next step without an output."""
    while (step := engine.step(seconds=5)).outputs:
        pass
    return step


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["kind", "tall", "old"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PERSON_GRAMMAR = Grammar("json_schema", json.dumps(PERSON))

enforcing = pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.grammars], scope="module")
"""For the engines that promise grammars; to the others the worker sends none."""


@enforcing
def test_documents_follow_their_schema_beside_unconstrained_neighbours(engine: RealEngine) -> None:
    prompt = engine.prompt("Describe a person as JSON.")
    documents = [
        Generate(f"document {seed}", prompt, max_new_tokens=60, temperature=1.0, seed=seed, grammar=PERSON_GRAMMAR)
        for seed in range(5)
    ]
    neighbour = Generate("neighbour", prompt, max_new_tokens=30, temperature=1.0, seed=1)
    alone = engine.tokens(neighbour)
    answers = engine.run(*documents, neighbour)
    for request in documents:
        tokens, last = answers[request.request_id]
        jsonschema.validate(json.loads(engine.text(tokens)), PERSON)
        assert last.finish == "stop"
    assert answers["neighbour"][0] == alone


@enforcing
@pytest.mark.parametrize("grammar", [Grammar("json_schema", '{"type": "nonsense"}'), Grammar("regex", "(")])
def test_a_bad_grammar_fails_its_request_alone(engine: RealEngine, grammar: Grammar) -> None:
    prompt = engine.prompt("Hello")
    answers = engine.run(Generate("bad", prompt, grammar=grammar), Generate("good", prompt, max_new_tokens=4))
    assert answers["bad"][1].error is not None
    assert answers["bad"][1].error.startswith("The grammar cannot be used: ")
    assert answers["good"][1] == Output("good", answers["good"][1].token_ids, finish="length")


@enforcing
def test_a_complete_document_taken_over_ends_at_once(engine: RealEngine) -> None:
    grammar = Grammar("regex", "yes|no")
    tokens = engine.tokens(Generate("r", engine.prompt("Choose."), grammar=grammar))
    again = Generate("r", engine.prompt("Choose."), generated_ids=tuple(tokens), grammar=grammar)
    assert engine.run(again)["r"] == ([], Output("r", (), finish="stop"))


@pytest.fixture
def options(request: pytest.FixtureRequest, kind: EngineKind) -> EngineOptions:
    """Of an engine that starts fast enough to have one per test."""
    if kind == "transformers":
        folder: Path = request.getfixturevalue("tiny_model")
        return TransformersOptions(model_source=str(folder), slots=SLOTS, kv_memory_gib=0.1, threads=2)
    if kind == "vllm":
        return vllm_options(str(request.getfixturevalue("tiny_model")), 0.1)
    return scripted_options()


Start = Callable[[], RealEngine]


@pytest.fixture
def start(options: EngineOptions) -> Iterator[Start]:
    """Starts an engine of the test's own."""
    started: list[RealEngine] = []

    def start() -> RealEngine:
        started.append(RealEngine(options))
        return started[-1]

    yield start
    for engine in started:
        engine.close()


def test_it_leaves_at_sigterm_in_the_middle_of_an_answer(start: Start) -> None:
    engine = start()
    engine.send(Generate("r", engine.prompt(STORY), max_new_tokens=900))
    engine.step()
    os.kill(engine.pid, signal.SIGTERM)
    assert engine.exit_code() == 0


def test_it_leaves_when_its_parent_is_gone(start: Start) -> None:
    engine = start()
    engine.send(Generate("r", engine.prompt(STORY), max_new_tokens=900))
    engine.step()
    engine.connection.close()
    engine.process.join(20)
    assert engine.process.exitcode == 1


async def test_after_a_stall_and_after_a_crash_another_process_goes_on_with_the_answer(
    kind: EngineKind, options: EngineOptions, start: Start
) -> None:
    prompt = start().prompt(STORY)
    request = Generate("undisturbed", prompt, max_new_tokens=60, temperature=1.0, seed=5)
    async with supervised(options, limits(stall_seconds=3, start_seconds=120)) as (engine, heard):
        keeping = asyncio.create_task(engine.keep_alive())
        engine.submit(request)
        undisturbed = await heard.until_ended("undisturbed", 60)
        assert len(undisturbed) == 60
        changes = [True]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            name = number.name
            engine.submit(dataclasses.replace(request, request_id=name))
            await heard.until_tokens(name, 1)
            pid = engine.pid
            assert pid is not None
            os.kill(pid, number)
            changes += [False, True]
            await heard.until_ready(*changes, seconds=120)
            assert engine.pid != pid
            streamed = heard.tokens(name)
            assert 0 < len(streamed) < 60
            engine.submit(dataclasses.replace(request, request_id=f"behind {name}", generated_ids=tuple(streamed)))
            assert [*streamed, *await heard.until_ended(f"behind {name}", 60)] == undisturbed
        assert not any(output.error for output in heard.outputs)
        await cancel_and_wait(keeping)
