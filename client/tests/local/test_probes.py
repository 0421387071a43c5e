"""The local stack looked at from outside."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headrace.local.probes import LOOPBACK, answers_ping, free_ports, in_use, is_ready, unready_model
from testbed.scripted_server import ScriptedServer
from testbed.valkey import Valkey


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert not any(in_use(port) for port in ports)


def test_a_port_with_a_listener_is_in_use() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        assert in_use(listener.getsockname()[1])


def test_valkey_is_asked_whether_it_answers(valkey: Valkey) -> None:
    assert answers_ping(valkey.port)
    valkey.stop()
    assert not answers_ping(valkey.port)


@contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """The port of a server that says this to whoever connects."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(64)
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize("reply", [b"-LOADING Valkey is loading the dataset in memory\r\n", b"HTTP/1.1 400\r\n", b""])
def test_a_server_that_says_anything_else_does_not_answer_yet(reply: bytes) -> None:
    with answering(reply) as port:
        assert not answers_ping(port)


WAITING = [{"name": "a", "ready": False}, {"name": "b", "ready": False}]


@pytest.mark.parametrize(
    ("models", "unready"),
    [
        ([*WAITING, {"name": "c", "ready": True}], ""),
        ([], "no worker is ready"),
        (WAITING, "no worker is ready"),
        ([*WAITING, {"name": "c", "ready": False, "detail": "loading weights 5 %"}], "loading weights 5 %"),
    ],
)
def test_a_model_that_is_not_ready_says_why(server: ScriptedServer, models: list[dict[str, Any]], unready: str) -> None:
    server.answers = [lambda x: x.result({"models": models})]
    assert unready_model(server.url, None) == unready


def has_models(url: str) -> bool:
    return not unready_model(url, None)


@pytest.mark.parametrize("probe", [is_ready, has_models])
def test_a_server_that_is_not_there_or_broken_is_not_ready(
    server: ScriptedServer, probe: Callable[[str], bool]
) -> None:
    server.answers = [lambda x: x.drop(), lambda x: x.reply(503, {"error": {"code": -32007}})]
    assert not probe(server.url)
    assert not probe(server.url)
    assert not probe(f"http://{LOOPBACK}:{free_ports(1)[0]}")
