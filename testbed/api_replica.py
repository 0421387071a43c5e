"""An API replica on a port of its own, in the test's own process."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.backend import Backend
from api.settings import Settings
from testbed.judged_app import JudgedApp
from testbed.waiting import until


@dataclass
class Replica:
    """One API replica on a port of its own."""

    app: FastAPI
    judged: JudgedApp
    """What its clients talk to."""
    server: uvicorn.Server
    task: asyncio.Task[None]
    port: int

    @property
    def backend(self) -> Backend:
        backend: Backend = self.app.state.backend
        return backend

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """As SIGTERM does."""
        self.server.should_exit = True
        self.backend.shutdown.set()
        await asyncio.wait_for(self.task, 10)


StartReplica = Callable[..., Awaitable[Replica]]


async def start_replica(settings: Settings) -> Replica:
    """Returns when it listens."""
    app = create_app(settings)
    judged = JudgedApp(app)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(judged, log_config=None, timeout_graceful_shutdown=5))
    task = asyncio.create_task(server._serve(sockets=[listener]))
    await until(lambda: server.started, 10, "uvicorn listens")
    return Replica(app, judged, server, task, listener.getsockname()[1])
