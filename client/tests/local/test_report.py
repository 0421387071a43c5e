"""What `headrace up` tells of its start: bars on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from headrace.local import report as module
from headrace.local.report import Report


def test_a_log_gets_a_line_when_a_step_takes_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Report() as report:
        report.begin("Valkey")
        report.progress("Configuration loaded")
        report.begin("the model")
        report.progress("loading weights 10 %")
        monkeypatch.setattr(module, "TELL_SECONDS", 0.0)
        report.progress("loading weights 60 %")
        report.tell("It is [done].")
    assert capsys.readouterr().err == "headrace: 0 s; the model: loading weights 60 %\nheadrace: It is [done].\n"


def test_a_terminal_gets_a_bar_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(module, "Console", lambda **_: terminal)
    with Report() as report:
        report.begin("Valkey")
        report.begin("the model")
        report.progress("loading weights 50 %")
        report.tell("The API is ready.")
    shown = screen.getvalue()
    for line in ("✓ Valkey", "✓ the model", "headrace: The API is ready."):
        assert line in shown
