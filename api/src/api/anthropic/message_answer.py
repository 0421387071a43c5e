"""A task's events -> a message, whole or as the events of Anthropic's stream."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

Event = Mapping[str, Any]
"""An event of the task's stream, as docs/events.md has it."""
Json = dict[str, JsonValue]

_STOP_REASONS = {"length": "max_tokens", "stop_sequence": "stop_sequence"}
"""Of ours that Anthropic's clients know; all others are `end_turn` there."""


def message(task_id: str, model: str, outcome: Event) -> Json:
    """The reply to a request that does not stream, from the event that ended its task well."""
    content: list[JsonValue] = []
    if outcome.get("reasoning"):
        content.append({"type": "thinking", "thinking": outcome["reasoning"], "signature": ""})
    calls = outcome.get("toolCalls", ())
    if outcome["text"] or not calls:
        content.append(_text(outcome["text"]))
    content += [_tool_use(call, call["arguments"]) for call in calls]
    return _message(task_id, model, content, _usage(outcome), outcome.get("guard")) | _ending(outcome)


def _message(task_id: str, model: str, content: list[JsonValue], usage: Json, guard: JsonValue) -> Json:
    """`guard`: what loop prevention did, as a field that Anthropic's API does not have; None where it did nothing."""
    said: Json = {} if guard is None else {"guard": guard}
    return said | {
        "id": f"msg_{task_id.replace('-', '')}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        **_stop(None),
        "usage": usage,
    }


def _ending(outcome: Event) -> Json:
    if outcome["type"] == "tool_calls" and outcome["finishReason"] != "length":
        return _stop("tool_use")
    reason = _STOP_REASONS.get(outcome["finishReason"], "end_turn")
    return _stop(reason, outcome.get("stopSequence") if reason == "stop_sequence" else None)


def _stop(reason: str | None, sequence: str | None = None) -> Json:
    return {"stop_reason": reason, "stop_sequence": sequence, "stop_details": None, "container": None}


def _text(text: str) -> Json:
    return {"type": "text", "text": text, "citations": None}


def _tool_use(call: Event, arguments: Json) -> Json:
    return {
        "type": "tool_use",
        "id": call["id"],
        "caller": {"type": "direct"},
        "name": call["name"],
        "input": arguments,
    }


def _usage(outcome: Event) -> Json:
    """Of a message."""
    return _counts(outcome) | {"cache_creation": None, "service_tier": "standard", "inference_geo": None}


def _counts(outcome: Event) -> Json:
    """Of a message's end. Anthropic counts the cached tokens apart from the others."""
    usage = outcome["usage"]
    return {
        "input_tokens": usage["promptTokens"] - usage["cachedTokens"],
        "output_tokens": usage["completionTokens"],
        "cache_read_input_tokens": usage["cachedTokens"],
        "cache_creation_input_tokens": 0,
        "output_tokens_details": None,
        "server_tool_use": None,
    }


class MessageEvents:
    """The events of one streamed message: start, its blocks one after the other, delta, stop."""

    def __init__(self, task_id: str, model: str) -> None:
        self._task_id = task_id
        self._model = model
        self.begun = False
        """True when the client has seen something of the answer."""
        self._open: str | None = None
        """The type of the block that is open."""
        self._blocks = 0
        self._guard: JsonValue = None

    def of_event(self, event: Event) -> Iterator[Json]:
        """The events that one of the task's stream becomes."""
        match event["type"]:
            case "status":
                self._guard = event.get("guard", self._guard)
            case "token":
                if event.get("reasoning"):
                    thinking: Json = {"type": "thinking", "thinking": "", "signature": ""}
                    yield from self._within(thinking, {"type": "thinking_delta", "thinking": event["reasoning"]})
                if event.get("text"):
                    yield from self._within(_text(""), {"type": "text_delta", "text": event["text"]})
            case "final_text":
                if not self._blocks:
                    yield from self._within(_text(""), None)
                yield from self._end(event)
            case "tool_calls":
                for call in event["toolCalls"]:
                    yield from self._close()
                    arguments = json.dumps(call["arguments"], ensure_ascii=False)
                    yield from self._within(
                        _tool_use(call, {}), {"type": "input_json_delta", "partial_json": arguments}
                    )
                yield from self._end(event)

    def _within(self, block: Json, delta: Json | None) -> Iterator[Json]:
        """The delta, inside of a block of this type."""
        yield from self._begin()
        if self._open != block["type"]:
            yield from self._close()
            self._open = str(block["type"])
            self._blocks += 1
            yield {"type": "content_block_start", "index": self._blocks - 1, "content_block": block}
        if delta is not None:
            yield {"type": "content_block_delta", "index": self._blocks - 1, "delta": delta}

    def _begin(self) -> Iterator[Json]:
        if not self.begun:
            self.begun = True
            # Nobody has counted the prompt's tokens yet: the last delta has the numbers.
            usage = _usage({"usage": {"promptTokens": 0, "completionTokens": 0, "cachedTokens": 0}})
            yield {"type": "message_start", "message": _message(self._task_id, self._model, [], usage, self._guard)}

    def _close(self) -> Iterator[Json]:
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._blocks - 1}

    def _end(self, outcome: Event) -> Iterator[Json]:
        yield from self._begin()
        yield from self._close()
        yield {"type": "message_delta", "delta": _ending(outcome), "usage": _counts(outcome)}
        yield {"type": "message_stop"}
