"""Events of a completion's tasks become what OpenAI's older clients and evaluation harnesses read."""

from typing import Any

from api.openai.answer import Identity
from api.openai.completion_answer import LegacyLogprobs, text_completion
from shared.store.task_id import new_task_id
from shared.wire.schemas import LikelyToken, TokenEvent, TokenLogprob


def told(*tokens: TokenLogprob) -> dict[str, Any]:
    """The event as it stands in the stream."""
    event = TokenEvent(task_id="t", text="", index=0, logprobs=list(tokens))
    return event.model_dump(mode="json", by_alias=True, exclude_none=True)


def test_the_first_token_of_a_prompt_has_no_logprob_and_each_other_is_among_its_likeliest() -> None:
    made = LegacyLogprobs().of(
        told(
            TokenLogprob(token="The"),
            TokenLogprob(token=" fox", logprob=-3, top_logprobs=[LikelyToken(token=" quick", logprob=-1)]),
        )
    )
    assert made == {
        "tokens": ["The", " fox"],
        "token_logprobs": [None, -3],
        "top_logprobs": [None, {" quick": -1, " fox": -3}],
        "text_offset": [0, 3],
    }


def test_places_are_those_of_characters_also_where_several_tokens_make_one() -> None:
    logprobs = LegacyLogprobs()
    parts = [TokenLogprob(token=f"\\x{byte:x}", bytes=[byte], logprob=-1) for byte in "é".encode()]
    first, second = (
        logprobs.of(told(TokenLogprob(token="a", logprob=-1), parts[0])),
        logprobs.of(told(parts[1], TokenLogprob(token="b", logprob=-1))),
    )
    assert first is not None
    assert second is not None
    assert (first["tokens"], first["text_offset"]) == (["a", "bytes:\\xc3"], [0, 1])
    assert (second["tokens"], second["text_offset"]) == (["bytes:\\xa9", "b"], [1, 2])


def test_a_reply_has_a_choice_for_each_task_and_what_all_have_used() -> None:
    usage = {"promptTokens": 7, "completionTokens": 5, "cachedTokens": 3}
    ended = {"type": "final_text", "text": "x", "finishReason": "length", "usage": usage}
    whole: Any = text_completion(Identity(new_task_id(), "m", None), [ended, ended | {"finishReason": "stop"}])
    assert [(choice["index"], choice["finish_reason"]) for choice in whole["choices"]] == [(0, "length"), (1, "stop")]
    assert whole["usage"]["total_tokens"] == 24
    assert whole["usage"]["prompt_tokens_details"]["cached_tokens"] == 6
