"""The pretended cluster, on a real Valkey."""

from bench.experiments import Scale
from bench.experiments.placement import measure


async def test_conversations_find_their_prompts_again_where_they_began() -> None:
    scale = Scale(repetitions=1, size=0.25)
    warm, blind = [await measure(4, scale, 1, hints=hints) for hints in (True, False)]
    assert warm["tasks"] == blind["tasks"] == 4 * 4 * 6
    assert warm["cached_share"] > 0.75
    assert blind["cached_share"] < 0.6
    assert warm["first_token_ms_p95"] < 1.1 * blind["first_token_ms_p95"]
