"""`POST /tokenize` and `/detokenize`, as vLLM's clients know them."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from api.errors import InvalidParams, NoTokenizer, UnknownModel
from api.http.dependencies import backend_of, caller_of
from api.http.lenient_body import checked, within_bounds
from api.http.openai_errors import ERROR
from api.http.openapi import READING, body_of, replies
from api.http.request_body import read_body
from api.openai.answer import Json
from api.openai.conversation import messages_of, tools_of
from api.openai.described import PROMPT, TOKENS
from api.openai.requests import ChatRequest, Message, OfferedTool, OpenAiType
from shared.wire.schemas import CreateMessageParams

router = APIRouter()

ASKING = (*READING, UnknownModel, NoTokenizer)


class TokenizeRequest(OpenAiType):
    """A text, or a conversation as a chat completion has it."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[OfferedTool] | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(OpenAiType):
    """Tokens of a model."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


@router.post("/tokenize", openapi_extra=body_of(TokenizeRequest), responses=replies(TOKENS, ERROR, ASKING))
async def tokenize(request: Request) -> Json:
    """The tokens of a text, or of the prompt that a conversation becomes."""
    backend = backend_of(request)
    caller = caller_of(request)
    wanted = await checked(TokenizeRequest, await read_body(request))
    model = backend.models.chosen(caller, wanted.model)
    if (wanted.prompt is None) == (wanted.messages is None):
        raise InvalidParams("send either prompt or messages")
    if wanted.prompt is not None:
        ids = await backend.tokens.of_text(caller, model, wanted.prompt, add_special_tokens=wanted.add_special_tokens)
    else:
        ids = await backend.tokens.of_prompt(caller, model, within_bounds(_params, wanted, None))
    card = await backend.registry.card(model)
    return {"count": len(ids), "max_model_len": card.context_length if card else None, "tokens": list(ids)}


@router.post("/detokenize", openapi_extra=body_of(DetokenizeRequest), responses=replies(PROMPT, ERROR, ASKING))
async def detokenize(request: Request) -> Json:
    """The text of tokens."""
    backend, caller = backend_of(request), caller_of(request)
    wanted = await checked(DetokenizeRequest, await read_body(request))
    model = backend.models.chosen(caller, wanted.model)
    return {"prompt": await backend.tokens.text_of(caller, model, wanted.tokens)}


def _params(wanted: TokenizeRequest, _: str | None) -> CreateMessageParams:
    chat = ChatRequest(model=wanted.model or "", messages=wanted.messages or [], tools=wanted.tools)
    return CreateMessageParams(messages=messages_of(chat.messages), tools=tools_of(chat) or None)
