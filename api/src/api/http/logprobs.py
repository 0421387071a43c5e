"""How likely tokens were, as OpenAI's clients read it."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue


def logprobs_of(event: Mapping[str, Any]) -> list[JsonValue]:
    """Those of an event's tokens, with the likeliest ones in their places; empty where none were asked for."""
    return [
        _likely(token) | {"top_logprobs": [_likely(likely) for likely in token["topLogprobs"]]}
        for token in event.get("logprobs") or ()
    ]


def _likely(token: Mapping[str, Any]) -> dict[str, JsonValue]:
    spelled = token.get("bytes") or list(token["token"].encode())
    return {"token": token["token"], "logprob": token["logprob"], "bytes": spelled}
