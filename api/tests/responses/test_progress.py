"""From a task's log to its response's events: what each entry becomes, and that numbers follow from the log alone."""

from typing import Any

import pytest

from api.responses.progress import Progress
from shared.store.task_id import new_task_id

TASK = "0192f0c8-d5f2-7c1a-a1b2-c3d4e5f60718"
USAGE = {"promptTokens": 5, "completionTokens": 3, "cachedTokens": 4, "reasoningTokens": 2}
TIMINGS = {"queued": 0.5, "firstToken": 0.6, "total": 2.5}
PENDING = {"type": "status", "state": "PENDING", "position": 1}
STARTED = {"type": "status", "state": "STARTED", "attempt": 1}
RETRY = {"type": "status", "state": "RETRY", "attempt": 1}
SUCCESS = {"type": "status", "state": "SUCCESS"}
END = {"type": "end", "state": "SUCCESS"}


def token(text: str = "", reasoning: str = "") -> dict[str, Any]:
    return {"type": "token", "text": text, "index": 1} | ({"reasoning": reasoning} if reasoning else {})


def final(text: str, finish: str = "stop") -> dict[str, Any]:
    return {"type": "final_text", "text": text, "finishReason": finish, "usage": USAGE, "timings": TIMINGS}


def calls(*names: str, text: str = "", finish: str = "tool_calls") -> dict[str, Any]:
    made = [{"id": f"call_{name}", "name": name, "arguments": {"a": "ä"}} for name in names]
    return {"type": "tool_calls", "toolCalls": made, "text": text, "finishReason": finish,
            "usage": USAGE, "timings": TIMINGS}  # fmt: skip


def read(*log: dict[str, Any], metadata: dict[str, str] | None = None) -> tuple[Progress, list[dict[str, Any]]]:
    progress = Progress(TASK, {"metadata": {**(metadata or {})}})
    events: list[dict[str, Any]] = [event for entry in log for event in progress.of_event(entry)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return progress, events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def texts(progress: Progress) -> list[tuple[str, str, str]]:
    """Type, status and text of each item of the output."""
    output: Any = progress.response()["output"]
    return [
        (item["type"], item["status"], "".join(part["text"] for part in item.get("content", ()))) for item in output
    ]


def test_reasoning_is_an_item_before_the_message() -> None:
    progress, events = read(PENDING, STARTED, token(reasoning="hm"), token("yes", reasoning="m"), final("yes"))
    assert kinds(events)[3:] == [
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert texts(progress) == [("reasoning", "completed", "hmm"), ("message", "completed", "yes")]
    assert [event["output_index"] for event in events if "output_index" in event] == [0] * 7 + [1] * 6


def test_reasoning_in_the_middle_parts_the_message_in_two() -> None:
    progress, _ = read(PENDING, STARTED, token("a"), token(reasoning="hm"), token("b"), final("ab"))
    assert [text for _, _, text in texts(progress)] == ["a", "hm", "b"]


def test_calls_follow_what_was_said() -> None:
    progress, events = read(PENDING, STARTED, token("Let me see."), calls("f", "g", text="Let me see."), SUCCESS, END)
    output: Any = progress.response()["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    assert [item["id"] for item in output] == [f"{kind}_0192f0c8d5f27c1aa1b2c3d4e5f60718_{at}"
                                               for at, kind in enumerate(("msg", "fc", "fc"))]  # fmt: skip
    assert output[1]["arguments"] == '{"a": "ä"}'
    [delta, _] = [event for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert delta["delta"] == output[1]["arguments"]


def test_calls_alone_have_no_message_and_nothing_said_has_an_empty_one() -> None:
    assert [kind for kind, _, _ in texts(read(PENDING, STARTED, calls("f"))[0])] == ["function_call"]
    progress, events = read(PENDING, STARTED, final(""))
    assert texts(progress) == [("message", "completed", "")]
    assert kinds(events)[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]


@pytest.mark.parametrize("outcome", [final("half", "length"), calls("f", text="half", finish="length")])
def test_an_answer_that_was_cut_short_is_incomplete(outcome: dict[str, Any]) -> None:
    progress, events = read(PENDING, STARTED, token("half"), outcome)
    assert kinds(events)[-1] == "incomplete"
    response = progress.response()
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert texts(progress)[0] == ("message", "incomplete", "half")


def test_usage_and_times_are_the_outcomes() -> None:
    response = read(PENDING, STARTED, token("x"), final("x"))[0].response()
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 8,
    }
    created: Any = response["created_at"]
    assert response["completed_at"] == created + 2


def test_a_takeover_goes_on_in_the_same_item() -> None:
    progress, events = read(PENDING, STARTED, token("a"), RETRY, STARTED, token("b"), final("ab"))
    assert kinds(events)[5:9] == ["output_text.delta", "queued", "in_progress", "output_text.delta"]
    assert texts(progress) == [("message", "completed", "ab")]


def test_what_another_revision_makes_void_stays_in_its_place_without_content() -> None:
    progress, events = read(
        PENDING,
        STARTED,
        token(reasoning="hm"),
        token("old"),
        RETRY,
        STARTED | {"restart": True},
        token("new"),
        final("new"),
    )
    assert texts(progress) == [
        ("reasoning", "incomplete", ""),
        ("message", "incomplete", ""),
        ("message", "completed", "new"),
    ]
    last = [event for event in events if "output_index" in event][-1]
    assert last["output_index"] == 2
    assert last["item"] == progress.response()["output"][2]  # type: ignore[index]


def test_a_failure_is_told_flat_and_nested_and_then_ends_the_response() -> None:
    error = {"type": "error", "code": "engine_failed", "message": "It broke.", "retryable": True}
    progress, events = read(PENDING, STARTED, token("half"), error)
    assert kinds(events)[-2:] == ["error", "failed"]
    assert events[-2]["message"] == events[-2]["error"]["message"] == "It broke."
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "It broke."}
    assert texts(progress) == [("message", "incomplete", "half")]


def test_a_cancelled_response_just_ends() -> None:
    progress, events = read(PENDING, STARTED, token("half"), {"type": "status", "state": "REVOKED"}, END)
    assert kinds(events)[-1] == "output_text.delta"
    assert progress.status == "cancelled"
    assert texts(progress) == [("message", "incomplete", "half")]


def test_the_guard_is_told_in_the_metadata_beside_the_clients_own() -> None:
    guarded = PENDING | {"guard": {"reason": "the same call was repeated"}}
    progress, events = read(guarded, STARTED, final("x"), metadata={"mine": "1"})
    assert events[1]["response"]["metadata"] == {
        "mine": "1", "headrace.guard": "the same call was repeated", "headrace.position": "1",
    }  # fmt: skip
    assert progress.response()["metadata"] == {"mine": "1", "headrace.guard": "the same call was repeated"}


def test_what_the_model_was_not_shown_is_told() -> None:
    progress, _ = read(PENDING, STARTED, token("x"), final("x") | {"droppedMessages": 4})
    assert progress.response()["metadata"] == {"headrace.dropped_messages": "4"}


def test_how_likely_tokens_were_is_told_with_their_text() -> None:
    said = [{"token": one, "logprob": -0.5, "topLogprobs": [{"token": "z", "logprob": -1.0}]} for one in ("x", "é")]
    log = [token("x") | {"logprobs": said[:1]}, token("é") | {"logprobs": said[1:]}]
    progress, events = read(PENDING, STARTED, *log, final("xé"))
    told = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert told[1] == [{"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9],
                        "top_logprobs": [{"token": "z", "logprob": -1.0, "bytes": [0x7A]}]}]  # fmt: skip
    [done] = [event for event in events if event["type"] == "response.output_text.done"]
    output: Any = progress.response()["output"]
    assert done["logprobs"] == output[0]["content"][0]["logprobs"] == told[0] + told[1]


def test_entries_of_a_later_version_take_no_number() -> None:
    _, events = read(PENDING, {"type": "weather", "text": "rain"}, STARTED, final("x"))
    assert kinds(events)[:3] == ["created", "queued", "in_progress"]


def test_events_that_were_told_do_not_change_later() -> None:
    progress = Progress(new_task_id(), {"metadata": {}})
    log = [PENDING, STARTED, token("old"), RETRY, STARTED | {"restart": True}]
    events: list[Any] = [event for entry in log for event in progress.of_event(entry)]
    [done] = [event for event in events if event["type"] == "response.output_item.done"]
    assert done["item"]["content"][0]["text"] == "old"
