"""What a worker answers about tokens, with the model's own tokenizer and over a real Valkey."""

import asyncio

import pytest
from redis.asyncio import Redis

from shared.cancellation import cancel_and_wait
from shared.store.keys import Keys
from shared.store.token_questions import TokenQuestions
from shared.wire.schemas import InferenceRequest
from shared.wire.tokenizing import IdsToText, PromptToIds, TextToIds, Tokenized
from worker.engines.scripted.prompts import ScriptedPrompts
from worker.text.token_answers import answer_token_questions, token_answer

PROMPTS = ScriptedPrompts()
HELLO = InferenceRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})


def test_a_prompt_has_the_tokens_that_its_task_would_have() -> None:
    assert token_answer(PROMPTS, PromptToIds(request=HELLO)).ids == PROMPTS.prompt_ids(HELLO)


def test_tokens_become_the_text_that_they_stand_for() -> None:
    ids = PROMPTS.prompt_ids(HELLO)
    assert token_answer(PROMPTS, IdsToText(ids=list(ids))).text.endswith("Hi")


def test_a_number_that_is_no_token_is_told_and_not_dropped() -> None:
    assert "no token 1000000" in token_answer(PROMPTS, IdsToText(ids=[1_000_000])).error


def test_what_the_tokenizer_chokes_on_costs_its_own_question(monkeypatch: pytest.MonkeyPatch) -> None:
    def panics(request: InferenceRequest) -> tuple[int, ...]:
        raise BaseException("a panic of Rust code")

    monkeypatch.setattr(PROMPTS, "prompt_ids", panics)
    assert token_answer(PROMPTS, PromptToIds(request=HELLO)).error


async def test_a_question_finds_a_worker_and_a_model_without_one_answers_nothing(redis: Redis, keys: Keys) -> None:
    questions = TokenQuestions(redis, keys)
    worker = asyncio.create_task(answer_token_questions(questions, "m", PROMPTS))
    try:
        asked = [questions.ask("m", TextToIds(text=""), seconds=5) for _ in range(20)]
        assert await asyncio.gather(*asked) == [Tokenized()] * 20
        assert await questions.ask("other", TextToIds(text=""), seconds=0.1) is None
    finally:
        await cancel_and_wait(worker)
    [left] = [key async for key in redis.scan_iter("*token_*")]
    assert await redis.ttl(left) > 0
