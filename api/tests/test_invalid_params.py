"""pydantic's errors in words for whoever wrote the request."""

from typing import Any

import pytest
from pydantic import ValidationError

from api.errors import InvalidParams
from api.invalid_params import MAX_READ, MAX_SHOWN, MAX_TEXT, invalid_param, invalid_params
from shared.wire.schemas import CreateMessageParams


def refusal(params: dict[str, Any]) -> InvalidParams:
    with pytest.raises(ValidationError) as error:
        CreateMessageParams.model_validate(params, strict=True, by_alias=True, by_name=False)
    return invalid_params(error.value, params)


@pytest.mark.parametrize(
    ("params", "path", "text"),
    [
        ({"maxTokens": "5"}, "maxTokens", "must be a valid integer"),
        ({"max_tokens": 5}, "max_tokens", "is not a known field"),
        ({"message": {"role": "user"}}, "message.content", "is required"),
        ({"message": 5}, "message", "must be a valid string, or must be an object"),
        ({"messages": {}}, "messages", "must be a list"),
        ({"messages": [{"content": "hi"}]}, "messages[0]", "the field 'role' is required"),
        ({"metadata": {"a": 1}}, "metadata.a", "must be a valid string"),
    ],
)
def test_a_wrong_field_is_told_by_its_path_as_the_client_wrote_it(params: dict[str, Any], path: str, text: str) -> None:
    refused = refusal(params)
    assert refused.message == f"{path}: {text}"
    assert refused.data["errors"] == [{"path": path, "message": text}]


def test_of_many_wrong_fields_the_first_is_told_and_the_others_listed_up_to_a_bound() -> None:
    refused = refusal({f"x{number}": number for number in range(50)})
    assert refused.message == "x0: is not a known field (and 49 more)"
    errors = refused.data["errors"]
    assert isinstance(errors, list)
    assert len(errors) == MAX_SHOWN


def test_of_more_errors_than_anybody_reads_only_the_number_is_told() -> None:
    refused = refusal({f"x{number}": number for number in range(MAX_READ + 1)})
    assert refused.message == f"the parameters have {MAX_READ + 1} errors"
    assert "errors" not in refused.data


def test_a_long_name_is_cut() -> None:
    refused = refusal({"x" * 10_000: 1})
    assert len(refused.message) < MAX_TEXT + 100


def test_what_the_types_do_not_say_has_a_place_and_a_reason_that_is_cut() -> None:
    refused = invalid_param(("messages", 1), "y" * 10_000)
    assert refused.place == ("messages", 1)
    assert len(refused.message) == MAX_TEXT + 1
