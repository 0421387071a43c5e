"""Token counts at the doors, answered by what stands for a worker."""

import asyncio
from collections.abc import AsyncIterator

import anthropic
import httpx
import pytest

from api.backend import Backend
from shared.cancellation import cancel_and_wait
from shared.store.keys import Keys
from shared.store.token_questions import TokenQuestions
from shared.wire.tokenizing import IdsToText, PromptToIds, Tokenized
from testbed.api_replica import StartReplica
from testbed.fake_worker import DEFAULT_MODEL


@pytest.fixture
async def tokenizer(backend: Backend, keys: Keys) -> AsyncIterator[None]:
    """A worker whose tokens are the characters of what is asked."""
    questions = TokenQuestions(backend.redis, keys)

    async def answer() -> None:
        while True:
            if taken := await questions.take(DEFAULT_MODEL, seconds=0.5):
                number, question = taken
                match question:
                    case IdsToText(ids=ids):
                        reply = Tokenized(text="".join(map(chr, ids)))
                    case PromptToIds(request=request):
                        reply = Tokenized(
                            ids=tuple(ord(char) for one in request.messages for char in one.content or "")
                        )
                    case _:
                        reply = Tokenized(ids=tuple(map(ord, question.text)))
                await questions.reply(number, reply)

    running = asyncio.create_task(answer())
    yield
    await cancel_and_wait(running)


@pytest.mark.usefixtures("tokenizer")
async def test_texts_conversations_and_tokens_are_asked_of_a_worker(http: httpx.AsyncClient) -> None:
    text = await http.post("/tokenize", json={"model": DEFAULT_MODEL, "prompt": "ab"})
    assert text.json() == {"count": 2, "max_model_len": None, "tokens": [97, 98]}
    said = await http.post(
        "/tokenize", json={"messages": [{"role": "user", "content": [{"type": "text", "text": "c"}]}]}
    )
    assert said.json()["tokens"] == [99]
    back = await http.post("/detokenize", json={"tokens": [97, 98]})
    assert back.json() == {"prompt": "ab"}
    neither = await http.post("/tokenize", json={})
    assert (neither.status_code, neither.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_model_without_a_ready_worker_says_so(start_replica: StartReplica) -> None:
    replica = await start_replica(redis_timeout=1)
    async with anthropic.AsyncAnthropic(base_url=replica.url, api_key="none", max_retries=0) as client:
        with pytest.raises(anthropic.APIStatusError, match="is ready") as refused:
            await client.messages.count_tokens(model=DEFAULT_MODEL, messages=[{"role": "user", "content": "Hi"}])
    assert refused.value.status_code == 503


@pytest.mark.usefixtures("tokenizer")
async def test_the_prompt_of_a_message_is_counted(http: httpx.AsyncClient) -> None:
    body = {"model": DEFAULT_MODEL, "system": "ab", "messages": [{"role": "user", "content": "c"}]}
    reply = await http.post("/v1/messages/count_tokens", json=body)
    assert reply.json() == {"input_tokens": 3}
    unknown = await http.post("/v1/messages/count_tokens", json=body | {"model": "claude"})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
