"""Bodies of doors whose types are lenient: parsed and checked, with the place of what is wrong."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic.alias_generators import to_snake

from api.errors import InvalidParams
from api.invalid_params import invalid_param, invalid_params
from api.json_body import LARGE_BYTES, parsed
from shared.wire.schemas import CreateMessageParams

Body = TypeVar("Body", bound=BaseModel)
Params = TypeVar("Params", bound=CreateMessageParams)


async def checked(kind: type[Body], body: bytes) -> Body:
    """The body as this type; a long one is checked in a thread. Raises ParseError or InvalidParams."""
    value = await parsed(body)
    if not isinstance(value, dict):
        raise InvalidParams("the body must be a JSON object")
    return await asyncio.to_thread(_checked, kind, value) if len(body) > LARGE_BYTES else _checked(kind, value)


def _checked(kind: type[Body], value: dict[str, JsonValue]) -> Body:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise invalid_params(error, value) from None


def within_bounds(make: Callable[[Body, str | None], Params], wanted: Body, key: str | None) -> Params:
    """The task's parameters; what is beyond Headrace's own bounds raises InvalidParams."""
    try:
        return make(wanted, key)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise invalid_param((to_snake(str(problem["loc"][0])), *problem["loc"][2:]), problem["msg"]) from None
