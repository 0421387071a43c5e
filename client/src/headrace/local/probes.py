"""Looks at the local stack from outside: ports, Valkey, the API, its models."""

import contextlib
import socket

import httpx

from headrace.rpc import authorization

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


def in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def answers_ping(port: int) -> bool:
    """False while Valkey starts or reads its log."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).is_success
    except httpx.TransportError:
        return False


class KeyRefused(Exception):
    """The API asks for a key that it was not given."""


NOBODY = "no worker is ready"
"""What the API says of a model of which it has heard nothing."""


def unready_model(url: str, api_key: str | None) -> str:
    """What is being done about the first model that is not ready; empty when one is: all workers of a local stack have
    the same, whatever else the API has a name for. Raises KeyRefused."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "model_list"}
    try:
        reply = httpx.post(f"{url}/rpc", json=call, timeout=5, headers=authorization(api_key))
        if reply.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise KeyRefused
        models = reply.json()["result"]["models"]
    except (httpx.TransportError, ValueError, KeyError):
        return NOBODY
    if any(model["ready"] for model in models):
        return ""
    return next((str(model["detail"]) for model in models if model.get("detail")), NOBODY)
