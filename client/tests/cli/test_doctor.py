"""`headrace doctor`: what it finds, and what it advises."""

import importlib.metadata
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from headrace.cli.doctor import Finding, examine, show
from testbed import terminal_picture
from testbed.command_line import exit_code
from testbed.event_frames import refusal
from testbed.ports import free_port
from testbed.scripted_server import Answer, ScriptedServer
from testbed.valkey import Valkey

VERSION = importlib.metadata.version("headrace")
READY = {"name": "m", "default": True, "ready": True, "readyWorkers": 1, "waiting": 0, "running": 0}
PAGE: Answer = lambda x: x.reply(200)  # noqa: E731


def is_headrace(version: str = VERSION, **headers: str) -> Answer:
    return lambda x: x.reply(200, {"info": {"title": "Headrace", "version": version}}, **headers)


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.what: finding.state for finding in findings}


def test_all_is_well(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    answers: list[Answer] = [is_headrace(), PAGE, lambda x: x.result({"models": [READY]})]
    server.answers = [*answers]
    assert exit_code("doctor", "--url", server.url) == 0
    assert f"{server.url} is Headrace {VERSION}" in capsys.readouterr().out
    server.answers = [*answers]
    assert exit_code("doctor", "--url", server.url, "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {finding["state"] for finding in found} == {"fine"}
    assert [finding["what"] for finding in found] == ["server", "clock", "chat page", "model"]


def test_what_is_odd_is_told_with_advice(server: ScriptedServer) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True)
    away = {**READY, "ready": False, "readyWorkers": 0, "detail": "scaled to zero"}
    server.answers = [is_headrace("9.9", Date=date), PAGE, lambda x: x.result({"models": [away]})]
    findings = examine(server.url, None, None)
    assert states(findings) | {"clock": "odd", "version": "odd", "model": "odd"} == states(findings)
    (clock,) = (finding for finding in findings if finding.what == "clock")
    assert "ahead" in clock.said
    assert all(finding.advice for finding in findings if finding.state == "odd")
    console = terminal_picture.recording()
    console.print("[dim]$[/] headrace doctor\n")
    show(
        [replace(finding, said=finding.said.replace(server.url, "http://127.0.0.1:8000")) for finding in findings],
        console,
    )
    assert "scaled to zero" in console.export_text(clear=False)
    terminal_picture.keep(console, "doctor", "headrace doctor")


def test_what_is_wrong_is_an_exit_code(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("doctor", "--url", f"http://127.0.0.1:{free_port()}") == 1
    assert "headrace up" in capsys.readouterr().out
    server.answers = [lambda x: x.reply(200, {"hello": "world"})]
    assert states(examine(server.url, None, None)) == {"server": "wrong"}
    server.answers = [is_headrace(), PAGE, lambda x: x.reply(401, refusal(-32001))]
    found = examine(server.url, None, None)[-1]
    assert (found.state, found.advice) == ("wrong", "Pass --api-key, or set HEADRACE_API_KEY.")


def test_redis_is_looked_at(server: ScriptedServer, valkey: Valkey) -> None:
    def look() -> dict[str, str]:
        server.answers = [is_headrace(), PAGE, lambda x: x.result({"models": [READY]})]
        return states(examine(server.url, None, valkey.url))

    with valkey.client() as redis:
        redis.config_set("appendonly", "yes")
        redis.config_set("maxmemory-policy", "noeviction")
        well = look()
        redis.config_set("appendonly", "no")
        redis.config_set("maxmemory-policy", "allkeys-lru")
        badly = look()
        redis.config_set("maxmemory-policy", "noeviction")
    assert (well["Valkey"], well["persistence"], well["eviction"]) == ("fine", "fine", "fine")
    assert (badly["persistence"], badly["eviction"]) == ("wrong", "wrong")
    server.answers = [is_headrace(), PAGE, lambda x: x.result({"models": [READY]})]
    assert states(examine(server.url, None, f"redis://127.0.0.1:{free_port()}"))["Redis"] == "wrong"
