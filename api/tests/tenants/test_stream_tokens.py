"""Tokens that open one stream, and nothing else."""

import time
from typing import Any

import httpx
import jwt
import pytest
from redis.asyncio import Redis

from api.errors import Unauthorized
from api.tenants.caller import Caller
from api.tenants.key_file import sha256_of
from api.tenants.stream_tokens import ALGORITHM, AUDIENCE, SECONDS, StreamTokens
from shared.store.keys import Keys
from testbed.api_app import StartApp, rpc

ME = Caller("me")


@pytest.fixture
def tokens(redis: Redis, keys: Keys) -> StreamTokens:
    return StreamTokens(redis, keys, redis_timeout=2)


async def test_a_token_opens_its_task_s_stream_for_its_tenant_at_every_replica(
    tokens: StreamTokens, redis: Redis, keys: Keys
) -> None:
    token = await tokens.issue(ME, "t1")
    opened = await StreamTokens(redis, keys, redis_timeout=2).caller(token, "t1")
    assert (opened.tenant, opened.policy.scopes) == ("me", ("read",))


async def test_it_opens_no_other_stream(tokens: StreamTokens) -> None:
    with pytest.raises(Unauthorized, match="another task"):
        await tokens.caller(await tokens.issue(ME, "t1"), "t2")


async def signed(redis: Redis, keys: Keys, algorithm: str = ALGORITHM, secret: Any = None, **changes: Any) -> str:
    """A token with some claims changed or, where they are None, left out."""
    secret = secret or await redis.get(keys.stream_secret)
    claims = {"task": "t1", "tenant": "me", "exp": time.time() + 60, "aud": AUDIENCE, **changes}
    left = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(left, "" if algorithm == "none" else secret, algorithm)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"aud": "another"},
        {"aud": None},
        {"tenant": None},
        {"task": None},
        {"secret": "x" * 64},
        {"algorithm": "none"},
    ],
    ids=str,
)
async def test_a_token_that_is_edited_old_or_signed_by_others_opens_nothing(
    tokens: StreamTokens, redis: Redis, keys: Keys, changes: dict[str, Any]
) -> None:
    await tokens.issue(ME, "t1")
    assert await tokens.caller(await signed(redis, keys), "t1")
    with pytest.raises(Unauthorized):
        await tokens.caller(await signed(redis, keys, **changes), "t1")


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "ÿ", "hr_" + "x" * 43, "x" * 100_000])
async def test_what_is_no_token_opens_nothing(tokens: StreamTokens, token: str) -> None:
    with pytest.raises(Unauthorized):
        await tokens.caller(token, "t1")


async def test_each_changed_part_of_a_token_is_noticed(tokens: StreamTokens) -> None:
    token = await tokens.issue(ME, "t1")
    for at in range(0, len(token) - 2, 7):  # the last character has bits that mean nothing
        edited = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(Unauthorized):
            await tokens.caller(edited, "t1")


async def test_a_redis_that_has_lost_the_secret_gets_a_new_one_that_all_replicas_take(
    tokens: StreamTokens, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.tenants.stream_tokens.REREAD_SECONDS", 0)
    await tokens.issue(ME, "t1")
    await redis.delete(keys.stream_secret)
    token = await StreamTokens(redis, keys, redis_timeout=2).issue(ME, "t1")
    assert (await tokens.caller(token, "t1")).tenant == "me"


def key_file() -> dict[str, Any]:
    return {"keys": [{"id": name, "tenant": name, "sha256": sha256_of(f"hr_{name}")} for name in "ab"]}


async def status_of_stream(http: httpx.AsyncClient, task_id: str, **params: str) -> int:
    async with http.stream("HEAD", f"/stream/{task_id}", params=params) as reply:
        return reply.status_code


async def test_an_event_source_opens_its_stream_with_a_token_from_rpc(start_app: StartApp) -> None:
    async with start_app(api_keys=key_file()) as http, start_app(api_keys=key_file()) as other:
        task_id = (await rpc(http, "create_message", {"message": "hi"}, key="hr_a"))["result"]["taskId"]
        issued = (await rpc(http, "stream_token", {"taskId": task_id}, key="hr_a"))["result"]
        assert issued["expiresInSeconds"] == SECONDS
        token = issued["streamToken"]
        assert await status_of_stream(other, task_id, stream_token=token) == 200
        second = (await rpc(http, "create_message", {"message": "hi"}, key="hr_a"))["result"]["taskId"]
        assert await status_of_stream(other, second, stream_token=token) == 401
        refused = await rpc(http, "stream_token", {"taskId": task_id}, key="hr_b")
        assert refused["error"]["code"] == -32002
        assert (await rpc(http, "get_message", {"taskId": task_id}, key=token)).get("error", {})["code"] == -32001
        assert await status_of_stream(http, task_id, access_token=token) == 401


async def test_a_key_in_the_query_is_taken_and_called_deprecated(start_app: StartApp) -> None:
    async with start_app(api_keys=key_file()) as http:
        task_id = (await rpc(http, "create_message", {"message": "hi"}, key="hr_a"))["result"]["taskId"]
        async with http.stream("HEAD", f"/stream/{task_id}", params={"access_token": "hr_a"}) as reply:
            assert (reply.status_code, reply.headers["Deprecation"]) == (200, "true")
        async with http.stream("HEAD", f"/stream/{task_id}", headers={"Authorization": "Bearer hr_a"}) as reply:
            assert "Deprecation" not in reply.headers
