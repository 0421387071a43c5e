"""`headrace up`."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.common import ApiKey
from headrace.errors import HeadraceError
from headrace.local.plan import Plan

DATA_HOME = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "headrace"


class Engine(StrEnum):
    """What can run a model."""

    transformers = "transformers"
    vllm = "vllm"


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def up(
    port: Annotated[
        int, typer.Option(min=0, max=65534, help="Of the API; the next one is internal. 0: free ones.")
    ] = 8000,
    engine: Annotated[
        Engine,
        typer.Option(help="What runs the model; vllm gets an environment of its own first (some GB, minutes)."),
    ] = Engine.transformers,
    model_source: Annotated[
        str | None,
        typer.Option(
            help="Hub id, local folder or GGUF file; default: the packaged SmolLM2-135M-Instruct.", metavar="SOURCE"
        ),
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="What requests call the model.", metavar="NAME")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes, each with a model of its own.")] = 1,
    data_dir: Annotated[Path, typer.Option(help="Valkey's data and logs.", metavar="FOLDER")] = DATA_HOME,
    env: Annotated[
        list[str] | None, typer.Option(help="A setting of the services; may come more than once.", metavar="NAME=VALUE")
    ] = None,
    ask: Annotated[str | None, typer.Option(help="Ask this when the model is ready.", metavar="QUESTION")] = None,
    api_key: ApiKey = None,
    once: Annotated[bool, typer.Option("--once", help="Stop after the answer (also: DEMO_ONCE=1).")] = False,
) -> None:
    """Start Valkey, API and worker on this machine, with the chat page, and stop them with Ctrl-C."""
    environment = dict(_assignment(text) for text in env or ())
    try:
        from headrace.local import up
    except ModuleNotFoundError as missing:  # fcntl: the rest of the command line runs on Windows too
        if missing.name != "fcntl":
            raise
        raise HeadraceError("`up` runs on Linux and macOS only; --url names a server for the other commands") from None
    plan = Plan(
        port=port,
        data_dir=data_dir,
        workers=workers,
        engine=engine.value,
        model_source=model_source,
        model_name=model_name,
        environment=environment,
        api_key=api_key,
    )
    up.run(plan, ask, once=once or os.environ.get("DEMO_ONCE", "") not in ("", "0"))
