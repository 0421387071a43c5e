"""pydantic's errors in words for whoever wrote the request: which field, why, what is allowed."""

import re
from typing import Any

from pydantic import JsonValue, ValidationError

from api.errors import InvalidParams
from shared.conversation.rules import Place

MAX_SHOWN = 20
"""Errors that one reply lists."""
MAX_READ = 1_000
"""pydantic makes an object of every error: beyond this many, only their number is told."""
MISSING = "is required"
MAX_TEXT = 300
"""Characters of one message or path; both can hold what the client sent."""

_SUBJECT = re.compile(r"^\w+ should")


def invalid_params(error: ValidationError, params: JsonValue) -> InvalidParams:
    """The error that tells what is wrong with `params`."""
    count = error.error_count()
    if count > MAX_READ:
        return InvalidParams(f"the parameters have {count} errors")
    found = [item for details in error.errors(include_url=False, include_input=False) for item in _items(details)]
    problems: dict[Place, list[str]] = {}
    for location, text in found:
        texts = problems.setdefault(_place(location, params, missing=text == MISSING), [])
        if text not in texts:
            texts.append(text)
    # Of a value that may be text or an object, the object was meant if something inside of it is wrong.
    around = {place[:length] for place in problems for length in range(len(place))}
    wrong = [(_path(place), ", or ".join(texts)) for place, texts in problems.items() if place not in around]
    errors: list[JsonValue] = [{"path": _cut(path), "message": _cut(text)} for path, text in wrong[:MAX_SHOWN]]
    path, text = wrong[0]
    first = f"{_cut(path)}: " if path else ""
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return InvalidParams(f"{first}{_cut(text)}{more}", errors=errors)


def invalid_param(place: Place, reason: str) -> InvalidParams:
    """One thing that is wrong and that the types do not say; `reason` may hold what the client sent, and is cut."""
    return InvalidParams(_cut(reason), place=place)


def _items(details: Any) -> list[tuple[Place, str]]:
    """Place and text of one error; those inside, where a validator of ours has called pydantic again."""
    inner = details.get("ctx", {}).get("error")
    if isinstance(inner, ValidationError):
        nested = inner.errors(include_url=False, include_input=False)
        return [(details["loc"] + location, text) for item in nested for location, text in _items(item)]
    return [(details["loc"], _text(details))]


def _text(details: Any) -> str:
    match details["type"]:
        case "missing":
            return MISSING
        case "extra_forbidden":
            return "is not a known field"
        case "value_error":
            return str(details["ctx"]["error"])
        case "union_tag_not_found":
            return f"the field {details['ctx']['discriminator']} is required"
        case "union_tag_invalid":
            allowed = details["ctx"]["expected_tags"]
            return f"{details['ctx']['discriminator']} must be one of {allowed}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be an object"
        case _:
            text = _SUBJECT.sub("must", details["msg"])
            return text.replace("must be a valid list", "must be a list").replace(" after validation", "")


def _place(location: Place, params: JsonValue, *, missing: bool) -> Place:
    """pydantic's location without the names of union branches that stand between."""
    place: Place = ()
    value = params
    for number, part in enumerate(location):
        if isinstance(part, int):
            place += (part,)
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif isinstance(value, dict) and (part in value or (missing and number == len(location) - 1)):
            place += (part,)
            value = value.get(part)
    return place


def _path(place: Place) -> str:
    """`messages[0].content`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
