"""What probes and autoscalers ask on the second port."""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError

from api.backend import backend_of
from api.snapshot import Snapshot
from shared.telemetry.metrics import expose

router = APIRouter()

PING_SECONDS = 1.0
"""A Redis that takes longer to answer a PING is not ready for tokens."""


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives and its event loop turns."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """This replica can take requests; 503 with the reason when it cannot."""
    reason = await _not_ready(request)
    if reason:
        return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)
    return JSONResponse({"status": "ready"})


async def _not_ready(request: Request) -> str:
    if not hasattr(request.app.state, "backend"):
        return "starting"
    backend = backend_of(request)
    if backend.shutdown.is_set():
        return "shutting down"
    try:
        async with asyncio.timeout(PING_SECONDS):
            await backend.redis.ping()
    except TimeoutError:
        return f"Redis did not answer within {PING_SECONDS:g} s"
    except RedisError as error:
        return f"Redis is unavailable: {type(error).__name__}"
    return ""


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus's text format, or OpenMetrics where the scraper asks for it."""
    if not hasattr(request.app.state, "backend"):
        return Response("starting\n", 503, media_type="text/plain")
    snapshot: Snapshot = request.app.state.snapshot
    await snapshot.take()
    body, content_type = expose(backend_of(request).metrics.registry, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


@router.get("/internal/scaling/{model:path}")
async def scaling(request: Request, model: str) -> JSONResponse:
    """How much work a model has. 503 while nobody knows: a zero would scale busy workers away."""
    backend = backend_of(request)
    if model not in backend.settings.models:
        return JSONResponse({"error": f"there is no model {model[:64]!r}"}, status_code=404)
    try:
        async with asyncio.timeout(backend.settings.redis_timeout):
            load, ready = await asyncio.gather(backend.lists.load(model), backend.registry.ready(model))
    except (RedisError, TimeoutError) as error:
        return JSONResponse({"error": f"Redis is unavailable: {type(error).__name__}"}, status_code=503)
    return JSONResponse({"work": load.work, "waiting": load.waiting, "running": load.running, "readyWorkers": ready})
