"""Answers what the API asks about tokens: of a text, of a request's prompt, or the text of tokens."""

import asyncio
import logging

from redis.exceptions import RedisError

from shared.store.token_questions import TokenQuestions
from shared.wire.tokenizing import IdsToText, PromptToIds, Question, TextToIds, Tokenized
from worker.panics import LEAVING
from worker.text.codec import Prompts
from worker.text.prompt_rendering import PromptRefused

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
"""Of one look for a question; shorter than Redis's time-out."""


async def answer_token_questions(questions: TokenQuestions, model: str, prompts: Prompts) -> None:
    """Answers for ever. A long text is tokenized in a thread; a question that cannot be read is nobody's loss."""
    while True:
        try:
            taken = await questions.take(model, seconds=WAIT_SECONDS)
            if taken is not None:
                number, question = taken
                await questions.reply(number, await asyncio.to_thread(token_answer, prompts, question))
        except RedisError as error:
            log.debug("Questions about tokens wait for Redis: %s", error)
            await asyncio.sleep(WAIT_SECONDS)
        except ValueError as error:
            log.warning("A question about tokens cannot be read: %s", error)


def token_answer(prompts: Prompts, question: Question) -> Tokenized:
    """The reply to one question; what goes wrong with it is said in the reply."""
    try:
        match question:
            case TextToIds(text=text, add_special_tokens=added):
                return Tokenized(ids=prompts.text_ids(text, add_special_tokens=added))
            case PromptToIds(request=request):
                return Tokenized(ids=prompts.prompt_ids(request))
            case IdsToText(ids=ids):
                if ids and max(ids) >= (size := prompts.tokenizer.get_vocab_size()):
                    return Tokenized(error=f"the model has no token {max(ids)}: its vocabulary has {size}")
                return Tokenized(text=prompts.tokenizer.decode(ids, skip_special_tokens=False))
    except PromptRefused as error:
        return Tokenized(error=str(error))
    except LEAVING:
        raise
    except BaseException:
        # Of this question alone: the next one has nothing to do with it.
        log.exception("A question about tokens met a fault of the worker's own.")
        return Tokenized(error="internal error in the worker; see its log")
