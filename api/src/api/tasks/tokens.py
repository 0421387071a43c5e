"""What callers ask about tokens. The API has no tokenizer: a ready worker of the model answers."""

import asyncio
from collections.abc import Sequence

from api.errors import NoTokenizer, TaskRefused
from api.tasks.request import inference_request
from api.tenants.caller import Caller
from shared.conversation.loop_prevention import LoopPolicy
from shared.store.redis_client import answered_within
from shared.store.token_questions import TokenQuestions
from shared.wire.chat import ChatMessage
from shared.wire.schemas import CreateMessageParams
from shared.wire.tokenizing import IdsToText, PromptToIds, Question, TextToIds, Tokenized

WAIT_SECONDS = 5.0
"""For a worker; it answers within milliseconds when it is there."""
AT_ONCE = 32
"""Questions that wait at the same time; each holds a connection to Redis."""


class Tokens:
    """Questions about tokens. All raise Forbidden, NoTokenizer, TaskRefused or redis.exceptions.RedisError."""

    def __init__(self, questions: TokenQuestions, *, redis_timeout: float) -> None:
        self._questions = questions
        # Redis answers a look at an empty list late on purpose; below its own time-out, that is no outage.
        self._seconds = min(WAIT_SECONDS, redis_timeout / 2)
        self._redis_timeout = redis_timeout
        self._room = asyncio.Semaphore(AT_ONCE)

    async def of_prompt(
        self,
        caller: Caller,
        model: str,
        params: CreateMessageParams,
        stored: Sequence[ChatMessage] | None = None,
    ) -> tuple[int, ...]:
        """The tokens of the prompt that a request would become, without what loop prevention does. Raises ApiError.

        `stored`: the conversation that it goes on with.
        """
        caller.need("ask")
        request = await asyncio.to_thread(
            inference_request, params, model, LoopPolicy(enabled=False), stored=stored, card=None, lenient=True
        )
        return (await self._ask(model, PromptToIds(request=request))).ids

    async def of_text(self, caller: Caller, model: str, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """The tokens of a text."""
        caller.need("ask")
        return (await self._ask(model, TextToIds(text=text, add_special_tokens=add_special_tokens))).ids

    async def text_of(self, caller: Caller, model: str, ids: list[int]) -> str:
        """The text of tokens."""
        caller.need("ask")
        return (await self._ask(model, IdsToText(ids=ids))).text

    async def _ask(self, model: str, question: Question) -> Tokenized:
        async with self._room, answered_within(self._seconds + self._redis_timeout):
            answer = await self._questions.ask(model, question, seconds=self._seconds)
        if answer is None:
            raise NoTokenizer(f"no worker of the model {model!r} is ready, and only its workers know its tokens")
        if answer.error:
            raise TaskRefused(answer.error)
        return answer
