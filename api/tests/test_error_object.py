"""How an error looks on the wire of Headrace's own doors."""

import pytest

from api.error_object import error_object, http_headers, spelled
from api.errors import ContextTooLong, InvalidParams, ModelQueueFull, Unauthorized
from shared.conversation.rules import Place


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ((), ""),
        (("model",), "model"),
        (("tool_choice",), "toolChoice"),
        (("messages", 12), "messages[12]"),
        (("messages", 1, "tool_calls", 0, "function", "arguments"), "messages[1].tool_calls[0].function.arguments"),
        (("response_format", "json_schema", "schema"), "responseFormat.json_schema.schema"),
        (("conversation", 3), "conversation[3]"),
    ],
)
def test_a_place_is_spelled_with_our_names_in_camel_case_and_those_of_openai_as_they_are(
    place: Place, path: str
) -> None:
    assert spelled(place) == path


def test_what_is_wrong_with_a_parameter_is_told_with_its_place_and_as_a_list() -> None:
    assert error_object(InvalidParams("must be at most 5", place=("timeout_seconds",))) == {
        "code": -32602,
        "message": "timeoutSeconds: must be at most 5",
        "data": {"retryable": False, "errors": [{"path": "timeoutSeconds", "message": "must be at most 5"}]},
    }


def test_what_is_wrong_with_the_request_as_a_whole_has_an_empty_path() -> None:
    assert error_object(InvalidParams("there is no message")) == {
        "code": -32602,
        "message": "there is no message",
        "data": {"retryable": False, "errors": [{"path": "", "message": "there is no message"}]},
    }


def test_other_errors_tell_their_place_in_the_message_and_add_their_numbers() -> None:
    assert error_object(ContextTooLong("is 9", place=("max_tokens",), contextLength=8)) == {
        "code": -32006,
        "message": "maxTokens: is 9",
        "data": {"retryable": False, "contextLength": 8},
    }


def test_when_to_come_back_is_in_the_data_and_in_a_header() -> None:
    refusal = ModelQueueFull(retry_after=3.4)
    assert error_object(refusal)["data"] == {"retryable": True, "retryAfterSeconds": 3}
    assert http_headers(refusal) == {"Retry-After": "3"}


def test_a_missing_key_is_asked_for_as_http_does() -> None:
    assert http_headers(Unauthorized()) == {"WWW-Authenticate": 'Bearer realm="headrace"'}
