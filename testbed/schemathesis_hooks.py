"""What a generator of requests cannot know: which model there is, what it asks well, the ids of what it made itself."""

from typing import Any

import schemathesis

from testbed.fake_worker import DEFAULT_MODEL

MADE: dict[str, str] = {}
"""Parameter of a path -> the id that the server gave last."""
SOUND: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/conversations/{conversation_id}/items": {"items": [{"role": "user", "content": "Hello"}]},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5},
    "/v1/responses": {"input": "Hello"},
}
"""Path -> a body that is well made: of those that are made up, nearly all are refused."""
KINDS = {"response": "response_id", "conversation": "conversation_id"}


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Asks for that model where any is asked for, and every other time soundly, and for what there is."""
    if isinstance(case.body, dict):
        if case.operation.path in SOUND and len(str(case.body)) % 2:
            case.body = SOUND[case.operation.path] | {"model": DEFAULT_MODEL, "stream": len(str(case.body)) % 4 == 1}
        elif isinstance(case.body.get("model"), str):
            case.body["model"] = DEFAULT_MODEL
    for name, value in case.path_parameters.items():
        if name in MADE and len(str(value)) % 2:
            case.path_parameters[name] = MADE[name]


@schemathesis.hook
def after_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], response: schemathesis.Response
) -> None:
    """Notes what was made."""
    if task := response.headers.get("x-headrace-task-id"):
        MADE["task_id"] = task[0]
    if response.headers.get("content-type") == ["application/json"] and isinstance(made := response.json(), dict):
        if name := KINDS.get(str(made.get("object"))):
            MADE[name] = str(made["id"])
        elif made.get("object") == "list" and made.get("last_id"):
            MADE["item_id"] = made["last_id"]
