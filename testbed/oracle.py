"""What OpenAI and Anthropic themselves say of the replies of their APIs, asked of every reply under test.

Their own OpenAPI documents come with the package `llm-comply`; what they say in prose only, the order of what a stream
holds, is in `testbed/stream_order.py`. `DEPARTURES` is all in which Headrace's replies differ from the documents.
"""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema_rs import Draft202012Validator

from testbed.stream_order import ChatOrder, MessageOrder, Order, ResponseOrder

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_GUARD: Json = {"guard": {"type": "object"}}
"""What loop prevention did: Headrace's own."""
_OR_NULL: Json = {"type": "null"}
_COMPLETION: Json = {
    # The document has one schema for whole replies and chunks, in which nothing is null. OpenAI's own chunks have
    # neither a reason nor a usage before the end, and an echoed prompt's first token has no log-probability.
    "usage": {"anyOf": [{"$ref": "#/components/schemas/CompletionUsage"}, _OR_NULL]},
    "choices": {"type": "array", "items": {
        "type": "object", "required": ["finish_reason", "index", "logprobs", "text"],
        "properties": {
            "finish_reason": {"enum": ["stop", "length", "content_filter", None]},
            "index": {"type": "integer"},
            "text": _TEXT,
            "logprobs": {"anyOf": [_OR_NULL, {
                "type": "object",
                "properties": {
                    "tokens": {"type": "array", "items": _TEXT},
                    "token_logprobs": {"type": "array", "items": {"type": ["number", "null"]}},
                    "top_logprobs": {
                        "type": "array",
                        "items": {"type": ["object", "null"], "additionalProperties": {"type": "number"}},
                    },
                    "text_offset": {"type": "array", "items": {"type": "integer"}},
                },
            }]},
        },
    }},
}  # fmt: skip
DEPARTURES: dict[str, dict[str, Json]] = {
    "openai_chat.json": {
        # What a model thinks has no place in this API: servers of open models add it, under one of these names.
        "ChatCompletionResponseMessage": {"reasoning": _TEXT, "reasoning_content": _TEXT},
        "ChatCompletionStreamResponseDelta": {"reasoning": _TEXT, "reasoning_content": _TEXT},
        # vLLM's, which its clients look for.
        "Model": {"max_model_len": {"type": "integer"}},
        "CreateCompletionResponse": _COMPLETION,
        "CreateChatCompletionResponse": _GUARD,
        "CreateChatCompletionStreamResponse": _GUARD,
    },
    "anthropic.json": {"Message": _GUARD},
    "openresponses.json": {
        # OpenAI's own clients look for these, and for `reasoning_text` where this document has `reasoning`.
        "ResponseReasoningDeltaStreamingEvent": {"type": {"const": "response.reasoning_text.delta"}},
        "ResponseReasoningDoneStreamingEvent": {"type": {"const": "response.reasoning_text.done"}},
        "ResponseFunctionCallArgumentsDoneStreamingEvent": {"name": _TEXT},
        "ReasoningBody": {"status": _TEXT},
        "ResponseResource": {"conversation": {"type": "object"}, "user": {"type": ["string", "null"]}},
        "JsonSchemaResponseFormat": {"schema": {"type": "object"}},
        "InputTokensDetails": {"cache_write_tokens": {"type": "integer"}},
        "ErrorStreamingEvent": {name: {"type": ["string", "null"]} for name in ("code", "message", "param")},
    },
}
"""By document and schema: properties that it does not have."""


class Document:
    """One OpenAPI document. A field that it does not know is wrong: nobody's client would look for it there."""

    def __init__(self, name: str) -> None:
        document: Json = json.loads((files("llm_comply") / "specs" / name).read_text())
        self._paths: Json = document["paths"]
        self._schemas: Json = _with_null(document["components"]["schemas"])
        for schema, properties in DEPARTURES[name].items():
            self._schemas[schema]["properties"] |= properties
        _close(self._schemas)
        self._validators: dict[str, Draft202012Validator] = {}

    def schema_of(self, method: str, path: str, media_type: str) -> Json | None:
        """What a reply 200 of this operation is; None where the document has no such operation."""
        for template, operations in self._paths.items():
            if method.lower() in operations and re.fullmatch(re.sub(r"\\\{\w+\\\}", ".+", re.escape(template)), path):
                content = operations[method.lower()]["responses"]["200"]["content"]
                schema: Json | None = content.get(media_type, content["application/json"]).get("schema")
                return schema
        return None

    def faults(self, value: object, schema: Json) -> Iterator[str]:
        """Where the value is not as the schema says."""
        key = json.dumps(schema)
        if key not in self._validators:
            self._validators[key] = Draft202012Validator(schema | {"components": {"schemas": self._schemas}})
        for error in self._validators[key].iter_errors(value):
            yield f"{'/'.join(map(str, error.instance_path))}: {error.message}"


document = cache(Document)


def _with_null(node: Any) -> Any:
    """OpenAPI 3.0's `nullable` in the words of JSON Schema."""
    if isinstance(node, list):
        return [_with_null(one) for one in node]
    if not isinstance(node, dict):
        return node
    plain = {name: _with_null(one) for name, one in node.items() if not (name == "nullable" and isinstance(one, bool))}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


def _close(schemas: Json) -> None:
    """Forbids what an object's schema does not name. What others are put together from stays open there."""
    parts = {one["$ref"].rpartition("/")[2] for all_of in _all_of(schemas) for one in all_of if "$ref" in one}
    opened = {f"{name}-as-a-part": deepcopy(schemas[name]) for name in parts}
    for all_of in [*_all_of(schemas), *_all_of(opened)]:
        for one in all_of:
            if "$ref" in one:
                one["$ref"] += "-as-a-part"
    for schema in schemas.values():
        _close_within(schema)
    schemas |= opened


def _all_of(node: Any) -> Iterator[list[Json]]:
    if isinstance(node, dict):
        if isinstance(node.get("allOf"), list):
            yield node["allOf"]
        for one in node.values():
            yield from _all_of(one)
    elif isinstance(node, list):
        for one in node:
            yield from _all_of(one)


def _close_within(node: Any) -> None:
    if isinstance(node, list):
        for one in node:
            _close_within(one)
    elif isinstance(node, dict):
        if {"properties", "allOf"} & set(node) and "additionalProperties" not in node:
            node["unevaluatedProperties"] = False
        for one in node.get("properties", {}).values():
            _close_within(one)
        for name, one in node.items():
            if name not in ("properties", "allOf"):
                _close_within(one)


class Door:
    """Which replies a document speaks about, and what an error looks like in it."""

    def __init__(
        self, name: str, prefix: str, order: type[Order], events: Json | None = None, errors: str | None = None
    ) -> None:
        """`prefix`: of the path, which the document leaves out. `events`: of a stream, where its operation has none.
        `errors`: the document that knows its errors, where it is another one.
        """
        self._document = name
        self._errors = errors or name
        self._prefix = prefix
        self._order = order
        self._events = events

    def whole(self, method: str, path: str, status: int, body: bytes) -> Iterator[str]:
        """What is wrong with a reply of one piece."""
        try:
            value = json.loads(body)
        except ValueError:
            yield f"no JSON: {body[:100]!r}"
            return
        if status >= 400:
            yield from document(self._errors).faults(value, _ERROR)
        elif (schema := self._schema(method, path, "application/json")) is not None:
            yield from document(self._document).faults(value, schema)

    def stream(self, method: str, path: str) -> "Stream":
        """Judges a stream as it comes."""
        events = self._events or self._schema(method, path, "text/event-stream")
        assert events is not None, f"the document has no stream of {path}"
        return Stream(document(self._document), events, self._order())

    def _schema(self, method: str, path: str, media_type: str) -> Json | None:
        return document(self._document).schema_of(method, path.removeprefix(self._prefix), media_type)


_ERROR: Json = {"$ref": "#/components/schemas/ErrorResponse"}

_RESPONSE_EVENTS: Json = {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in (
    "ResponseCreatedStreamingEvent", "ResponseQueuedStreamingEvent", "ResponseInProgressStreamingEvent",
    "ResponseCompletedStreamingEvent", "ResponseFailedStreamingEvent", "ResponseIncompleteStreamingEvent",
    "ResponseOutputItemAddedStreamingEvent", "ResponseOutputItemDoneStreamingEvent",
    "ResponseContentPartAddedStreamingEvent", "ResponseContentPartDoneStreamingEvent",
    "ResponseOutputTextDeltaStreamingEvent", "ResponseOutputTextDoneStreamingEvent",
    "ResponseReasoningDeltaStreamingEvent", "ResponseReasoningDoneStreamingEvent",
    "ResponseFunctionCallArgumentsDeltaStreamingEvent", "ResponseFunctionCallArgumentsDoneStreamingEvent",
    "ErrorStreamingEvent",
)]}  # fmt: skip
"""Of a response that is made, and of one that is read again, which the document does not know."""

DOORS = {
    "/v1/messages": Door(
        "anthropic.json", "", MessageOrder, events={"$ref": "#/components/schemas/MessageStreamEvent"}
    ),
    "/v1/responses": Door(
        "openresponses.json", "/v1", ResponseOrder, events=_RESPONSE_EVENTS, errors="openai_chat.json"
    ),
    **dict.fromkeys(("/v1/", "/tokenize", "/detokenize"), Door("openai_chat.json", "/v1", ChatOrder)),
}
"""By the beginning of a path; the first that fits counts. Other paths are Headrace's own."""
OWN = "/v1/streams/"
"""What begins as one of these and is Headrace's own."""


class Stream:
    """One stream of Server-Sent Events."""

    def __init__(self, document: Document, events: Json, order: Order) -> None:
        self._document = document
        self._events = events
        self._order = order
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """What is wrong with what this adds."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        for block in blocks:
            yield from self._block(block.decode())

    def end(self) -> Iterator[str]:
        """What is wrong with a clean end here."""
        if self._rest:
            yield f"ends in the middle of an event: {self._rest[:100]!r}"
        if not self._order.complete:
            yield "a clean end without the last event: clients would take it for a whole answer"

    def _block(self, block: str) -> Iterator[str]:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if not fields:
            return
        if set(fields) - self._order.fields:
            # An id or `retry:` makes openai-python read a comment behind it as an empty event, and die of it.
            yield f"fields that clients stumble over: {sorted(fields)}"
        data = fields["data"]
        if data == self._order.mark:
            yield from self._order.marked()
            return
        event = json.loads(data)
        schema = _ERROR if "error" in event and not self._order.errors_are_events else self._events
        yield from (f"{fault} in {data}" for fault in self._document.faults(event, schema))
        yield from (f"{fault} in {data}" for fault in self._order.faults(event, fields.get("event")))
