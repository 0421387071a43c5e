"""A real Envoy and a real nginx in front of a real API, with the time-outs that the chart writes for them.

A stream of minutes, many times faster: proxies' idle time-outs of 300 s (Envoy) and 60 s (nginx) become 1.5 s, the
comment of every 10 s becomes one of every 0.3 s. Nobody speaks for longer than the proxy waits.
"""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from charts.tests.rendering import Render
from testbed.ambiguous import AMBIGUOUS, HIDDEN_ID
from testbed.history import History, check_client
from testbed.ports import free_port
from testbed.programs import program
from testbed.stack import Process, Stack, stack
from testbed.valkey import Valkey
from testbed.waiting import until

COMMENTS = "0.3"
IDLE_TIMEOUT_SECONDS = 1.5
FILTERS = "type.googleapis.com/envoy.extensions.filters"
SILENCE_WORDS = "!slow 2500\n"
"""Milliseconds per token: longer than either proxy waits."""


def nginx(folder: Path, port: int, api: int, annotations: dict[str, str]) -> list[str]:
    """nginx as ingress-nginx sets it up by these annotations, but with a time-out shortened to be met in a test."""
    buffering = annotations["nginx.ingress.kubernetes.io/proxy-buffering"]
    config = folder / "nginx.conf"
    config.write_text(
        f"""daemon off; error_log stderr; pid {folder}/nginx.pid; user root;
        events {{}}
        http {{
          access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
          uwsgi_temp_path {folder}; scgi_temp_path {folder};
          upstream api {{ server 127.0.0.1:{api}; keepalive 4; }}
          server {{
            listen 127.0.0.1:{port};
            location / {{
              proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection "";
              proxy_buffering {buffering}; proxy_read_timeout {IDLE_TIMEOUT_SECONDS * 1000:.0f}ms;
            }}
          }}
        }}"""
    )
    return [program("nginx"), "-p", str(folder), "-c", str(config)]


def envoy(folder: Path, port: int, api: int, timeouts: dict[str, str]) -> list[str]:
    """Envoy as a Gateway sets it up by the route's time-outs."""
    route = {"cluster": "api", "timeout": timeouts["request"], "idle_timeout": f"{IDLE_TIMEOUT_SECONDS}s"}
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "stream_idle_timeout": f"{IDLE_TIMEOUT_SECONDS}s",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    backend = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": api}}}}
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    config = {
        "static_resources": {
            "listeners": [{"name": "in", "address": address, "filter_chains": [{"filters": filters}]}],
            "clusters": [
                {
                    "name": "api",
                    "type": "STATIC",
                    "load_assignment": {"cluster_name": "api", "endpoints": [{"lb_endpoints": [backend]}]},
                }
            ],
        }
    }
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    return [
        str(Path(sys.executable).parent / "envoy"),
        "-c",
        str(path),
        "--concurrency",
        "1",
        "--log-level",
        "warn",
        "--use-dynamic-base-id",  # another Envoy on this machine has the first one
        "--base-id-path",
        f"{folder}/base",
    ]


@pytest.fixture
async def headrace(valkey: Valkey, tmp_path: Path) -> AsyncIterator[Stack]:
    async with stack(valkey.url, tmp_path) as running:
        await running.start_api(HEADRACE_COMMENT_SECONDS=COMMENTS)
        await running.start_worker("scripted:?token_ms=20")
        yield running


def proxy_command(name: str, render: Render, folder: Path, port: int, api: int) -> list[str]:
    """The proxy's command line, with what the rendered chart says about streams."""
    if name == "nginx":
        values = {"ingress": {"enabled": True, "hosts": ["a.example.com"], "controller": "ingress-nginx"}}
        annotations = render(values).one("Ingress", "-api")["metadata"]["annotations"]
        return nginx(folder, port, api, annotations)
    values = {"gateway": {"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["a.example.com"]}}
    (rule,) = render(values).one("HTTPRoute", "-api")["spec"]["rules"]
    return envoy(folder, port, api, rule["timeouts"])


@pytest.mark.parametrize("name", [pytest.param("nginx", marks=pytest.mark.needs("nginx")), "envoy"])
async def test_a_long_stream_passes_unbuffered_and_is_resumed_when_the_proxy_restarts(
    name: str, headrace: Stack, render: Render, tmp_path: Path
) -> None:
    undisturbed = await headrace.run(words=100)
    port, api = free_port(), int(headrace.urls[0].rpartition(":")[2])
    command = proxy_command(name, render, tmp_path, port, api)
    proxy = Process(name, command, headrace.apis[0].env, tmp_path / f"{name}.log").start()
    headrace.workers.append(proxy)  # stopped with the rest
    through = [f"http://127.0.0.1:{port}"]
    await until(lambda: _listens(port), 20, f"{name} listens\n{proxy.tail()}")

    # Unbuffered: tokens arrive while the answer is still being made.
    history = await headrace.submit(words=100)
    history.expected = undisturbed.text
    following = asyncio.create_task(headrace.follow(history, replicas=through))
    await until(lambda: len(history.of("token")) >= 5, 10, f"tokens through {name}")
    assert not history.ended

    # Restarted in the middle: the client resumes, and nothing is missing.
    proxy.stop()
    proxy.start()
    await following
    check_client(history, undisturbed.text)
    assert history.connections > 1

    # Silent for longer than the proxy's idle time-out: comments keep the one connection alive.
    quiet = await headrace.submit(SILENCE_WORDS, words=2)
    await headrace.follow(quiet, replicas=through)
    check_client(quiet)
    assert quiet.longest_silence > IDLE_TIMEOUT_SECONDS
    assert quiet.connections == 1, proxy.tail()


@pytest.mark.needs("nginx")
async def test_without_comments_the_idle_time_out_of_the_same_proxy_cuts_the_stream(
    valkey: Valkey, render: Render, tmp_path: Path
) -> None:
    """What the test above would look like if nothing kept the connection alive."""
    async with stack(valkey.url, tmp_path) as headrace:
        await headrace.start_api(HEADRACE_COMMENT_SECONDS="60")
        await headrace.start_worker("scripted:?token_ms=20")
        port, api = free_port(), int(headrace.urls[0].rpartition(":")[2])
        command = proxy_command("nginx", render, tmp_path, port, api)
        proxy = Process("nginx", command, headrace.apis[0].env, tmp_path / "nginx.log").start()
        headrace.workers.append(proxy)
        await until(lambda: _listens(port), 20, "nginx listens")
        history: History = await headrace.submit(SILENCE_WORDS, words=2)
        await headrace.follow(history, replicas=[f"http://127.0.0.1:{port}"])
        check_client(history)  # resumed: nothing is lost even so
        assert history.connections > 1, json.dumps([str(one.id) for one in history.seen])


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


REQUESTS = 5
SILENT_SECONDS = 0.15
"""After which nothing more comes: an answer takes a few milliseconds."""


@pytest.mark.parametrize("name", [pytest.param("nginx", marks=pytest.mark.needs("nginx")), "envoy"])
async def test_no_request_is_split_behind_a_proxy(name: str, valkey: Valkey, render: Render, tmp_path: Path) -> None:
    """After each request that can be read in two ways, everybody gets the answer to what they asked."""
    async with stack(valkey.url, tmp_path) as running:
        await running.start_api()
        port, api = free_port(), int(running.urls[0].rpartition(":")[2])
        command = proxy_command(name, render, tmp_path, port, api)
        proxy = Process(name, command, running.apis[0].env, tmp_path / f"{name}.log").start()
        running.workers.append(proxy)  # stopped with the rest
        await until(lambda: _listens(port), 20, f"{name} listens\n{proxy.tail()}")
        for what, attack in AMBIGUOUS.items():
            answers = await _sent(port, attack)
            asked = answers.count(b"HTTP/1.1 ")
            # Proxy and API count alike: the hidden request was answered to who sent it, as one of two, or not at all.
            assert HIDDEN_ID.encode() not in answers or asked == 2, f"{what} by {name}: {answers!r}"
            for number in range(REQUESTS):
                mine = f"honest-{number}"
                reply = await running.client.get(f"http://127.0.0.1:{port}/v1/models", headers={"x-request-id": mine})
                assert (reply.status_code, reply.headers["x-request-id"]) == (200, mine), f"{what} by {name}"


async def _sent(port: int, request: bytes) -> bytes:
    """All that comes back until the proxy closes the connection, or says no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = b""
    try:
        writer.write(request)
        await writer.drain()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(2 * SILENT_SECONDS):
                answers = await reader.read(65536)
            async with asyncio.timeout(SILENT_SECONDS):
                while more := await reader.read(65536):
                    answers += more
        return answers
    finally:
        writer.close()
