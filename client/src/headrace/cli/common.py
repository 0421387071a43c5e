"""What several commands share: the server's address, the form of their output, the exit codes."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console

REFUSED, UNREACHABLE = 1, 3
"""Exit codes; typer exits with 2 for a command line that it does not understand, and with 130 when interrupted."""


class Output(StrEnum):
    """How a command says what it has to say."""

    text = "text"
    json = "json"


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{text!r} does not begin with http:// or https://")
    return text


Url = Annotated[str, typer.Option(envvar="HEADRACE_URL", callback=_url, help="The server.", metavar="URL")]
ApiKey = Annotated[str | None, typer.Option(envvar="HEADRACE_API_KEY", help="Its API key.", metavar="KEY")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="`json` for programs.")]
TaskId = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")]


def notices() -> Console:
    """Where everything is told that is no answer: stderr, so that a pipe gets the answer alone."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """One line, also into a pipe that is read line by line."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
