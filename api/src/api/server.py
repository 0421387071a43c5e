"""`python -m api`: both ports in one event loop, and an orderly stop on SIGTERM."""

import asyncio
import contextlib
import errno
import gc
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Literal

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from api.app import create_app, create_internal_app
from api.http.bounded_head import BoundedHead
from api.http.request_spans import trace_requests
from api.settings import Settings
from shared.cancellation import cancel_and_wait
from shared.settings import wrong_settings
from shared.store.installation import PrefixTaken, claim_prefix
from shared.telemetry.logs import set_up_logging
from shared.telemetry.tracing import start_tracing

log = logging.getLogger("api.server")

CLAIM_SECONDS = 1.0
"""How long the start waits to hear whether the keys are this installation's; without Redis it goes on meanwhile."""

_SOCKET_OPTIONS = (
    # asyncio sets it for sockets that it opens itself; without it a reply waits 40 ms for the client's delayed ACK.
    ((socket.IPPROTO_TCP, socket.TCP_NODELAY), 1),
    # A reader whose network went away without a word is noticed within two minutes.
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 60),  # seconds of silence before the first probe
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 15),  # seconds between probes
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 4),
    ((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), 120_000),  # milliseconds that sent data may stay unacknowledged
)


def main() -> None:
    """Serves until SIGTERM or SIGINT. What cannot start says why in one sentence, with exit code 1."""
    try:
        settings = Settings()
    except ValidationError as error:
        sys.exit("\n".join(f"headrace-api: {sentence}" for sentence in wrong_settings(error)))
    set_up_logging(settings.log_options(service="headrace-api"))
    try:
        public, internal = listen(settings.host, settings.port), listen(settings.host, settings.internal_port)
    except OSError as error:
        sys.exit(f"headrace-api: {error.strerror}")
    if settings.open_to_all and not is_loopback(settings.host):
        log.warning(
            "There are no API keys: everybody who reaches %s may use this server. `headrace keys create` makes the "
            "first one, HEADRACE_API_KEYS names its file; HEADRACE_OPEN=false would have refused this start.",
            settings.host,
        )
    end_tracing = start_tracing("headrace-api")
    # What was imported stays for ever. Looking through its 300,000 objects again and again for cycles would be a pause
    # of 100 ms for everybody, whenever a request makes many lists.
    gc.freeze()
    try:
        asyncio.run(_serve(settings, public, internal))
    except PrefixTaken as error:
        log.critical("The API ends: %s", error)
        sys.exit(1)
    finally:
        end_tracing()


def is_loopback(host: str) -> bool:
    """Whether nobody else than this machine can connect to the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError whose last argument is a sentence for the operator."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
        raise OSError(
            error.errno, f"port {port} on {host} {reason}; HEADRACE_PORT and HEADRACE_INTERNAL_PORT name others"
        ) from None
    # Accepted connections inherit these.
    for option, value in _SOCKET_OPTIONS:
        listener.setsockopt(*option, value)
    return listener


class _Server(uvicorn.Server):
    """A server that leaves signals to `_serve`, which stops two of them in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(settings: Settings, public_socket: socket.socket, internal_socket: socket.socket) -> None:
    """Raises PrefixTaken."""
    app = create_app(settings)
    trace_requests(app)
    public = _Server(_config(app, lifespan="on", timeout_graceful_shutdown=settings.shutdown_seconds))
    internal = _Server(_config(create_internal_app(app), lifespan="off", timeout_graceful_shutdown=1))

    def stop() -> None:
        if public.should_exit:  # asked for the second time
            public.force_exit = internal.force_exit = True
        public.should_exit = True
        if hasattr(app.state, "backend"):
            app.state.backend.shutdown.set()

    def end_if_refused(claim: asyncio.Task[None]) -> None:
        if not claim.cancelled() and claim.exception() is not None:
            stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    for what, listener in (("Requests", public_socket), ("Probes and metrics", internal_socket)):
        host, port = listener.getsockname()[:2]
        log.info("%s: http://%s:%d", what, f"[{host}]" if ":" in host else host, port)
    # Probes are answered from the first moment to the last: "starting", "shutting down".
    probes = asyncio.create_task(internal.serve(sockets=[internal_socket]))
    claim = asyncio.create_task(claim_prefix(settings, app.state.outage))
    claim.add_done_callback(end_if_refused)
    try:
        await asyncio.wait([claim], timeout=CLAIM_SECONDS)
        if not public.should_exit:
            await public.serve(sockets=[public_socket])
    finally:
        internal.should_exit = True
        await probes
        await cancel_and_wait(claim)
    if not claim.cancelled():
        claim.result()


def _config(app: FastAPI, *, lifespan: Literal["on", "off"], timeout_graceful_shutdown: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan=lifespan,
        timeout_graceful_shutdown=timeout_graceful_shutdown,
        timeout_keep_alive=75,  # seconds; longer than load balancers (60), which else meet connections just closed
        log_config=None,
        access_log=False,  # its lines would hold query strings, and those may hold keys
        server_header=False,
        ws="none",
        http=BoundedHead,
    )
