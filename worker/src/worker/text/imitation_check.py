"""Whether what a client writes stays text: asked at a worker's start, of the model's own template and tokenizer."""

import json
from collections import Counter
from collections.abc import Mapping

from shared.wire.schemas import InferenceRequest
from worker.text.codec import Prompts, Unanswerable


class Imitated(Exception):
    """A control token that a client spells becomes one; the message says which."""


def refuse_imitations(prompts: Prompts) -> None:
    """Raises Imitated where text that spells a special token (`<|im_end|>`) is one, in any field that has text.

    Some versions of the libraries below let it pass without a word.
    """
    added = prompts.tokenizer.get_added_tokens_decoder()
    special = {at: token.content for at, token in added.items() if token.special and token.content.strip()}
    honest = _control_tokens(prompts, "text", special)
    try:
        imitated = _control_tokens(prompts, " ".join(["text", *special.values()]), special)
    except Unanswerable:
        return  # nothing becomes of it
    for at in imitated - honest:
        raise Imitated(f"text that spells {special[at]!r} becomes that control token, in a message of any client")


def _control_tokens(prompts: Prompts, text: str, special: Mapping[int, str]) -> Counter[int]:
    return Counter(at for at in prompts.prompt_ids(_conversation(text)) if at in special)


def _conversation(text: str) -> InferenceRequest:
    """With this text wherever a client may have one."""
    called = {"name": "check", "arguments": json.dumps({"text": text})}
    parameters = {"type": "object", "properties": {"text": {"type": "string", "description": text}}}
    return InferenceRequest.model_validate(
        {
            "model": "check",
            "messages": [
                {"role": "system", "content": text},
                {"role": "user", "content": text},
                {
                    "role": "assistant",
                    "content": text,
                    "tool_calls": [{"id": "call-1", "type": "function", "function": called}],
                },
                {"role": "tool", "tool_call_id": "call-1", "content": text},
                {"role": "user", "content": text},
            ],
            "tools": [
                {"type": "function", "function": {"name": "check", "description": text, "parameters": parameters}}
            ],
        }
    )
