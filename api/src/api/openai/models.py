"""`GET /v1/models` and `/v1/models/{id}`."""

import asyncio

from fastapi import APIRouter, Request

from api.errors import UnknownModel
from api.http.dependencies import backend_of, caller_of
from api.http.openai_errors import ERROR
from api.http.openapi import CALLING, replies
from api.openai.answer import Json
from api.openai.described import MODEL, MODELS

router = APIRouter(prefix="/v1")


@router.get("/models", responses=replies(MODELS, ERROR, CALLING))
async def models(request: Request) -> Json:
    """The models that requests may name."""
    names = caller_of(request).models_of(backend_of(request).models.names)
    return {"object": "list", "data": list(await asyncio.gather(*(_model(request, name) for name in names)))}


@router.get("/models/{name:path}", responses=replies(MODEL, ERROR, (*CALLING, UnknownModel)))
async def model(name: str, request: Request) -> Json:
    """One of them."""
    return await _model(request, backend_of(request).models.chosen(caller_of(request), name))


async def _model(request: Request, name: str) -> Json:
    """`max_model_len` is vLLM's word for the context, which its clients look for here."""
    card = await backend_of(request).registry.card(name)
    # Nobody knows when a model was made; OpenAI's clients want a number, and the same at every replica.
    plain: Json = {"id": name, "object": "model", "created": 0, "owned_by": "headrace"}
    return plain if card is None else plain | {"max_model_len": card.context_length}
