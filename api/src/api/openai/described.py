"""The replies of this door in `/openapi.json`, as far as their readers rely on them."""

from typing import Any

Json = dict[str, Any]


def _completion(title: str, kind: str, choice: list[str]) -> Json:
    """`choice`: what each of its choices has."""
    return {
        "title": title,
        "description": f"OpenAI's `{kind}`.",
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "system_fingerprint": {"type": "string"},
            "choices": {"type": "array", "items": {"type": "object", "required": choice}},
            "usage": {"type": "object"},
        },
    }


COMPLETION = _completion("ChatCompletion", "chat.completion", ["index", "message", "finish_reason"])
TEXT_COMPLETION = _completion("Completion", "text_completion", ["index", "text", "logprobs", "finish_reason"])

MODEL: Json = {
    "title": "Model",
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "max_model_len": {"type": "integer", "description": "The context, once a worker has been ready."},
    },
}
MODELS: Json = {
    "title": "Models",
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": MODEL}},
}
TOKENS: Json = {
    "title": "Tokens",
    "type": "object",
    "required": ["count", "max_model_len", "tokens"],
    "properties": {
        "count": {"type": "integer"},
        "max_model_len": {"type": ["integer", "null"]},
        "tokens": {"type": "array", "items": {"type": "integer"}},
    },
}
PROMPT: Json = {
    "title": "Prompt",
    "type": "object",
    "required": ["prompt"],
    "properties": {"prompt": {"type": "string"}},
}
