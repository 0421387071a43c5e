"""A task's events -> a chat completion, whole or in chunks."""

import json
from collections.abc import Iterator

from pydantic import JsonValue

from api.http.logprobs import logprobs_of
from api.openai.answer import Event, Identity, Json, finish_reason, guarded, usage_of


def chat_completion(identity: Identity, outcome: Event) -> Json:
    """The reply to a request that does not stream, from the event that ended its task well."""
    calls = outcome.get("toolCalls", ())
    message: Json = {
        "role": "assistant",
        "content": outcome["text"] or (None if calls else ""),
        "refusal": None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    if outcome.get("reasoning"):
        message |= _reasoning(outcome["reasoning"])
    choice: Json = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(outcome),
        "finish_reason": finish_reason(outcome),
    }
    return (
        identity.head("chatcmpl", "chat.completion")
        | {
            "choices": [choice],
            "usage": usage_of(outcome),
            "service_tier": "default",
        }
        | guarded(outcome.get("guard"))
    )


class ChatChunks:
    """The chunks of one streamed answer, in OpenAI's order: role, contents, tools, finish, usage."""

    def __init__(self, identity: Identity, *, include_usage: bool) -> None:
        self._head = identity.head("chatcmpl", "chat.completion.chunk")
        self._include_usage = include_usage
        self._guard: JsonValue = None
        self.begun = False
        """True when the client has seen something of the answer."""

    def of_event(self, event: Event) -> Iterator[Json]:
        """The chunks that an event of the task's stream adds."""
        match event["type"]:
            case "status":
                self._guard = event.get("guard", self._guard)
            case "token":
                delta: Json = {"content": event["text"]} if event.get("text") else {}
                if event.get("reasoning"):
                    delta |= _reasoning(event["reasoning"])
                if delta or event.get("logprobs"):
                    yield from self._begin("")
                    yield self._chunk(delta, logprobs=_logprobs(event))
            case "final_text":
                yield from self._begin("")
                yield from self._end(event)
            case "tool_calls":
                yield from self._begin(None)
                for index, call in enumerate(event["toolCalls"]):
                    head: Json = {"name": call["name"], "arguments": ""}
                    yield self._chunk({"tool_calls": [{"index": index} | _call(call) | {"function": head}]})
                    # Nothing that stood in the first: clients append field by field.
                    rest: Json = {"arguments": json.dumps(call["arguments"], ensure_ascii=False)}
                    yield self._chunk({"tool_calls": [{"index": index, "function": rest}]})
                yield from self._end(event)

    def _begin(self, content: str | None) -> Iterator[Json]:
        if not self.begun:
            self.begun = True
            yield self._chunk({"role": "assistant", "content": content, "refusal": None}) | guarded(self._guard)

    def _end(self, outcome: Event) -> Iterator[Json]:
        yield self._chunk({}, finish_reason(outcome))
        if self._include_usage:
            yield self._head | {"choices": [], "usage": usage_of(outcome)}

    def _chunk(self, delta: Json, finish: str | None = None, logprobs: JsonValue = None) -> Json:
        choice: Json = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage: Json = {"usage": None} if self._include_usage else {}
        return self._head | {"choices": [choice]} | usage


def _call(call: Event) -> Json:
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _reasoning(text: str) -> Json:
    """Under both names that clients of other servers look for."""
    return {"reasoning": text, "reasoning_content": text}


def _logprobs(event: Event) -> JsonValue:
    tokens = logprobs_of(event)
    return {"content": tokens, "refusal": None} if tokens else None
