"""A task's events -> what every answer of `/v1` has: its identity, its usage, why it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from shared.store.task_id import task_id_time

Event = Mapping[str, Any]
"""An event of the task's stream, as docs/events.md has it."""
Json = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Identity:
    """What all chunks of an answer repeat. It follows from the task alone, so every replica says the same."""

    task_id: str
    model: str
    fingerprint: str | None
    """The model's revision; None before a worker of it was ready."""

    def head(self, prefix: str, kind: str) -> Json:
        """The first fields of a reply or chunk: `chatcmpl-…`, its time, its model."""
        head: Json = {
            "id": f"{prefix}-{self.task_id.replace('-', '')}",
            "object": kind,
            "created": int(task_id_time(self.task_id) or 0),
            "model": self.model,
        }
        return head if self.fingerprint is None else head | {"system_fingerprint": self.fingerprint}


def guarded(guard: JsonValue) -> Json:
    """What loop prevention did, as a field that OpenAI's API does not have; nothing where it did nothing."""
    return {} if guard is None else {"guard": guard}


def usage_of(outcome: Event) -> Json:
    """Token counts of an outcome event."""
    usage = outcome["usage"]
    prompt, completion = usage["promptTokens"], usage["completionTokens"]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usage["cachedTokens"], "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.get("reasoningTokens", 0),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def sum_of(usages: Sequence[Json]) -> Json:
    """Token counts of several tasks together."""
    total: Json = {}
    for usage in usages:
        for name, value in usage.items():
            before = total.get(name)
            if isinstance(value, dict):
                total[name] = sum_of([before, value]) if isinstance(before, dict) else value
            else:
                total[name] = (before if isinstance(before, int) else 0) + (value if isinstance(value, int) else 0)
    return total


def finish_reason(outcome: Event) -> str:
    """Why the answer ended, as OpenAI's clients know it."""
    if outcome["finishReason"] == "length":
        return "length"
    return "tool_calls" if outcome["type"] == "tool_calls" else "stop"
