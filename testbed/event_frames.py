"""Events of a task's stream, and refusals, as a server sends them."""

import json
from typing import Any

USAGE = {"promptTokens": 3, "completionTokens": 2, "cachedTokens": 0}
TIMINGS = {"queued": 0.1, "firstToken": 0.2, "total": 0.3}


def frame(event_id: str, kind: str, **data: Any) -> str:
    data = {"type": kind, "taskId": "t1", **data}
    return f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


def token(event_id: str, text: str) -> str:
    return frame(event_id, "token", text=text, index=int(event_id.partition("-")[2]))


def final_text(event_id: str, text: str) -> str:
    return frame(event_id, "final_text", text=text, finishReason="stop", usage=USAGE, timings=TIMINGS)


def call_of(name: str, **arguments: Any) -> str:
    calls = [{"id": "call_1", "name": name, "arguments": arguments}]
    return frame("1-8", "tool_calls", toolCalls=calls, text="", usage=USAGE, timings=TIMINGS)


def refusal(code: int, **data: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": "no", "data": data}}


STARTED = frame("1-0", "status", state="STARTED", attempt=1)
FINAL = final_text("1-8", "ab")
SUCCESS = frame("1-81", "status", state="SUCCESS")
END = frame("1-9", "end", state="SUCCESS")
