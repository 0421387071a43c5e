"""The engine process with the real 135M model, over its pipe."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from testbed.real_engine import RealEngine
from worker.engine_options import TransformersOptions
from worker.engine_protocol import Cancel, Generate, Grammar, Output, Ready, SamplingDefaults, StartFailed, Step

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


Answers = dict[str, tuple[list[int], Output]]


@pytest.fixture(scope="module")
def mixed(engine: RealEngine) -> list[Generate]:
    """One of each way to choose the next token."""
    story, person = engine.prompt("Tell me a story about a fox."), engine.prompt("Describe a person as JSON.")
    return [
        Generate("greedy", engine.prompt("What is the capital of France?"), max_new_tokens=12),
        Generate("sampled", story, max_new_tokens=16, temperature=1.0, seed=1),
        Generate("top-p", story, max_new_tokens=16, temperature=0.8, top_p=0.9, seed=-2),
        Generate("top-k", story, max_new_tokens=16, temperature=1.2, top_k=20, top_p=0.95, seed=3),
        Generate("grammar", person, max_new_tokens=50, temperature=1.0, seed=4, grammar=PERSON_GRAMMAR),
    ]


@pytest.fixture(scope="module")
def together(engine: RealEngine, mixed: list[Generate]) -> Answers:
    """Their answers when they share a batch."""
    return engine.run(*mixed)


def test_the_engine_says_what_it_loads_and_what_it_is(engine: RealEngine) -> None:
    fractions = [message.fraction for message in engine.loading]
    assert fractions == sorted(fractions)
    assert engine.ready.context_length == 8192
    assert engine.ready.eos_token_ids == (2,)
    assert engine.ready.sampling == SamplingDefaults(), "the packaged file says nothing of sampling"
    assert (engine.ready.device, engine.ready.dtype, engine.ready.slots) == ("cpu", "float32", 8)


def test_it_answers_a_question(engine: RealEngine) -> None:
    tokens, last = engine.run(Generate("q", engine.prompt("What is the capital of France?"), max_new_tokens=30))["q"]
    assert "Paris" in engine.text(tokens)
    assert last.finish == "stop"
    assert tokens[-1] in engine.ready.eos_token_ids


def test_greedy_answers_are_those_of_plain_transformers(
    engine: RealEngine, engine_options: TransformersOptions
) -> None:
    import torch
    from transformers import GenerationConfig

    from worker.engines.transformers.weights import load_weights

    model = load_weights(engine_options, lambda detail, fraction: None)
    questions = ["What is the capital of France?", "Name three colours.", "Why is the sky blue? Answer at length. " * 4]
    requests = [Generate(text, engine.prompt(text), max_new_tokens=10) for text in questions]
    answers = engine.run(*requests)
    for request in requests:
        expected = model.generate(  # type: ignore[operator]  # inherited from a mixin
            torch.tensor([request.prompt_ids]),
            attention_mask=torch.ones(1, len(request.prompt_ids), dtype=torch.long),
            generation_config=GenerationConfig(max_new_tokens=10, do_sample=False, eos_token_id=2, pad_token_id=2),
        )[0, len(request.prompt_ids) :].tolist()
        assert answers[request.request_id][0] == expected


WAYS = ["greedy", "sampled", "top-p", "top-k", "grammar"]


@pytest.mark.parametrize("way", WAYS)
def test_a_request_gets_the_same_tokens_alone_and_in_a_batch(
    engine: RealEngine, mixed: list[Generate], together: Answers, way: str
) -> None:
    assert engine.tokens(mixed[WAYS.index(way)]) == together[way][0]


@pytest.mark.parametrize("way", WAYS)
def test_a_taken_over_request_goes_on_as_if_nothing_had_happened(
    engine: RealEngine, mixed: list[Generate], together: Answers, way: str
) -> None:
    tokens, last = together[way]
    again = dataclasses.replace(mixed[WAYS.index(way)], generated_ids=tuple(tokens[:5]))
    rest, rest_last = engine.run(again)[way]
    assert (tokens[:5] + rest, rest_last.finish) == (tokens, last.finish)


def test_another_seed_gives_another_answer(engine: RealEngine, mixed: list[Generate], together: Answers) -> None:
    assert engine.tokens(dataclasses.replace(mixed[1], seed=2)) != together["sampled"][0]


def test_documents_follow_their_schema_beside_unconstrained_neighbours(engine: RealEngine) -> None:
    prompt = engine.prompt("Describe a person as JSON.")
    documents = [
        Generate(f"document {seed}", prompt, max_new_tokens=60, temperature=1.0, seed=seed, grammar=PERSON_GRAMMAR)
        for seed in range(5)
    ]
    neighbour = Generate("neighbour", prompt, max_new_tokens=60, temperature=1.0, seed=1)
    answers = engine.run(*documents, neighbour)
    for request in documents:
        tokens, last = answers[request.request_id]
        jsonschema.validate(json.loads(engine.text(tokens)), PERSON)
        assert last.finish == "stop"
    assert len(answers["neighbour"][0]) > 1


@pytest.mark.parametrize(
    ("grammar", "allowed"),
    [
        (Grammar("regex", "(yes|no)"), {"yes", "no"}),
        (Grammar("lark", 'start: "red" | "green" | "blue"'), {"red", "green", "blue"}),
    ],
)
def test_an_answer_follows_a_regular_expression_or_a_lark_grammar(
    engine: RealEngine, grammar: Grammar, allowed: set[str]
) -> None:
    request = Generate("r", engine.prompt("Choose."), max_new_tokens=20, temperature=1.0, grammar=grammar)
    assert engine.text(engine.tokens(request)) in allowed


@pytest.mark.parametrize("grammar", [Grammar("json_schema", '{"type": "nonsense"}'), Grammar("regex", "(")])
def test_a_bad_grammar_fails_its_request_alone(engine: RealEngine, grammar: Grammar) -> None:
    prompt = engine.prompt("Hello")
    answers = engine.run(Generate("bad", prompt, grammar=grammar), Generate("good", prompt, max_new_tokens=4))
    assert answers["bad"][1].error is not None
    assert answers["bad"][1].error.startswith("The grammar cannot be used: ")
    assert answers["good"][1] == Output("good", answers["good"][1].token_ids, finish="length")


def test_a_cancelled_request_is_silent_and_its_neighbours_go_on(engine: RealEngine) -> None:
    story = engine.prompt("Tell me a long story.")
    alone = engine.tokens(Generate("neighbour", story, max_new_tokens=30))
    engine.send(Generate("cancelled", story, max_new_tokens=2000), Generate("neighbour", story, max_new_tokens=30))
    first = engine.step()
    engine.send(Cancel("cancelled"), Cancel("unknown"))
    outputs = engine.follow("neighbour")["neighbour"]
    engine.send(Generate("after", story, max_new_tokens=1))
    later = engine.follow("after")
    assert [*tokens_of(first, "neighbour"), *(token for output in outputs for token in output.token_ids)] == alone
    assert set(later) == {"after"}
    assert engine.steps[-1].stats.running == 0


def tokens_of(step: Step, request_id: str) -> list[int]:
    return [token for output in step.outputs if output.request_id == request_id for token in output.token_ids]


def test_an_id_may_come_again_right_behind_its_cancellation(engine: RealEngine) -> None:
    prompt = engine.prompt("Hello")
    engine.send(Generate("again", prompt, max_new_tokens=2000), Cancel("again"))
    assert len(engine.tokens(Generate("again", prompt, max_new_tokens=3))) == 3


def test_a_second_request_with_a_held_id_is_dropped(engine: RealEngine) -> None:
    prompt = engine.prompt("Tell me a story.")
    engine.send(Generate("twice", prompt, max_new_tokens=8), Generate("twice", prompt, max_new_tokens=2))
    outputs = engine.follow("twice")["twice"]
    assert sum(len(output.token_ids) for output in outputs) == 8


def test_a_complete_document_taken_over_ends_at_once(engine: RealEngine) -> None:
    grammar = Grammar("regex", "yes|no")
    tokens = engine.tokens(Generate("r", engine.prompt("Choose."), grammar=grammar))
    again = Generate("r", engine.prompt("Choose."), generated_ids=tuple(tokens), grammar=grammar)
    assert engine.run(again)["r"] == ([], Output("r", (), finish="stop"))


def test_all_requests_of_a_step_come_in_one_message(engine: RealEngine) -> None:
    before = len(engine.steps)
    requests = [Generate(f"r{i}", engine.prompt("Tell me a story."), max_new_tokens=20) for i in range(4)]
    engine.run(*requests)
    steps = [step for step in engine.steps[before:] if step.outputs]
    assert max(len(step.outputs) for step in steps) == 4
    assert max(step.stats.running for step in steps) == 4
    assert len(steps) < 40


def test_a_prompt_seen_before_comes_from_the_prefix_cache(engine: RealEngine) -> None:
    prompt = engine.prompt("Here is a text about rivers. " * 20)
    engine.tokens(Generate("first", prompt, max_new_tokens=2))
    engine.send(Generate("second", prompt, max_new_tokens=3))
    cached = [output.cached_tokens for output in engine.follow("second")["second"]]
    assert cached[0] >= len(prompt) - 32 - 1
    assert cached[1:] == [0, 0]


def test_an_idle_engine_gives_a_sign_of_life(engine: RealEngine) -> None:
    assert engine.step(seconds=5).outputs == ()
    assert engine.step(seconds=5).outputs == ()


def test_sigint_is_left_to_the_parent(engine: RealEngine) -> None:
    os.kill(engine.pid, signal.SIGINT)
    assert len(engine.tokens(Generate("r", engine.prompt("Hello"), max_new_tokens=3))) == 3


CHILD = """
import sys
from multiprocessing.connection import Connection
from worker.engines.transformers import process as engine_process
from worker.engine_options import TransformersOptions
{patch}
engine_process.serve(Connection(int(sys.argv[1])), TransformersOptions.model_validate_json(sys.argv[2]))
"""


class Child:
    """An engine process of a test's own."""

    def __init__(self, options: TransformersOptions, patch: str = "") -> None:
        self.connection, theirs = multiprocessing.Pipe()
        arguments = [sys.executable, "-c", CHILD.format(patch=patch), str(theirs.fileno())]
        self.process = subprocess.Popen(
            [*arguments, options.model_dump_json()], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE
        )
        theirs.close()

    def started(self) -> Ready | StartFailed:
        while True:
            assert self.connection.poll(120)
            if isinstance(message := self.connection.recv(), Ready | StartFailed):
                return message

    def ended(self) -> tuple[int, str]:
        """Exit code and log."""
        log = self.process.communicate(timeout=30)[1].decode()
        return self.process.returncode, log

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        if self.process.stderr is not None and not self.process.stderr.closed:
            self.process.communicate()


StartChild = Callable[..., Child]


@pytest.fixture
def start(engine_options: TransformersOptions, tiny_model: Path) -> Iterator[StartChild]:
    """Starts an engine process with a tiny model; arguments change its options, `patch` is code that it runs first."""
    with contextlib.ExitStack() as stack:

        def start(patch: str = "", **changes: Any) -> Child:
            child = Child(engine_options.model_copy(update={"model_source": str(tiny_model), **changes}), patch)
            stack.callback(child.close)
            return child

        yield start


def test_an_engine_that_cannot_start_says_why_and_leaves(start: StartChild, tmp_path: Path) -> None:
    child = start(model_source=str(tmp_path))
    failed = child.started()
    assert isinstance(failed, StartFailed)
    assert "it has no config.json" in failed.message
    assert child.ended()[0] == 1


def test_the_threads_that_loaded_the_model_are_gone(
    start: StartChild, engine_options: TransformersOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside those of the generation thread they would be more than the cores: libgomp lets all sleep early then."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # numpy's library keeps one otherwise
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    child = start(model_source=engine_options.model_source, threads=None)
    assert isinstance(child.started(), Ready)
    main_commands_generation = 3
    for _ in range(10):  # signs of life: the kernel takes a moment to end a thread
        assert child.connection.poll(5)
        child.connection.recv()
        threads = os.listdir(f"/proc/{child.process.pid}/task")
        if len(threads) == main_commands_generation:
            break
    assert len(threads) == main_commands_generation


def test_an_engine_leaves_with_its_parent(start: StartChild) -> None:
    child = start()
    assert isinstance(child.started(), Ready)
    child.connection.close()
    assert child.ended()[0] == 1


def test_sigterm_stops_an_engine_in_the_middle_of_an_answer(start: StartChild) -> None:
    child = start()
    assert isinstance(child.started(), Ready)
    child.connection.send(Generate("r", tuple(range(5, 50)), max_new_tokens=1000))
    assert child.connection.poll(30)
    child.process.send_signal(signal.SIGTERM)
    while child.process.poll() is None and child.connection.poll(10):
        try:
            child.connection.recv()
        except EOFError:
            break
    assert child.ended()[0] == 0


def test_a_dead_generation_loop_ends_the_process_and_no_request(start: StartChild) -> None:
    """The worker starts the engine again and its requests go on there: none of them may look failed."""
    patch = """
from worker.engines.transformers.batch import Batch
def boom(self): raise RuntimeError("no memory left")
Batch._generation_step = boom
"""
    child = start(patch)
    assert isinstance(child.started(), Ready)
    child.connection.send(Generate("r", (5, 6, 7), max_new_tokens=2000))
    code, log = child.ended()
    messages = []
    with contextlib.suppress(EOFError):
        while True:
            messages.append(child.connection.recv())
    assert code == 1
    assert "no memory left" in log
    assert not any(step.outputs for step in messages)
