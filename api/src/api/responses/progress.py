"""A task's log -> a response and its numbered events. Pure: the same log gives the same events, at any replica.

Each entry of the log that shows something becomes none, one or several events; their numbers count on from entry to
entry. Whoever has read the log up to some entry therefore knows the number of every event up to there, and a reader
that comes back with the number of its last event is given exactly the rest (docs/decisions/0016-responses.md).
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Self

from pydantic import JsonValue

from api.errors import ApiError, ContextTooLong, TaskRefused, failure_of
from api.http.logprobs import logprobs_of
from api.http.openai_errors import error_body
from api.responses.ids import created_at, item_id, response_id
from api.responses.open_item import MESSAGE, REASONING, Json, Kind, OpenItem
from shared.store.event_stream import Entry

Event = dict[str, Any]
"""An event of the task's stream, as docs/events.md has it."""


class Progress:
    """One response as far as its task's log has been read. `of_event` takes the entries in their order, each once."""

    def __init__(self, task_id: str, asked: Json) -> None:
        """`asked`: what the response repeats of its request (`request_echo.echo`)."""
        self.task_id = task_id
        self._asked = asked
        self._told: dict[str, str] = {}
        """What the metadata say beside the client's own: that loop prevention or truncation has acted."""
        self._output: list[Json] = []
        self._open: OpenItem | None = None
        self._usage: Json | None = None
        self._error: Json | None = None
        self._incomplete: Json | None = None
        self._completed_at: int | None = None
        self.status = "queued"
        self.numbered = 0
        """Events so far; the next one has this number."""
        self.failure: ApiError | None = None
        """Of a response that failed."""

    def read(self, entries: Iterable[Entry]) -> Self:
        """Takes all these entries."""
        for entry in entries:
            if entry.data:
                self.take(json.loads(entry.data))
        return self

    def take(self, event: Event) -> None:
        """As `of_event`, for those who look at the response alone."""
        for _ in self.of_event(event):
            pass

    def of_event(self, event: Event) -> Iterator[Json]:
        """The events that an entry of the log adds, each with its number."""
        for said in self._of_event(event):
            said["sequence_number"] = self.numbered
            self.numbered += 1
            yield said

    def response(self, **metadata: str) -> Json:
        """The response as it stands; `metadata`: what is known beside the log."""
        output: list[JsonValue] = [*self._output]
        if self._open is not None:
            output.append(self._open.item("in_progress"))
        notes = self._asked["metadata"]
        assert isinstance(notes, dict)
        state: Json = {
            "id": response_id(self.task_id),
            "object": "response",
            "created_at": created_at(self.task_id),
            "completed_at": self._completed_at,
            "status": self.status,
            "error": self._error,
            "incomplete_details": self._incomplete,
            "output": output,
            "usage": self._usage,
            "metadata": {**notes, **self._told, **metadata},
        }
        return self._asked | state

    def waiting(self, event: Event) -> Json:
        """The event that says that the response waits, told again with what is known now: its place in the queue, and
        what the cluster is doing. It keeps its number: a reader that comes back behind it misses nothing.
        """
        response = self.response(**_queue_metadata(event))
        return {"type": "response.queued", "response": response, "sequence_number": self.numbered - 1}

    def broken_off(self, error: ApiError) -> Json:
        """Why this reader gets no more of a response that may go on: no event of it, so it takes no number."""
        return error_event(error) | {"sequence_number": max(0, self.numbered - 1)}

    def _of_event(self, event: Event) -> Iterator[Json]:
        match event["type"]:
            case "status":
                yield from self._of_status(event)
            case "token":
                if event.get("reasoning"):
                    yield from self._delta(REASONING, event["reasoning"], [])
                if event.get("text") or event.get("logprobs"):
                    yield from self._delta(MESSAGE, event["text"], logprobs_of(event))
            case "final_text" | "tool_calls":
                yield from self._of_outcome(event)
            case "error":
                yield from self._of_failure(event)

    def _of_status(self, event: Event) -> Iterator[Json]:
        match event["state"]:
            case "PENDING":
                if guard := event.get("guard"):
                    self._told["headrace.guard"] = guard["reason"]
                yield {"type": "response.created", "response": self.response()}
                yield {"type": "response.queued", "response": self.response(**_queue_metadata(event))}
            case "STARTED":
                if event.get("restart"):
                    yield from self._void()
                self.status = "in_progress"
                yield {"type": "response.in_progress", "response": self.response()}
            case "RETRY":
                self.status = "queued"
                yield {"type": "response.queued", "response": self.response()}
            case "REVOKED":
                self.status = "cancelled"
                self._end_open("incomplete")

    def _delta(self, kind: Kind, text: str, logprobs: list[JsonValue]) -> Iterator[Json]:
        if self._open is None or self._open.kind is not kind:
            yield from self._close("completed")
            yield from self._begin(kind)
            assert self._open is not None
        yield self._open.delta(text, logprobs)

    def _begin(self, kind: Kind) -> Iterator[Json]:
        self._open = OpenItem(kind, self.task_id, len(self._output))
        yield from self._open.opening()

    def _close(self, status: str) -> Iterator[Json]:
        if self._open is not None:
            item, self._open = self._open, None
            self._output.append(item.item(status))
            yield from item.closing(status)

    def _end_open(self, status: str) -> None:
        for _ in self._close(status):
            pass

    def _void(self) -> Iterator[Json]:
        """Another revision of the model starts the answer over: what was shown stays in its place, emptied."""
        yield from self._close("incomplete")
        self._output = [item | {"content": [], "status": "incomplete"} for item in self._output]

    def _of_outcome(self, outcome: Event) -> Iterator[Json]:
        cut = outcome["finishReason"] == "length"
        if outcome["type"] == "final_text" and not self._has_message():
            # An answer of nothing is an answer: agents take a response without a message for none, and ask again.
            yield from self._close("completed")
            yield from self._begin(MESSAGE)
        yield from self._close("incomplete" if cut else "completed")
        for call in outcome.get("toolCalls", ()):
            yield from self._call(call)
        self._usage = _usage(outcome["usage"])
        self._completed_at = created_at(self.task_id) + int(outcome["timings"]["total"])
        if dropped := outcome.get("droppedMessages"):
            self._told["headrace.dropped_messages"] = str(dropped)
        if cut:
            self.status, self._incomplete = "incomplete", {"reason": "max_output_tokens"}
        else:
            self.status = "completed"
        yield {"type": f"response.{self.status}", "response": self.response()}

    def _has_message(self) -> bool:
        if self._open is not None and self._open.kind is MESSAGE:
            return True
        return any(item["type"] == "message" and item["content"] for item in self._output)

    def _call(self, call: Event) -> Iterator[Json]:
        at = len(self._output)
        arguments = json.dumps(call["arguments"], ensure_ascii=False)
        item: Json = {
            "id": item_id("fc", self.task_id, at),
            "type": "function_call",
            "call_id": call["id"],
            "name": call["name"],
            "arguments": arguments,
            "status": "completed",
        }
        self._output.append(item)
        place: Json = {"item_id": item["id"], "output_index": at}
        begun = item | {"arguments": "", "status": "in_progress"}
        yield {"type": "response.output_item.added", "output_index": at, "item": begun}
        yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
        yield {
            "type": "response.function_call_arguments.done",
            **place,
            "name": call["name"],
            "arguments": arguments,
        }
        yield {"type": "response.output_item.done", "output_index": at, "item": item}

    def _of_failure(self, event: Event) -> Iterator[Json]:
        self._end_open("incomplete")
        failure = self.failure = failure_of(event)
        self.status = "failed"
        refused = isinstance(failure, ContextTooLong | TaskRefused)
        self._error = {"code": "invalid_prompt" if refused else "server_error", "message": failure.message}
        yield error_event(failure)
        yield {"type": "response.failed", "response": self.response()}


def error_event(error: ApiError) -> Json:
    """What OpenAI's clients raise: they look for the nested form, their types have the flat one."""
    body = error_body(error)
    nested = body["error"]
    assert isinstance(nested, dict)
    flat: Json = {"code": nested["code"], "message": nested["message"], "param": nested["param"]}
    return {"type": "error", **flat, "error": nested}


def _usage(usage: Event) -> Json:
    prompt, completion = usage["promptTokens"], usage["completionTokens"]
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": usage["cachedTokens"], "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": usage.get("reasoningTokens", 0)},
        "total_tokens": prompt + completion,
    }


def _queue_metadata(event: Event) -> dict[str, str]:
    known = {"headrace.position": event.get("position"), "headrace.detail": event.get("detail")}
    return {name: str(value)[:512] for name, value in known.items() if value is not None}
