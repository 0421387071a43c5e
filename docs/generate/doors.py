"""What the doors of other APIs read of a request: the fields of their types."""

import re

from pydantic import BaseModel

from api.anthropic.requests import MessageRequest
from api.openai.requests import ChatRequest, CompletionRequest
from api.responses.requests import ResponseRequest
from docs.generate.schema_words import in_words

_REFUSED_UNLESS_PLAIN = {"n", "audio", "modalities", "functions", "function_call", "web_search_options",
                         "frequency_penalty", "presence_penalty", "logit_bias"}  # fmt: skip
"""Read only to be refused (`api.openai.conversation.refuse_unsupported`)."""


def door_tables() -> dict[str, str]:
    """A table for each kind of request."""
    return {
        "chat completions": _fields(ChatRequest, _REFUSED_UNLESS_PLAIN),
        "completions": _fields(CompletionRequest, {*_REFUSED_UNLESS_PLAIN, "suffix", "best_of"} - {"logprobs"}),
        "messages": _fields(MessageRequest, set()),
    }


def responses_tables() -> dict[str, str]:
    """The fields of a response's request."""
    return {"responses": _fields(ResponseRequest, {"prompt"})}


def _fields(request: type[BaseModel], left_out: set[str]) -> str:
    schema = request.model_json_schema()
    rows = ["| field | type |", "|---|---|"]
    for name, field in schema["properties"].items():
        if name not in left_out:
            needed = ", required" if name in schema.get("required", ()) else ""
            rows.append(f"| `{name}` | {_plain(in_words(field))}{needed} |")
    return "\n".join(rows)


def _plain(words: str) -> str:
    """Without links: the types inside are OpenAI's and Anthropic's own."""
    return re.sub(r"\[(\w+)\]\(#\w+\)", r"\1", words)
