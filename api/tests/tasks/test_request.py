"""The request that a worker reads, made of a client's parameters."""

from typing import Any

import pytest

from api.errors import ContextTooLong, InvalidParams, ToolLoopRefused
from api.tasks.request import fingerprint_of, inference_request
from shared.conversation.loop_prevention import LoopPolicy
from shared.wire.chat import AssistantMessage, ChatMessage, UserMessage
from shared.wire.schemas import CreateMessageParams, InferenceRequest, ModelCard

USER = {"role": "user", "content": "What time is it?"}
TOOL = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}}


def params(**fields: Any) -> CreateMessageParams:
    return CreateMessageParams.model_validate(fields)


def request(card: ModelCard | None = None, **fields: Any) -> InferenceRequest:
    return inference_request(params(**fields), "m", LoopPolicy(), stored=None, card=card)


def test_every_parameter_that_is_a_worker_s_business_is_in_the_request() -> None:
    fields: dict[str, Any] = {
        "maxTokens": 7,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 3,
        "stop": ["\n"],
        "seed": -5,
        "responseFormat": {"type": "json_object"},
        "priority": "high",
        "metadata": {"team": "a"},
        "cancelOnDisconnect": True,
        "conversationId": "c1",
    }
    made = request(message="hi", tools=[TOOL], toolChoice="required", **fields).model_dump(mode="json")
    assert {name: made[name] for name in fields} == fields
    assert (made["model"], made["toolChoice"], len(made["tools"])) == ("m", "required", 1)


def test_a_request_goes_on_behind_its_stored_conversation_and_keeps_all_of_it_for_the_store() -> None:
    stored: list[ChatMessage] = [
        UserMessage(role="user", content="I am Ada."),
        AssistantMessage(role="assistant", content="Hello Ada."),
    ]
    said = params(message="Who am I?", conversationId="c1")
    made = inference_request(said, "m", LoopPolicy(), stored=stored, card=None)
    assert [message.content for message in made.messages] == ["I am Ada.", "Hello Ada.", "Who am I?"]
    assert made.conversation == made.messages
    assert request(message="Who am I?").conversation == []


def test_what_the_rules_refuse_keeps_its_place_and_a_bounded_reason() -> None:
    answer = {"role": "tool", "tool_call_id": "x" * 10_000, "content": "12:00"}
    with pytest.raises(InvalidParams) as refused:
        request(messages=[USER, answer])
    assert refused.value.place == ("messages", 1)
    assert len(refused.value.message) <= 301


def test_a_demanded_call_in_a_loop_names_the_choice_and_what_was_found() -> None:
    messages = [USER]
    for number in range(3):
        messages.append({"role": "assistant", "tool_calls": [CALL | {"id": f"c{number}"}]})  # type: ignore[dict-item]
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": "12:00"})
    with pytest.raises(ToolLoopRefused) as refused:
        request(messages=messages, tools=[TOOL], toolChoice="required")
    assert refused.value.place == ("tool_choice",)
    guard = refused.value.data["guard"]
    assert isinstance(guard, dict)
    assert guard["toolsWithheld"] is True


def test_what_cannot_fit_into_the_context_however_it_is_tokenized_is_refused(card: ModelCard) -> None:
    assert request(card, message="x" * 999, maxTokens=100).max_tokens == 100
    with pytest.raises(ContextTooLong) as prompt:
        request(card, message="x" * 1000)
    assert prompt.value.data == {"promptTokensAtLeast": 100, "contextLength": 100}
    with pytest.raises(ContextTooLong) as answer:
        request(card, message="x", maxTokens=101)
    assert (answer.value.place, answer.value.data) == (("max_tokens",), {"maxTokens": 101, "contextLength": 100})
    # Earlier answers do not count: templates may drop the thoughts in them.
    said = {"role": "assistant", "content": "y" * 5000}
    assert request(card, messages=[USER, said, USER])


def test_two_requests_with_one_key_are_told_apart_by_everything_but_the_key() -> None:
    one = fingerprint_of(params(message="hi", idempotencyKey="a"))
    assert one == fingerprint_of(params(message="hi", idempotencyKey="b"))
    assert one != fingerprint_of(params(message="hi", idempotencyKey="a", seed=1))
