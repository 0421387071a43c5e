import json

from shared.wire.schemas import ToolCall, Usage
from shared.wire.task_result import TaskResult

RESULT = TaskResult(
    cleaned_response_text="Let me see.",
    raw_response_text="Let me see.<tool_call>…",
    tool_calls=[ToolCall(id="c1", name="time", arguments={"zone": None})],
    finish_reason="tool_calls",
    usage=Usage(prompt_tokens=3, completion_tokens=5, cached_tokens=2),
)


def test_a_celery_client_gets_snake_case_all_through() -> None:
    assert json.loads(RESULT.as_json()) == {
        "cleaned_response_text": "Let me see.",
        "raw_response_text": "Let me see.<tool_call>…",
        "tool_calls": [{"id": "c1", "name": "time", "arguments": {"zone": None}}],
        "finish_reason": "tool_calls",
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "cached_tokens": 2},
    }


def test_reasoning_is_there_where_there_is_some() -> None:
    assert "reasoning" not in RESULT.as_json()
    thought = RESULT.model_copy(update={"reasoning": "Hm."})
    assert json.loads(thought.as_json()) == json.loads(RESULT.as_json()) | {"reasoning": "Hm."}
