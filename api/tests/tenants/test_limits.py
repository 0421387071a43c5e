"""The limits of a key as its clients meet them: exact over replicas, told in headers, given back at the end."""

import asyncio
import re
import time
from typing import Any

import httpx
import openai
import pytest

from api.http.allowance_headers import allowance_headers
from api.tenants.key_file import sha256_of
from shared.store.limits import Allowance, Left
from testbed.api_app import StartApp, rpc
from testbed.api_replica import StartReplica
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker

CLIENTS = 50
CALLS = 4
"""Of each client."""
CHAT: Any = {"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 90}


def keys(**limits: int) -> dict[str, Any]:
    return {"keys": [{"id": "k", "tenant": "t", "sha256": sha256_of("hr_k"), "policy": {"limits": limits}}]}


async def storm(urls: list[str]) -> list[dict[str, Any]]:
    """What all clients are answered that call both replicas at once."""
    headers = {"Authorization": "Bearer hr_k"}
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=60) as http:

        async def client(number: int) -> list[dict[str, Any]]:
            replies = []
            for call in range(CALLS):
                params = {"message": "hi", "maxTokens": 95}
                body = {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": params}
                replies.append((await http.post(f"{urls[(number + call) % 2]}/rpc", json=body)).json())
            return replies

        return [reply for replies in await asyncio.gather(*map(client, range(CLIENTS))) for reply in replies]


@pytest.mark.parametrize(
    ("limits", "accepted", "limit"),
    [
        ({"tokensPerDay": 4000, "requestsPerMinute": 10**6}, 40, "tokensPerDay"),
        ({"unfinishedTasks": 33}, 33, "unfinishedTasks"),
        ({"waitingTasks": 17, "tokensPerMinute": 10**6}, 17, "waitingTasks"),
    ],
    ids=str,
)
async def test_fifty_clients_at_two_replicas_get_exactly_what_there_is(
    start_replica: StartReplica, limits: dict[str, int], accepted: int, limit: str
) -> None:
    replicas = [await start_replica(api_keys=keys(**limits), redis_timeout=30) for _ in range(2)]
    replies = await storm([replica.url for replica in replicas])
    assert len(replies) == CLIENTS * CALLS
    assert sum("result" in reply for reply in replies) == accepted
    refusals = [reply["error"] for reply in replies if "error" in reply]
    assert {(error["code"], error["data"]["limit"], error["data"]["retryable"]) for error in refusals} == {
        (-32004, limit, True)
    }
    assert min(error["data"]["retryAfterSeconds"] for error in refusals) >= 1


async def test_fifty_clients_at_two_replicas_get_what_there_is_and_what_came_back_meanwhile(
    start_replica: StartReplica,
) -> None:
    per_minute = 60
    replicas = [await start_replica(api_keys=keys(requestsPerMinute=per_minute), redis_timeout=30) for _ in range(2)]
    began = time.monotonic()
    replies = await storm([replica.url for replica in replicas])
    seconds = time.monotonic() - began
    accepted = sum("result" in reply for reply in replies)
    assert per_minute <= accepted <= per_minute + seconds * per_minute / 60


async def test_tokens_of_an_ended_task_come_back_before_the_next(start_app: StartApp, worker: FakeWorker) -> None:
    async with start_app(api_keys=keys(tokensPerDay=150)) as http:
        for _ in range(3):
            created = await rpc(http, "create_message", {"message": "hi", "maxTokens": 90}, key="hr_k")
            refused = await rpc(http, "create_message", {"message": "hi", "maxTokens": 90}, key="hr_k")
            assert refused["error"]["data"]["limit"] == "tokensPerDay"
            await worker.claim(created["result"]["taskId"])
            await worker.end(created["result"]["taskId"])


async def test_openai_s_client_reads_what_is_left_and_when_to_come_back(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica(api_keys=keys(requestsPerMinute=2, tokensPerMinute=1000))
    async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="hr_k", max_retries=0) as client:
        first = await client.chat.completions.with_raw_response.create(**CHAT, stream=True)
        told = first.headers
        assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("2", "1")
        assert told["x-ratelimit-limit-tokens"] == "1000"
        assert 890 <= int(told["x-ratelimit-remaining-tokens"]) <= 910
        assert re.fullmatch(r"(29\.\d+|30)s", told["x-ratelimit-reset-requests"])
        assert re.fullmatch(r"\d(\.\d+)?s", told["x-ratelimit-reset-tokens"])
        second = await client.responses.with_raw_response.create(
            model=CHAT["model"], input="hi", background=True, max_output_tokens=90
        )
        assert second.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(**CHAT)
    error = refused.value
    assert error.code == "rate_limit_exceeded"
    assert "2 requests per minute" in error.message
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert 28 <= int(error.response.headers["retry-after"]) <= 30


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": CHAT["model"], "prompt": "hi"}),
        ("/v1/messages", CHAT),
        ("/v1/responses", {"model": CHAT["model"], "input": "hi"}),
    ],
)
async def test_every_door_that_starts_tasks_tells_what_is_left_of_a_key(
    start_app: StartApp, path: str, body: dict[str, Any]
) -> None:
    async with start_app(api_keys=keys(requestsPerMinute=1, unfinishedTasks=5)) as http:
        headers = {"x-api-key": "hr_k"} if "messages" in path else {"Authorization": "Bearer hr_k"}
        assert "result" in await rpc(http, "create_message", {"message": "hi"}, key="hr_k")
        reply = await http.post(path, json=body, headers=headers)
        assert reply.status_code == 429
        assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        assert int(reply.headers["retry-after"]) >= 1


def test_a_reset_is_spelt_as_openai_spells_it() -> None:
    spelt = {0: "0ms", 0.12: "120ms", 1: "1s", 17.5: "17.5s", 59.999: "59.999s", 60: "1m0s", 90.951: "1m30.951s"}
    for seconds, text in spelt.items():
        headers = allowance_headers(Allowance(Left(5, -3, seconds), None))
        assert headers["x-ratelimit-reset-requests"] == text
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-ratelimit-limit-tokens" not in headers
    assert allowance_headers(None) == {}
