"""How many tokens a step computes."""

import pytest

from worker.engines.step_budget import step_budget


@pytest.mark.parametrize(
    ("decoding", "waiting", "tokens"),
    [
        (0, 1, 256),
        (1, 0, 1 + 64),
        (1, 1, 1 + 64),
        (8, 15, 8 + 64),
        (8, 16, 8 + 2 * 64),
        (4, 12, 4 + 3 * 64),
        (4, 16, 256),
        (1, 1000, 256),
        (250, 1, 256),
    ],
)
def test_a_chunk_of_prompts_for_as_many_that_wait_as_there_are_answers(
    decoding: int, waiting: int, tokens: int
) -> None:
    assert step_budget(decoding, waiting, prefill_chunk=64, max_batch_tokens=256) == tokens
