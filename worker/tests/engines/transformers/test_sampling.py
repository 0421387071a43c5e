"""The sampler on made-up scores."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.continuous_batching.requests import FutureRequestState

from worker.engine_protocol import Generate
from worker.engines.constraint import Constraint
from worker.engines.transformers.sampling import Sampler
from worker.engines.transformers.sequence import Answer, Sequence

GREEDY = Generate("r", (5, 6, 7))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small lose by a second thread, on a busy machine by a factor of ten."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sampler(vocabulary: int) -> Sampler:
    return Sampler(vocabulary, torch.device("cpu"))


def future(generate: Generate, position: int = 0, constraint: Constraint | None = None) -> FutureRequestState:
    """A request about to draw the token at `position` of its answer."""
    sequence = Sequence("r#1", list(generate.prompt_ids), answer=Answer(generate, constraint))
    sequence.position_offset = len(generate.prompt_ids) + position
    return FutureRequestState(sequence, has_new_token=True, complete_blocks={}, query_length=1)


def draw(sampler: Sampler, scores: torch.Tensor, requests: list[FutureRequestState]) -> list[int]:
    arguments = torch.full((sampler.tensors_required, len(requests)), -1, dtype=torch.int32)
    sampler.fill_defaults(arguments)
    sampler.prepare_tensor_args(requests, arguments)
    tokens: list[int] = sampler(torch.zeros(0), scores.clone(), arguments).argmax(-1).tolist()
    return tokens


def random_scores(rows: int, vocabulary: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(1)) * scale


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    scores, temperature, draws = random_scores(1, 12), 1.5, 20_000
    counts = np.zeros(12)
    one = sampler(12)
    for position in range(0, draws, 200):
        requests = [future(replace(GREEDY, temperature=temperature, seed=9), position + i) for i in range(200)]
        counts += np.bincount(draw(one, scores.expand(200, -1), requests), minlength=12)
    expected = (scores[0] / temperature).softmax(-1).numpy() * draws
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 31.3  # 11 degrees of freedom: one in a thousand is above


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.7), (40, 0.9), (1, 1.0), (0, 0.01), (600, 0.99)])
def test_top_k_and_top_p_leave_the_tokens_that_transformers_leaves(top_k: int, top_p: float) -> None:
    scores = random_scores(1, 800)
    left = TemperatureLogitsWarper(0.8)(torch.zeros(0), scores)
    if top_k:
        left = TopKLogitsWarper(top_k)(torch.zeros(0), left)
    if top_p < 1:
        left = TopPLogitsWarper(top_p)(torch.zeros(0), left)
    allowed = set(left[0].isfinite().nonzero()[:, 0].tolist())
    asked = replace(GREEDY, temperature=0.8, top_k=top_k, top_p=top_p)
    one = sampler(800)
    drawn: set[int] = set()
    for position in range(0, 2048, 64):
        requests = [future(asked, position + i) for i in range(64)]
        drawn |= set(draw(one, scores.expand(64, -1), requests))
    assert drawn <= allowed
    assert len(drawn) >= min(len(allowed), 5)


@pytest.mark.parametrize(
    "near_greedy",
    [
        *({"temperature": temperature} for temperature in (5e-324, 1e-40, 1.2e-38, 1e-37, 1e-12)),
        *({"temperature": temperature, "top_p": 0.9} for temperature in (1e-40, 1.2e-38, 1e-37)),
        *({"temperature": 1.0, "top_p": top_p} for top_p in (5e-324, 1e-46, 1e-30)),
        {"temperature": 1.0, "top_k": 1},
    ],
)
def test_next_to_no_temperature_or_top_p_is_greedy(near_greedy: dict[str, Any]) -> None:
    """float32 has no such number, or a score divided by it is infinite."""
    scores = random_scores(64, 800, scale=20.0)
    requests = [future(replace(GREEDY, **near_greedy), position) for position in range(64)]
    assert draw(sampler(800), scores, requests) == scores.argmax(-1).tolist()


def test_a_nucleus_larger_than_the_first_candidates_is_drawn_from_whole() -> None:
    scores = random_scores(1, 5000, scale=0.01)
    requests = [future(replace(GREEDY, temperature=1.0, top_p=0.95), position) for position in range(64)]
    one = sampler(5000)
    drawn = draw(one, scores.expand(64, -1), requests)
    likely = set(scores[0].topk(256).indices.tolist())
    assert sum(token in likely for token in drawn) < 16  # 256 of 4,750: about 3


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    vocabulary = 500
    scores = random_scores(1, vocabulary)
    hot = replace(GREEDY, temperature=1.0, seed=7)
    one = sampler(vocabulary)
    alone = draw(one, scores, [future(hot, 3)])
    neighbours = [future(GREEDY), future(replace(hot, top_p=0.5), 1), future(hot, 3), future(replace(hot, seed=8), 3)]
    together = draw(one, scores.expand(4, -1), neighbours)
    assert together[2] == alone[0]
    assert together[0] == scores.argmax().item()
    # A takeover counts the tokens of the earlier attempt as prompt to compute, not as prompt.
    taken_over = Sequence("r#2", [5, 6, 7, 1, 2, 3], answer=Answer(replace(hot, generated_ids=(1, 2, 3))))
    taken_over.position_offset = 6
    assert draw(one, scores, [FutureRequestState(taken_over, True, {}, 6)]) == alone


@pytest.mark.parametrize("change", [{"seed": 8}, {"position": 4}])
def test_other_seeds_and_positions_give_independent_draws(change: dict[str, int]) -> None:
    scores = torch.zeros(1, 1000)
    hot = replace(GREEDY, temperature=1.0)
    one = sampler(1000)
    first = [draw(one, scores, [future(replace(hot, seed=seed), 3)])[0] for seed in range(0, 100, 10)]
    second = [
        draw(one, scores, [future(replace(hot, seed=seed + change.get("seed", 0)), change.get("position", 3))])[0]
        for seed in range(0, 100, 10)
    ]
    assert sum(a == b for a, b in zip(first, second, strict=True)) <= 1


class OnlyToken(Constraint):
    """A grammar that allows one token."""

    def __init__(self, token: int, words: int) -> None:
        self._bits = np.zeros((1, words), dtype=np.uint32)
        self._bits[0, token // 32] = 1 << (token % 32)

    def allowed(self, remaining: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        return self._bits.view(np.int32)


def test_a_grammar_binds_its_own_row() -> None:
    scores = random_scores(3, 100)
    one = sampler(100)
    hot = replace(GREEDY, temperature=2.0, top_k=3)
    bound = draw(one, scores, [future(GREEDY), future(hot, constraint=OnlyToken(95, 4)), future(GREEDY)])
    assert bound == [scores[0].argmax().item(), 95, scores[2].argmax().item()]
    free = draw(one, scores, [future(GREEDY), future(GREEDY), future(GREEDY)])
    assert free == scores.argmax(-1).tolist()
