"""Which prompts have digests of their beginnings in common."""

from typing import Any

from shared.store.beginnings import ENDS, STEPS, beginnings_of
from shared.wire.schemas import InferenceRequest

LONG = "word " * 300


def request(*said: str, **fields: Any) -> InferenceRequest:
    """A conversation in which user and model take turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(said)]
    return InferenceRequest.model_validate({"model": "m", "messages": messages, **fields})


def digests_of(request: InferenceRequest, tenant: str) -> list[str]:
    beginnings = beginnings_of(request, tenant)
    return [*beginnings.long, *beginnings.short]


def longest_in_common(one: list[str], other: list[str]) -> int | None:
    """Its place among the other's."""
    return next((at for at, digest in enumerate(other) if digest in one), None)


def test_the_next_turn_knows_all_of_the_one_before() -> None:
    first = digests_of(request(LONG + "one"), "a")
    second = digests_of(request(LONG + "one", "yes", "two"), "a")
    third = digests_of(request(LONG + "one", "yes", "two", "no", "three"), "a")
    assert set(first) < set(second)
    assert longest_in_common([first[0]], second) is not None
    assert longest_in_common([second[0]], third) is not None


def test_rounds_of_many_tools_are_turns_too() -> None:
    said = [LONG, "one", "two"]
    before = digests_of(request(*said), "a")
    assert before[0] in digests_of(request(*said, *"123456"[: ENDS - 1]), "a")


def test_what_begins_alike_within_one_message_has_beginnings_in_common() -> None:
    document = LONG * 3
    one, other = (digests_of(request(document + question), "a") for question in ("why?", "how?"))
    assert longest_in_common(one, other) == 1
    assert longest_in_common(one, digests_of(request("another " + document), "a")) is None


def test_tools_are_a_part_of_the_prompt_where_the_model_is_shown_them() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    plain = digests_of(request(LONG), "a")
    assert digests_of(request(LONG, tools=[tool], tool_choice="none"), "a") == plain
    assert longest_in_common(plain, digests_of(request(LONG, tools=[tool]), "a")) is None


def test_tenants_have_no_digest_in_common() -> None:
    assert longest_in_common(digests_of(request(LONG), "a"), digests_of(request(LONG), "b")) is None


def test_a_short_prompt_has_none_and_a_long_one_few() -> None:
    assert digests_of(request("hi"), "a") == []
    assert len(digests_of(request(*[LONG] * 100), "a")) <= ENDS + STEPS


def test_prompts_of_text_and_of_tokens_have_them_too() -> None:
    for one, other in ((LONG + "a", LONG + "b"), ([*range(600), 1], [*range(600), 2])):
        digests = [digests_of(InferenceRequest(model="m", messages=[], prompt=prompt), "a") for prompt in (one, other)]
        assert longest_in_common(*digests) == 1


def test_only_half_of_the_prompt_and_more_is_worth_going_anywhere() -> None:
    shared, own = LONG, LONG * 3
    new = beginnings_of(request(shared, "yes", own), "a")
    known = digests_of(request(shared, "yes", "another"), "a")
    assert longest_in_common(known, [*new.short]) is not None
    assert longest_in_common(known, [*new.long]) is None
    assert longest_in_common(known, [*beginnings_of(request(shared, "yes", "a third"), "a").long]) is not None
