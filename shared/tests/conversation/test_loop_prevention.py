import itertools
import json
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from shared.conversation.loop_prevention import Guarded, LoopPolicy, call_key, prevent_loops
from shared.conversation.rules import check_conversation
from shared.wire.chat import AssistantMessage, ChatMessage, FunctionCall, MessageToolCall, ToolMessage, UserMessage

Call = tuple[str, str, str]
"""Name, arguments as JSON text, answer."""


def conversation(*rounds: Call | list[Call] | str) -> list[ChatMessage]:
    """A user message, then rounds of calls; a text is a new user message, and `...text` an assistant's."""
    messages: list[ChatMessage] = [UserMessage(role="user", content="go")]
    ids = itertools.count()
    for item in rounds:
        if isinstance(item, str):
            messages.append(
                AssistantMessage(role="assistant", content=item[3:])
                if item.startswith("...")
                else UserMessage(role="user", content=item)
            )
            continue
        calls = item if isinstance(item, list) else [item]
        asked = [
            MessageToolCall(id=f"c{next(ids)}", function=FunctionCall(name=name, arguments=arguments))
            for name, arguments, _ in calls
        ]
        messages.append(AssistantMessage(role="assistant", tool_calls=asked))
        for call, (_, _, answer) in zip(asked, calls, strict=True):
            messages.append(ToolMessage(role="tool", content=answer, tool_call_id=call.id))
    return messages


def names(messages: list[ChatMessage]) -> list[str]:
    return [c.function.name for m in messages if isinstance(m, AssistantMessage) for c in m.tool_calls or []]


A: Call = ("weather", '{"city":"Paris","unit":"C"}', "18 degrees")
A_AGAIN: Call = ("weather", '{ "unit": "C", "city": "Paris" }', "18 degrees")
B: Call = ("time", "{}", "noon")
C: Call = ("news", "", "none")


def test_a_conversation_without_repeats_is_left_alone() -> None:
    messages = conversation(A, B, C)
    guarded = prevent_loops(messages, LoopPolicy())
    assert guarded.messages == messages
    assert guarded.guard is None


def test_a_repeat_is_taken_out_and_the_model_is_told_the_answer() -> None:
    guarded = prevent_loops(conversation(A, A_AGAIN), LoopPolicy())
    assert names(guarded.messages) == ["weather"]
    assert guarded.messages[-1].content is not None
    assert guarded.messages[-1].content.startswith("18 degrees\n\n(Note: weather")
    assert guarded.guard is not None
    assert guarded.guard.repeated_calls_removed == 1
    assert not guarded.guard.tools_withheld


def test_a_call_whose_answer_changed_is_polling_and_stays() -> None:
    messages = conversation(("status", "{}", "10 %"), ("status", "{}", "20 %"), ("status", "{}", "10 %"))
    guarded = prevent_loops(messages, LoopPolicy())
    assert guarded.messages == messages
    assert guarded.guard is None


def test_two_rounds_that_bring_nothing_new_withhold_the_tools() -> None:
    guard = prevent_loops(conversation(A, A, A), LoopPolicy()).guard
    assert guard is not None
    assert guard.tools_withheld
    assert guard.repeated_calls_removed == 2
    assert guard.cycle == []


def test_an_alternating_cycle_is_recognised() -> None:
    guarded = prevent_loops(conversation(A, B, A, B), LoopPolicy())
    assert guarded.guard is not None
    assert guarded.guard.cycle == ["weather", "time"]
    assert guarded.guard.tools_withheld
    assert names(guarded.messages) == ["weather", "time"]


def test_a_cycle_of_three_is_recognised_at_its_second_repeat() -> None:
    guard = prevent_loops(conversation(A, B, C, A, B), LoopPolicy()).guard
    assert guard is not None
    assert guard.cycle == ["weather", "time", "news"]


def test_tests_run_again_after_an_edit_do_not_cost_the_tools() -> None:
    run: Call = ("run_tests", "{}", "1 failed")
    guard = prevent_loops(
        conversation(run, ("edit", '{"line":1}', "ok"), run, ("edit", '{"line":2}', "ok"), run), LoopPolicy()
    ).guard
    assert guard is not None
    assert guard.repeated_calls_removed == 2
    assert not guard.tools_withheld


def test_the_same_question_in_a_new_turn_is_no_repeat() -> None:
    messages = conversation(A, "...It is 18 degrees.", "And now?", A)
    assert prevent_loops(messages, LoopPolicy()).messages == messages


def test_after_n_rounds_the_model_must_answer() -> None:
    rounds: list[Call] = [("page", json.dumps({"n": n}), f"text {n}") for n in range(3)]
    assert prevent_loops(conversation(*rounds), LoopPolicy(max_tool_rounds=4)).guard is None
    guarded = prevent_loops(conversation(*rounds), LoopPolicy(max_tool_rounds=3))
    assert guarded.guard is not None
    assert guarded.guard.tools_withheld
    assert names(guarded.messages) == ["page"] * 3


def test_rounds_are_counted_from_the_last_user_message() -> None:
    rounds: list[Call] = [("page", json.dumps({"n": n}), f"text {n}") for n in range(3)]
    assert prevent_loops(conversation(*rounds, "...Done.", "More"), LoopPolicy(max_tool_rounds=3)).guard is None


def test_of_a_parallel_round_only_the_repeats_go() -> None:
    guarded = prevent_loops(conversation(A, [A_AGAIN, B]), LoopPolicy())
    assert names(guarded.messages) == ["weather", "time"]
    assert guarded.guard is not None
    assert guarded.guard.repeated_calls_removed == 1


def test_nothing_is_done_when_the_policy_is_off() -> None:
    messages = conversation(A, A, A, A)
    guarded = prevent_loops(messages, LoopPolicy(enabled=False))
    assert guarded.messages == messages
    assert guarded.guard is None


def test_a_repeat_behind_assistant_text_stays_so_that_there_is_something_to_answer() -> None:
    messages = conversation(A, "...Hm.", A)
    guarded = prevent_loops(messages, LoopPolicy(max_repeats=5))
    assert isinstance(guarded.messages[-1], ToolMessage)
    assert names(guarded.messages) == ["weather", "weather"]


def test_equal_numbers_make_equal_calls() -> None:
    def key(arguments: str) -> str:
        return call_key(MessageToolCall(id="x", function=FunctionCall(name="f", arguments=arguments)))

    assert key('{"n": 1.0, "m": [2]}') == key('{"m": [2.0], "n": 1}')
    assert key('{"n": 1.5}') != key('{"n": 1}')
    assert key('{"n": "1"}') != key('{"n": 1}')


calls = st.tuples(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(["{}", '{"x":1}', '{"x": 1.0}']), st.sampled_from(["yes", "no"])
)
items = st.one_of(calls, st.lists(calls, min_size=1, max_size=3), st.just("next"), st.just("...so"))


@example([("a", "{}", "yes"), "...so", [("a", "{}", "yes"), ("a", "{}", "yes")]], 1, 1)
@example([("a", "{}", "yes"), "...so", ("a", "{}", "yes")], 2, 3)
@given(st.lists(items, max_size=12), st.integers(1, 3), st.integers(1, 9))
def test_the_guard_keeps_the_role_rules_and_a_second_pass_changes_no_message(
    rounds: list[Call | list[Call] | str], repeats: int, tool_rounds: int
) -> None:
    messages = conversation(*rounds)
    if isinstance(messages[-1], AssistantMessage):
        messages.append(UserMessage(role="user", content="well?"))
    policy = LoopPolicy(max_repeats=repeats, max_tool_rounds=tool_rounds)
    once = prevent_loops(messages, policy)
    check_conversation(once.messages, [("messages", at) for at in range(len(once.messages))])
    assert prevent_loops(once.messages, policy).messages == once.messages
    if once.guard is None:
        assert once.messages == messages


POLL: Call = ("job_status", '{"job": 7}', "running")
PATIENT = LoopPolicy(polling_tools=frozenset({"job_status"}))


def test_a_tool_that_polls_may_give_the_same_answer_for_as_long_as_it_takes() -> None:
    messages = conversation(*[POLL] * 30)
    assert prevent_loops(messages, PATIENT) == Guarded(messages, None)
    guard = prevent_loops(messages, LoopPolicy()).guard
    assert guard is not None
    assert guard.tools_withheld


def test_polling_hides_no_loop_of_another_tool() -> None:
    guarded = prevent_loops(conversation(POLL, A, POLL, A, POLL, A, POLL), PATIENT)
    assert names(guarded.messages) == ["job_status", "weather", "job_status", "job_status", "job_status"]
    assert guarded.guard is not None
    assert (guarded.guard.repeated_calls_removed, guarded.guard.tools_withheld) == (2, True)


def test_a_call_beside_a_polling_one_is_judged_for_itself() -> None:
    guarded = prevent_loops(conversation([A, POLL], [POLL, A], [POLL, A]), PATIENT)
    assert names(guarded.messages) == ["weather", "job_status", "job_status", "job_status"]
    assert guarded.guard is not None
    assert guarded.guard.tools_withheld


def test_rounds_beside_polling_ones_count() -> None:
    rounds: list[Call | list[Call] | str] = [POLL, A, POLL, B, POLL, POLL, C]
    assert prevent_loops(conversation(*rounds), replace(PATIENT, max_tool_rounds=4)).guard is None
    guard = prevent_loops(conversation(*rounds), replace(PATIENT, max_tool_rounds=3)).guard
    assert guard is not None
    assert guard.reason.startswith("3 tool rounds")
