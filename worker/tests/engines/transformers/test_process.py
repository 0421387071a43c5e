"""The engine process with the real 135M model, over its pipe."""

import contextlib
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.real_engine import RealEngine
from worker.engine_options import TransformersOptions
from worker.engine_protocol import Cancel, Generate, Grammar, Ready, SamplingDefaults, StartFailed


@pytest.fixture(scope="module")
def engine(real_engine: RealEngine) -> RealEngine:
    return real_engine


def test_the_engine_says_what_it_has_loaded(engine: RealEngine) -> None:
    assert engine.loading[-1].detail == "preparing the batch"
    assert engine.ready.eos_token_ids == (2,)
    assert engine.ready.sampling == SamplingDefaults(), "the packaged file says nothing of sampling"
    assert (engine.ready.device, engine.ready.dtype) == ("cpu", "float32")


def test_its_weights_lie_in_huge_pages_unless_the_kernel_has_none(engine: RealEngine) -> None:
    rollup = Path(f"/proc/{engine.pid}/smaps_rollup").read_text()
    (huge_kb,) = re.findall(r"^AnonHugePages: +(\d+) kB$", rollup, re.MULTILINE)
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        assert huge_kb == "0"
    else:
        assert int(huge_kb) > 256 * 1024, "of 540 MB"


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


@pytest.fixture
def roomy_engine(engine_options: TransformersOptions) -> Iterator[RealEngine]:
    """One whose prefix cache keeps all that a test computes."""
    engine = RealEngine(TransformersOptions(model_source=engine_options.model_source, slots=8, threads=2))
    yield engine
    assert engine.close() == 0


def test_scores_of_an_answer_do_not_depend_on_what_is_decoded_beside_it(roomy_engine: RealEngine) -> None:
    """Bit for bit where that is known: packed weights, AMD's cores.

    What the prefix cache still holds decides how a prompt is cut, and whose pages an answer goes on with.
    """
    engine = roomy_engine
    known = engine.ready.linear_layers == "packed" and "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    texts = [
        "Hi",
        "Tell me of the sea, its ships and the winds",
        "Write a story about a river and an old town, please.",
    ]
    requests = [
        Generate(text, engine.prompt(text), max_new_tokens=40 + 9 * at, logprobs=5) for at, text in enumerate(texts)
    ]
    others = [
        Generate(f"other {at}", engine.prompt("Go on: one, two, three. " * at), max_new_tokens=20) for at in range(1, 6)
    ]
    engine.run(*requests, *others)  # from here on all prompts are in the prefix cache
    alone = [scored(engine, request)[request.request_id] for request in requests]
    for beside in ([], others[:1], others):
        together = scored(engine, *requests, *beside)
        for request, expected in zip(requests, alone, strict=True):
            if known:
                assert together[request.request_id] == expected
            else:
                assert np.allclose(together[request.request_id], expected, rtol=0, atol=1e-3)


def scored(engine: RealEngine, *requests: Generate) -> dict[str, list[list[float]]]:
    """Of each token the logprobs: its own, then those of the likeliest."""
    engine.send(*requests)
    outputs = engine.follow(*(request.request_id for request in requests))
    return {
        name: [[each.own or 0.0, *(logprob for _, logprob in each.top)] for output in own for each in output.logprobs]
        for name, own in outputs.items()
    }


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


def test_an_id_may_come_again_right_behind_its_cancellation(engine: RealEngine) -> None:
    prompt = engine.prompt("Tell me a story.")
    engine.send(Generate("again", prompt, max_new_tokens=900), Cancel("again"))
    assert len(engine.tokens(Generate("again", prompt, max_new_tokens=3))) == 3


def test_a_second_request_with_a_held_id_is_dropped(engine: RealEngine) -> None:
    prompt = engine.prompt("Tell me a story.")
    engine.send(Generate("twice", prompt, max_new_tokens=8), Generate("twice", prompt, max_new_tokens=2))
    outputs = engine.follow("twice")["twice"]
    assert sum(len(output.token_ids) for output in outputs) == 8


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
