"""The traces."""

import statistics

from bench.trace import chats, stories


def test_a_seed_names_a_trace() -> None:
    assert chats("a", 50, 2.0) == chats("a", 50, 2.0)
    assert chats("a", 50, 2.0) != chats("b", 50, 2.0)
    assert stories("a", 5, 10) != stories("b", 5, 10)


def test_chats_arrive_at_the_rate_that_was_asked_for() -> None:
    turns = chats("rate", 2000, 4.0)
    assert [turn.at for turn in turns] == sorted(turn.at for turn in turns)
    assert 3.6 < 2000 / turns[-1].at < 4.4


def test_chats_have_the_mix_of_lengths_and_turns_that_the_text_promises() -> None:
    turns = chats("mix", 4000, 1.0)
    kinds = [turn.kind for turn in turns]
    assert 0.45 < kinds.count("first") / 4000 < 0.55
    assert 0.09 < kinds.count("tool") / 4000 < 0.16
    assert 70 < statistics.median(turn.max_tokens for turn in turns) < 90
    assert max(turn.max_tokens for turn in turns) == 400


def test_a_turn_with_a_tools_result_has_the_call_before_it() -> None:
    turn = next(turn for turn in chats("tools", 200, 1.0) if turn.kind == "tool")
    *_, call, result = turn.messages
    assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    assert turn.tools
