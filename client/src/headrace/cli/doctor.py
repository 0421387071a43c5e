"""`headrace doctor`: what is reachable, and what to do about what is not as it should be."""

import importlib.metadata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urljoin

import httpx
from rich.console import Console
from rich.text import Text

from headrace.client import Client
from headrace.errors import HeadraceError

TIMEOUT_SECONDS = 5.0
MOST_SECONDS_APART = 2.0
"""Between two clocks, one of which is told in whole seconds."""
MARKS = {"fine": ("✓", "green"), "odd": ("!", "yellow"), "wrong": ("✗", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["fine", "odd", "wrong"]
    said: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def examine(url: str, api_key: str | None, redis_url: str | None) -> list[Finding]:
    """Everything that can be looked at from here."""
    findings = list(_server(url, api_key))
    if redis_url is not None:
        findings += _redis(redis_url)
    return findings


def show(findings: list[Finding], console: Console) -> None:
    for finding in findings:
        mark, colour = MARKS[finding.state]
        console.print(Text.assemble((mark, colour), f" {finding.what}: {finding.said}"), soft_wrap=True)
        if finding.advice:
            console.print(Text(f"  {finding.advice}", style="dim"), soft_wrap=True)


def _server(url: str, api_key: str | None) -> Iterator[Finding]:
    base = url.rstrip("/") + "/"
    try:
        before = datetime.now(UTC)
        reply = httpx.get(urljoin(base, "openapi.json"), timeout=TIMEOUT_SECONDS)
        after = datetime.now(UTC)
    except httpx.TransportError as error:
        advice = "Start one with `headrace up`, forward a port to the cluster's Service, or name another with --url."
        yield Finding("server", "wrong", f"{url} does not answer: {error or type(error).__name__}", advice)
        return
    info = _info(reply)
    if info is None:
        yield Finding(
            "server",
            "wrong",
            f"{url} answers, but is no Headrace (HTTP {reply.status_code})",
            "Name another with --url.",
        )
        return
    ours = importlib.metadata.version("headrace")
    theirs = str(info.get("version"))
    yield Finding("server", "fine", f"{url} is Headrace {theirs}")
    if ours != theirs:
        yield Finding(
            "version",
            "odd",
            f"this client is {ours}",
            "They understand each other; update the older one for all of it.",
        )
    yield from _clock(reply, before, after)
    if httpx.get(base, timeout=TIMEOUT_SECONDS).is_success:
        yield Finding("chat page", "fine", base)
    with Client(url, api_key=api_key, timeout=TIMEOUT_SECONDS) as client:
        try:
            models = client.models()
        except HeadraceError as error:
            known = error.code == -32001
            yield Finding(
                "requests",
                "wrong",
                str(error),
                "Pass --api-key, or set HEADRACE_API_KEY." if known else "The server's log says more.",
            )
            return
    for model in models:
        if model.ready:
            yield Finding(
                "model",
                "fine",
                f"{model.name}: {model.ready_workers} ready, {model.running} running, {model.waiting} waiting",
            )
        else:
            advice = "It takes tasks; they wait. A worker that does not come: look at its log."
            yield Finding("model", "odd", f"{model.name}: {model.detail or 'no worker is ready'}", advice)


def _info(reply: httpx.Response) -> dict[str, Any] | None:
    try:
        info = reply.json()["info"]
    except (ValueError, KeyError, TypeError):
        return None
    return info if isinstance(info, dict) and info.get("title") == "Headrace" else None


def _clock(reply: httpx.Response, before: datetime, after: datetime) -> Iterator[Finding]:
    try:
        told = parsedate_to_datetime(reply.headers["date"])
    except (KeyError, ValueError):
        return
    theirs = told.replace(tzinfo=told.tzinfo or UTC)
    apart = (theirs - (before + (after - before) / 2)).total_seconds()
    if abs(apart) <= MOST_SECONDS_APART:
        yield Finding("clock", "fine", "the same here and there")
    else:
        advice = "Tasks do not mind, times in logs and traces do: let both follow a time server."
        yield Finding(
            "clock", "odd", f"the server's is {abs(apart):.0f} s {'ahead' if apart > 0 else 'behind'}", advice
        )


def _redis(url: str) -> Iterator[Finding]:
    try:
        from redis import Redis
        from redis.exceptions import RedisError
    except ModuleNotFoundError:
        yield Finding("Redis", "odd", "not looked at", "`pip install 'headrace[doctor]'` brings what it takes.")
        return
    with Redis.from_url(
        url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, decode_responses=True
    ) as redis:
        try:
            info: dict[str, Any] = redis.info()
            config = {
                name: value
                for pattern in ("appendonly", "maxmemory-policy")
                for name, value in redis.config_get(pattern).items()
            }
        except (RedisError, ValueError) as error:
            yield Finding(
                "Redis",
                "wrong",
                str(error),
                "The API refuses work while it is away: look at its log, and at HEADRACE_REDIS_URL.",
            )
            return
    kind = "Valkey" if "valkey_version" in info else "Redis"
    yield Finding(
        kind, "fine", f"{info.get('valkey_version', info['redis_version'])}, {info['used_memory_human']} used"
    )
    if config.get("appendonly") == "yes":
        yield Finding("persistence", "fine", "append-only file: accepted tasks outlive a restart")
    else:
        yield Finding(
            "persistence", "wrong", "no append-only file: a restart loses accepted tasks", "Set `appendonly yes`."
        )
    policy = config.get("maxmemory-policy")
    if policy == "noeviction":
        yield Finding("eviction", "fine", "none: what is stored stays")
    else:
        yield Finding(
            "eviction",
            "wrong",
            f"{policy}: tasks may be thrown away when memory is short",
            "Set `maxmemory-policy noeviction`.",
        )
