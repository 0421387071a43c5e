"""Questions about tokens on their way from the API to whichever worker of a model is ready, and the replies back.

They change nothing and are asked again when they are lost, so two lists with an expiry are enough; no task, no ledger.
"""

from typing import cast
from uuid import uuid4

from redis.asyncio import Redis

from shared.store.keys import Keys
from shared.wire.tokenizing import QUESTION, Question, Tokenized

REPLY_SECONDS = 30
"""How long a question waits for a worker, and a reply for whoever asked."""


class TokenQuestions:
    """Both ends of the lists."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def ask(self, model: str, question: Question, *, seconds: float) -> Tokenized | None:
        """The reply of a worker; None when none came in time."""
        number = uuid4().hex
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.rpush(self._keys.token_questions(model), number.encode() + b" " + QUESTION.dump_json(question))
        pipeline.expire(self._keys.token_questions(model), REPLY_SECONDS)
        await pipeline.execute()
        reply = await self._redis.blpop([self._keys.token_reply(number)], timeout=seconds)
        return None if reply is None else Tokenized.model_validate_json(reply[1])

    async def take(self, model: str, *, seconds: float) -> tuple[str, Question] | None:
        """The next question of the model's and the number to reply under; None when none came. Raises ValueError."""
        taken = cast(
            tuple[bytes, bytes] | None, await self._redis.blpop([self._keys.token_questions(model)], timeout=seconds)
        )
        if taken is None:
            return None
        number, _, question = taken[1].partition(b" ")
        return number.decode(), QUESTION.validate_json(question)

    async def reply(self, number: str, reply: Tokenized) -> None:
        """Tells whoever asked."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.rpush(self._keys.token_reply(number), reply.model_dump_json())
        pipeline.expire(self._keys.token_reply(number), REPLY_SECONDS)
        await pipeline.execute()
