"""What a chat template can do, found out by rendering small conversations with it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from worker.text.chat_template import ChatTemplate, TemplateBound, TemplateRefusal, Turn

CallForm = Literal["hermes", "mistral", "mistral_named", "llama"]
"""How the model writes a tool call; see `worker.answer_stream` for what each looks like."""


@dataclass(frozen=True, slots=True)
class TemplateAbilities:
    """Which conversations a chat template takes, and what it makes of tools."""

    template: bool
    """False: the tokenizer has no chat template at all."""
    system: bool = True
    """Takes a system message."""
    repeated_roles: bool = True
    """Takes two user messages after each other."""
    tools: bool = False
    """Shows tools to the model and takes calls and their results."""
    parallel_calls: bool = True
    """Takes several calls in one assistant message."""
    argument_objects: bool = True
    """Wants the arguments of a call as an object; False: as JSON text."""
    short_call_ids: bool = False
    """Wants call ids of nine letters and digits (Mistral)."""
    call_form: CallForm = "hermes"


def abilities_of(template: ChatTemplate | None) -> TemplateAbilities:
    """Try the template out. What it refuses, or leaves out of the prompt, it cannot do. Raises TemplateBound."""
    if template is None:
        return TemplateAbilities(template=False)
    user = {"role": "user", "content": "probe-user"}
    try:
        template.text([user], None)
    except TemplateBound:
        raise
    except TemplateRefusal:
        pass  # it may want a system message
    system = _rendered(template, [{"role": "system", "content": "probe-system"}, user])
    plain = TemplateAbilities(
        template=True,
        system=system is not None and "probe-system" in system,
        repeated_roles=_rendered(template, [user, user]) is not None,
    )
    for short_ids in (False, True):
        for objects in (True, False):
            prompt = _rendered(template, [user, *_round(1, objects, short_ids)], [_PROBE_TOOL])
            if prompt is None or not _shows_call(prompt, objects):
                continue
            parallel = _rendered(template, [user, *_round(2, objects, short_ids)], [_PROBE_TOOL])
            return replace(
                plain,
                tools=True,
                parallel_calls=parallel is not None and parallel.count("probe-result") == 2,
                argument_objects=objects,
                short_call_ids=short_ids,
                call_form=_call_form(prompt),
            )
    return plain


_PROBE_TOOL: Turn = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "probe-description",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}, "required": ["probe_key"]},
    },
}


def _round(calls: int, objects: bool, short_ids: bool) -> list[Turn]:
    """One assistant message with calls, and their results."""
    arguments = {"probe_key": "probe-value"}
    ids = [f"probe000{at}" if short_ids else f"call_{at:024x}" for at in range(calls)]
    asked = [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": "probe_tool", "arguments": arguments if objects else json.dumps(arguments)},
        }
        for call_id in ids
    ]
    results = [
        {"role": "tool", "content": "probe-result", "tool_call_id": call_id, "name": "probe_tool"} for call_id in ids
    ]
    return [{"role": "assistant", "content": "", "tool_calls": asked}, *results]


def _shows_call(prompt: str, objects: bool) -> bool:
    """Whether declaration, call and result are in the prompt, and the arguments neither as Python nor encoded twice."""
    parts = ("probe-description", "probe-value", "probe-result")
    return all(part in prompt for part in parts) and "'probe_key'" not in prompt and '\\"probe_key' not in prompt


def _call_form(prompt: str) -> CallForm:
    call = prompt[: prompt.index("probe-value")]
    if "[TOOL_CALLS]" in call:
        return "mistral_named" if re.search(r"probe_tool\s*(\[CALL_ID\]\w+)?\[ARGS\]", call) else "mistral"
    if "<tool_call>" in call:
        return "hermes"
    return "llama" if re.search(r'"parameters":\s*\{\s*"probe_key"', call) else "hermes"


def _rendered(template: ChatTemplate, turns: Sequence[Turn], tools: Sequence[Turn] = ()) -> str | None:
    """The prompt; None when the template refuses."""
    try:
        return template.text(turns, tools or None)
    except TemplateRefusal:
        return None
