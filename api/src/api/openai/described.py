"""The replies of this door in `/openapi.json`, as far as their readers rely on them."""

from typing import Any

Json = dict[str, Any]

COMPLETION: Json = {
    "title": "ChatCompletion",
    "description": "OpenAI's `chat.completion`.",
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "system_fingerprint": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object", "required": ["index", "message", "finish_reason"]}},
        "usage": {"type": "object"},
    },
}

TEXT_COMPLETION: Json = {
    "title": "Completion",
    "description": "OpenAI's `text_completion`.",
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "text_completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "system_fingerprint": {"type": "string"},
        "choices": {
            "type": "array",
            "items": {"type": "object", "required": ["index", "text", "logprobs", "finish_reason"]},
        },
        "usage": {"type": "object"},
    },
}

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
