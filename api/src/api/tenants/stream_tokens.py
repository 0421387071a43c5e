"""Tokens that open one task's stream for a few minutes: for a browser's EventSource, which sends no headers.

A key in a URL would end up in the logs of proxies and in histories; a token that does is soon worth nothing, and opens
nothing else.
"""

import secrets
import time

import jwt
from redis.asyncio import Redis

from api.errors import Unauthorized
from api.tenants.caller import Caller, Policy
from shared.store.keys import Keys
from shared.store.redis_client import answered_within

SECONDS = 600
"""For which a token opens its stream. One that is open stays so."""
AUDIENCE = "headrace-stream"
ALGORITHM = "HS256"
REREAD_SECONDS = 1.0
"""Between two looks for a newer secret, whatever is sent."""

_READ = Policy(scopes=("read",))


class StreamTokens:
    """Signed with a secret that all replicas share: the first one that needs it leaves it in Redis."""

    def __init__(self, redis: Redis, keys: Keys, *, redis_timeout: float) -> None:
        self._redis = redis
        self._key = keys.stream_secret
        self._redis_timeout = redis_timeout
        self._secret = b""
        self._read_at = float("-inf")

    async def issue(self, caller: Caller, task_id: str) -> str:
        """A token for the stream of this task of the caller's. Raises redis.exceptions.RedisError."""
        await self._read_secret()
        claims = {
            "task": task_id,
            "tenant": caller.tenant,
            "key": caller.key_id,
            "exp": int(time.time()) + SECONDS,
            "aud": AUDIENCE,
        }
        return jwt.encode(claims, self._secret, ALGORITHM)

    async def caller(self, token: str, task_id: str) -> Caller:
        """For whom the token opens this task's stream. Raises Unauthorized, or redis.exceptions.RedisError."""
        if not self._secret:
            await self._read_secret()
        try:
            try:
                claims = self._claims(token)
            except jwt.InvalidSignatureError:
                # A Redis that has lost the secret has been given a new one by another replica.
                if time.monotonic() - self._read_at < REREAD_SECONDS:
                    raise
                await self._read_secret()
                claims = self._claims(token)
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The stream token has expired: ask for a new one (`stream_token`).") from None
        except jwt.InvalidTokenError:
            raise Unauthorized("The stream token is none of this server.") from None
        if claims["task"] != task_id:
            raise Unauthorized("The stream token is for the stream of another task.")
        return Caller(claims["tenant"], claims.get("key", ""), _READ)

    def _claims(self, token: str) -> dict[str, str]:
        claims: dict[str, str] = jwt.decode(
            token,
            self._secret,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            options={"require": ["exp", "aud", "task", "tenant"]},
        )
        return claims

    async def _read_secret(self) -> None:
        async with answered_within(self._redis_timeout):
            await self._redis.set(self._key, secrets.token_hex(32), nx=True)
            secret = await self._redis.get(self._key)
        assert isinstance(secret, bytes)
        self._secret, self._read_at = secret, time.monotonic()
