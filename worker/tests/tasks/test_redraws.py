from worker.engine_protocol import SamplingDefaults
from worker.tasks.redraws import redraw_sampling, redraw_seed

GREEDY = SamplingDefaults()
WARM = SamplingDefaults(temperature=1.2, top_p=0.95, top_k=50)


def test_the_first_answer_is_drawn_as_it_was_asked_for() -> None:
    assert redraw_seed(7, 0) == 7
    assert redraw_sampling(GREEDY, 0) == GREEDY


def test_each_redraw_has_a_seed_of_its_own_that_every_worker_finds() -> None:
    seeds = [redraw_seed(seed, redraw) for seed in (-7, 7, 8) for redraw in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert redraw_seed(7, 1) == 36632658102830160


def test_a_redraw_is_never_greedy_and_never_cooler_than_the_one_before() -> None:
    temperatures = [redraw_sampling(GREEDY, redraw).temperature for redraw in range(1, 6)]
    assert temperatures == sorted(temperatures)
    assert 0.69 < temperatures[0] < temperatures[-1] <= 1.5
    assert redraw_sampling(WARM, 1) == WARM
    nearly_greedy = redraw_sampling(SamplingDefaults(temperature=1, top_p=0.01, top_k=1), 1)
    assert (nearly_greedy.top_p, nearly_greedy.top_k) == (0.9, 20)
    assert redraw_sampling(GREEDY, 1).top_k == 0
