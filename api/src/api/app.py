"""The two applications: the public one, and the one for probes and scrapers."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from api import health
from api.admission import Admission
from api.anthropic import messages
from api.anthropic.error_body import error_reply as anthropic_error
from api.backend import Backend
from api.cluster.capacity import Capacity, capacity_of_this_cluster
from api.durable_streams import route as durable_streams
from api.durable_streams.route import PLACE_HEADERS
from api.http.allowance_headers import ALLOWANCE_HEADERS
from api.http.error_replies import ErrorReplies, unrouted
from api.http.openai_errors import error_reply as openai_error
from api.http.openapi import DescribedApi
from api.http.reply_headers import ReplyHeaders
from api.http.signing_keys import SigningKeys
from api.http.unread_body import UnreadBody
from api.hub.event_hub import EventHub
from api.hub.reader_marks import ReaderMarks
from api.metrics import make_metrics
from api.models import Models
from api.openai import chat_completions, completions, tokenize
from api.openai import models as openai_models
from api.page.route import add_page
from api.publisher import Publisher
from api.repair.janitor import Janitor
from api.repair.lost_messages import LostMessages
from api.responses import conversations, responses
from api.rpc import route as rpc
from api.settings import Settings
from api.snapshot import Snapshot
from api.sse import stream as sse
from api.streaming.open_streams import OpenStreams
from api.streaming.positions import Positions
from api.streaming.readers import Readers
from api.tasks.messages import Messages
from api.tasks.new_task import NewTasks
from api.tasks.own_conversations import OwnConversations
from api.tasks.own_task import OwnTasks
from api.tasks.tokens import Tokens
from api.tasks.usage import Usage
from api.tenants.identity_provider import IdentityProvider
from api.tenants.key_ring import KeyRing
from api.tenants.stream_tokens import StreamTokens
from shared.cancellation import cancel_and_wait
from shared.celery_app import make_celery
from shared.store.conversations import Conversations
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.outage import Outage
from shared.store.redis_client import connect
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.token_questions import TokenQuestions
from shared.store.usage import UsageRecords
from shared.store.worker_registry import WorkerRegistry

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The application of the public port. It connects in its lifespan, and starts without Redis too."""

    outage = Outage()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            capacity_of_this_cluster(settings.capacity_selector) as capacity,
            _running_backend(settings, capacity, outage) as backend,
        ):
            app.state.backend = backend
            yield

    app = DescribedApi(
        title="Headrace",
        version=version("headrace-api"),
        lifespan=lifespan,
        redirect_slashes=False,  # its Location would be made of what the client calls this host
    )
    app.state.outage = outage
    app.add_exception_handler(HTTPException, unrouted)
    # From the inside to the outside.
    if settings.provider is not None:
        app.add_middleware(SigningKeys, main=app)
    app.add_middleware(
        ErrorReplies,
        doors={"/v1/messages": anthropic_error} | dict.fromkeys(("/v1/", "/tokenize", "/detokenize"), openai_error),
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            # Any: there are no cookies that a page could misuse, and its libraries add headers of their own.
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id", "X-Headrace-Task-Id", *ALLOWANCE_HEADERS, *PLACE_HEADERS],
        )
    app.add_middleware(UnreadBody, seconds=settings.body_timeout)
    app.add_middleware(ReplyHeaders)
    app.include_router(rpc.router)
    app.include_router(sse.router)
    app.include_router(chat_completions.router)
    app.include_router(completions.router)
    app.include_router(messages.router)
    app.include_router(openai_models.router)
    app.include_router(responses.router)
    app.include_router(conversations.router)
    app.include_router(durable_streams.router)
    app.include_router(tokenize.router)
    if settings.chat_page:
        add_page(app)
    return app


def create_internal_app(main: FastAPI) -> FastAPI:
    """The application of the second port; it looks at the backend of the public one."""
    # Without FastAPI's own tracing: a probe each second would be most of what a trace store holds.
    app = FastAPI(title="Headrace, internal", openapi_url=None, telemetry={"tracing": False})
    app.state = main.state
    app.add_middleware(ReplyHeaders)
    app.include_router(health.router)
    app.add_exception_handler(health.NotReady, health.not_ready)  # type: ignore[arg-type]  # of any Exception
    return app


@asynccontextmanager
async def _running_backend(settings: Settings, capacity: Capacity | None, outage: Outage) -> AsyncIterator[Backend]:
    redis = connect(settings, outage, retries=1)  # every command of the API may run twice
    keys = Keys(settings.key_prefix)
    ledger = TaskLedger(
        redis,
        keys,
        retention_seconds=settings.retention_seconds,
        unstored_seconds=settings.unstored_seconds,
        max_failures=settings.max_failures,
    )
    lists = TaskLists(redis, keys)
    stream = EventStream(redis, keys)
    registry = WorkerRegistry(redis, keys, lease_seconds=settings.lease_seconds)
    metrics = make_metrics(settings.models)
    publisher = Publisher(make_celery(settings), timeout=settings.publish_timeout, failures=metrics.publish_failures)
    hub = EventHub(redis, stream, on_slow=metrics.slow_readers.labels("behind").inc)
    marks = ReaderMarks(redis, keys, window_seconds=settings.resume_window_seconds)
    shutdown = asyncio.Event()
    models = Models(
        settings.models,
        settings.default_model,
        lists=lists,
        registry=registry,
        redis_timeout=settings.redis_timeout,
        capacity=capacity,
    )
    key_ring = KeyRing(
        settings.api_keys,
        unusable=metrics.keys_unusable,
        open_to_all=settings.open_to_all,
        provider=IdentityProvider(provider, unusable=metrics.provider_unusable)
        if (provider := settings.provider)
        else None,
    )
    readers = Readers(
        hub,
        marks,
        Positions(lists, models),
        comment_seconds=settings.comment_seconds,
        send_timeout=settings.send_timeout,
        most_seconds=settings.max_stream_seconds,
        shutdown=shutdown,
        streams=OpenStreams(most=settings.max_key_streams, refused=metrics.streams_refused),
        holds=key_ring.holds,
        metrics=metrics,
    )
    janitor = Janitor(
        redis,
        keys,
        ledger=ledger,
        lists=lists,
        publisher=publisher,
        marks=marks,
        lost_messages=LostMessages(redis, keys, lists),
        metrics=metrics,
        models=settings.models,
        lease_seconds=settings.lease_seconds,
        outage=outage,
    )
    stored_conversations = Conversations(redis, keys)
    messages = Messages(redis, keys, publisher)
    new_tasks = NewTasks(
        settings,
        models=models,
        admission=Admission(settings, redis, lists, registry),
        conversations=stored_conversations,
        ledger=ledger,
        registry=registry,
        messages=messages,
        metrics=metrics,
    )
    own_tasks = OwnTasks(
        ledger=ledger,
        lists=lists,
        stream=stream,
        ended=metrics.ended,
        redis_timeout=settings.redis_timeout,
        retention_seconds=settings.retention_seconds,
    )
    backend = Backend(
        settings=settings,
        redis=redis,
        outage=outage,
        lists=lists,
        stream=stream,
        registry=registry,
        key_ring=key_ring,
        stream_tokens=StreamTokens(redis, keys, redis_timeout=settings.redis_timeout),
        models=models,
        new_tasks=new_tasks,
        own_tasks=own_tasks,
        own_conversations=OwnConversations(
            stored_conversations,
            seconds=settings.conversation_seconds,
            most_bytes=settings.max_conversation_bytes,
            most=settings.max_tenant_conversations,
            redis_timeout=settings.redis_timeout,
        ),
        tokens=Tokens(TokenQuestions(redis, keys), redis_timeout=settings.redis_timeout),
        usage=Usage(UsageRecords(redis, keys), redis_timeout=settings.redis_timeout),
        readers=readers,
        metrics=metrics,
        snapshot=Snapshot(redis, lists, registry, settings.models, metrics.registry),
        shutdown=shutdown,
    )
    await publisher.warm_up()
    await hub.start()
    running = [
        asyncio.create_task(readers.run(), name="readers"),
        asyncio.create_task(janitor.run(), name="janitor"),
        asyncio.create_task(key_ring.run(), name="key ring"),
    ]
    try:
        yield backend
    finally:
        shutdown.set()
        await cancel_and_wait(*running)
        await hub.stop()
        await readers.left()
        await messages.sent()
        publisher.close()
        await redis.aclose()
