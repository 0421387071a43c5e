"""Which pages the prefix cache loses when its memory is short."""

from testbed.tiny_batch import KV_BYTES_PER_TOKEN, PAGE, Driver, StartBatch
from worker.engine_protocol import Generate

PAGES = 64
SMALL_CACHE = {"kv_memory_gib": PAGES * PAGE * KV_BYTES_PER_TOKEN / 2**30}


def found(driver: Driver, number: int, shared: int, own: int) -> int:
    """Pages in the prefix cache of a prompt with so many pages that all prompts begin with, and so many of its own."""
    driver.steps.clear()
    prompt = (*range(100, 100 + shared * PAGE), *range(1000 * number, 1000 * number + own * PAGE + 1))
    driver.tokens(Generate(f"{number}", prompt, max_new_tokens=PAGE))
    return sum(output.cached_tokens for step in driver.steps for output in step.outputs) // PAGE


def test_what_was_used_last_is_kept_when_room_is_short(start_batch: StartBatch) -> None:
    driver = start_batch(**SMALL_CACHE)
    assert [found(driver, number, shared=2, own=2) for number in range(1, 5)] == [0, 2, 2, 2]
    for number in range(5, 40):
        assert found(driver, number, shared=2, own=2) == 2
        assert found(driver, number - 4, shared=2, own=2) == 4


def test_a_prompts_end_goes_before_its_beginning_when_room_is_short(start_batch: StartBatch) -> None:
    driver = start_batch(**SMALL_CACHE)
    found(driver, 1, shared=0, own=PAGES // 2)
    for number in range(2, 10):
        found(driver, number, shared=0, own=2)
    assert 0 < found(driver, 1, shared=0, own=PAGES // 2) < PAGES // 2


def test_kept_pages_give_way_to_a_large_step_at_once(start_batch: StartBatch) -> None:
    """Not only once the safety margin is touched: beside an answer that goes on nothing would touch it."""
    room = PAGES * PAGE // 2
    driver = start_batch(**SMALL_CACHE, max_batch_tokens=room, prefill_chunk=room)
    for number in range(1, 20):
        found(driver, number, shared=0, own=2)
    driver.steps.clear()
    long = Generate("long", (7,), max_new_tokens=12 * PAGE)
    driver.tokens(long, Generate("large", tuple(range(500, 500 + room - 2)), max_new_tokens=1))
    assert [o.request_id for step in driver.steps for o in step.outputs if o.ends] == ["large", "long"]
