"""What probes and autoscalers ask on the second port."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from api.backend import Backend
from api.http.dependencies import backend_of
from shared.store.redis_client import answered_within
from shared.telemetry.metrics import expose

router = APIRouter()


class NotReady(Exception):
    """The message says why; `app.py` answers it with `not_ready`."""


async def not_ready(request: Request, error: NotReady) -> JSONResponse:
    """503 with the reason."""
    return JSONResponse({"status": "not ready", "reason": str(error)}, status_code=503)


def _started(request: Request) -> Backend:
    """The backend, once the public application has made it: this port is open before. Raises NotReady."""
    if not hasattr(request.app.state, "backend"):
        raise NotReady("starting")
    return backend_of(request)


Started = Annotated[Backend, Depends(_started)]

PING_SECONDS = 1.0
"""A Redis that takes longer to answer a PING is not ready for tokens."""


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives and its event loop turns."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(backend: Started) -> dict[str, str]:
    """This replica can take requests; 503 with the reason when it cannot."""
    if backend.shutdown.is_set():
        raise NotReady("shutting down")
    try:
        async with answered_within(PING_SECONDS):
            await backend.redis.ping()
    except RedisTimeoutError:
        raise NotReady(backend.outage.reason or f"Redis did not answer within {PING_SECONDS:g} s") from None
    except RedisError as error:
        raise _without_redis(backend, error) from None
    if refusal := backend.outage.refusal:
        raise NotReady(refusal)
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(backend: Started, request: Request) -> Response:
    """Prometheus's text format, or OpenMetrics where the scraper asks for it."""
    await backend.snapshot.take()
    body, content_type = expose(backend.metrics.registry, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


@router.get("/internal/scaling/{model:path}")
async def scaling(backend: Started, model: str) -> JSONResponse:
    """How much work a model has. 503 while nobody knows: a zero would scale busy workers away."""
    if model not in backend.settings.models:
        return JSONResponse({"error": f"there is no model {model[:64]!r}"}, status_code=404)
    try:
        async with answered_within(backend.settings.redis_timeout):
            load, ready = await asyncio.gather(backend.lists.load(model), backend.registry.ready(model))
    except RedisError as error:
        raise _without_redis(backend, error) from None
    return JSONResponse({"work": load.work, "waiting": load.waiting, "running": load.running, "readyWorkers": ready})


def _without_redis(backend: Backend, error: RedisError) -> NotReady:
    return NotReady(backend.outage.reason or f"Redis is unavailable: {type(error).__name__}")
