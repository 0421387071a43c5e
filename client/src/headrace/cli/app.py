"""The commands, in the order in which somebody meets them, and what becomes of their errors."""

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from headrace.cli import doctor as checks
from headrace.cli import keys, requests, stack
from headrace.cli.common import (
    REFUSED,
    UNREACHABLE,
    ApiKey,
    Output,
    OutputOption,
    TaskId,
    Url,
    notices,
    print_json,
)
from headrace.cli.conversation import follow
from headrace.cli.started import started
from headrace.client import DEFAULT_URL, Client
from headrace.errors import HeadraceError, TaskExpired, TaskNotFound, Unreachable

ConversationName = Annotated[str, typer.Argument(metavar="NAME", help="As `conversationId` gave it.")]

app = typer.Typer(
    name="headrace",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Client and local stack of Headrace, the durable LLM inference server.",
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 server unreachable, 130 interrupted.",
)
app.command("up")(stack.up)
app.command("chat")(requests.chat)
app.command("ask")(requests.ask)
app.command("submit")(requests.submit)
app.add_typer(keys.app, name="keys")


@app.command()
def watch(
    task: TaskId,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    last_event_id: Annotated[str | None, typer.Option(help="Go on behind this event.", metavar="ID")] = None,
    output: OutputOption = Output.text,
) -> None:
    """Follow a task to its end; with `-o json` its events, one a line. Ctrl-C leaves it running."""
    with Client(url, api_key=api_key) as server:
        if output is Output.text:
            follow(server, task, last_event_id)
            return
        for event in server.stream(task, last_event_id=last_event_id):
            print(event.model_dump_json(exclude_none=True), flush=True)


@app.command()
def get(task: TaskId, url: Url = DEFAULT_URL, api_key: ApiKey = None, output: OutputOption = Output.text) -> None:
    """Show a task's state, its place in the queue, and its text so far."""
    with Client(url, api_key=api_key) as server:
        view = server.get(task)
    if output is Output.json:
        print(view.model_dump_json(exclude_none=True))
        return
    print(view.state if view.position is None else f"{view.state}, position {view.position}")
    if view.text:
        print(view.text)
    if view.error is not None:
        notices().print(f"{view.error.code}: {view.error.message}", markup=False)


@app.command()
def cancel(task: TaskId, url: Url = DEFAULT_URL, api_key: ApiKey = None, output: OutputOption = Output.text) -> None:
    """Stop a task."""
    with Client(url, api_key=api_key) as server:
        done = server.cancel(task)
    if output is Output.json:
        print(done.model_dump_json())
    else:
        print("cancelled" if done.cancelled else f"not cancelled: the task has ended ({done.state})")


@app.command()
def tasks(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Most tasks shown.", min=1)] = 20,
    output: OutputOption = Output.text,
) -> None:
    """List the tasks that were started from here and that the server still knows, newest first."""
    found = []
    with Client(url, api_key=api_key) as server:
        for task in started(url):
            with contextlib.suppress(TaskNotFound, TaskExpired):
                found.append((task, server.get(task.task_id)))
            if len(found) == limit:
                break
    if output is Output.json:
        print_json([{"taskId": view.task_id, "state": view.state, "startedAt": task.at} for task, view in found])
        return
    for task, view in found:
        at = datetime.fromtimestamp(task.at).astimezone().isoformat(" ", "seconds")
        waiting = "" if view.position is None else f", position {view.position}"
        print(f"{view.task_id}  {at}  {view.state}{waiting}")


conversation = typer.Typer(no_args_is_help=True, help="Look at a conversation that the server keeps.")
app.add_typer(conversation, name="conversation")


@conversation.command("get")
def get_conversation(
    name: ConversationName, url: Url = DEFAULT_URL, api_key: ApiKey = None, output: OutputOption = Output.text
) -> None:
    """Show its messages, and the task whose answer it waits for."""
    with Client(url, api_key=api_key) as server:
        kept = server.conversation(name)
    if output is Output.json:
        print(kept.model_dump_json(exclude_none=True))
        return
    for message in kept.messages:
        print(f"{message['role']}: {message.get('content') or ''}")
    if kept.open_turn is not None:
        notices().print(f"waits for the answer of task {kept.open_turn}", markup=False)


@conversation.command("delete")
def delete_conversation(
    name: ConversationName, url: Url = DEFAULT_URL, api_key: ApiKey = None, output: OutputOption = Output.text
) -> None:
    """Forget it."""
    with Client(url, api_key=api_key) as server:
        deleted = server.delete_conversation(name)
    if output is Output.json:
        print_json({"deleted": deleted})
    else:
        print("deleted" if deleted else "there is no such conversation")


@app.command()
def models(url: Url = DEFAULT_URL, api_key: ApiKey = None, output: OutputOption = Output.text) -> None:
    """List the server's models and what each is doing."""
    with Client(url, api_key=api_key) as server:
        found = server.models()
    if output is Output.json:
        print_json([model.model_dump(mode="json") for model in found])
        return
    for model in found:
        state = f"{model.ready_workers} ready" if model.ready else model.detail or "not ready"
        default = " (default)" if model.default else ""
        print(f"{model.name}{default}: {state}, {model.running} running, {model.waiting} waiting")


@app.command()
def doctor(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    redis_url: Annotated[
        str | None, typer.Option(envvar="HEADRACE_REDIS_URL", help="Look at this Redis too.", metavar="URL")
    ] = None,
    output: OutputOption = Output.text,
) -> None:
    """Look at what is reachable, at versions, clock and Redis, and say what to do about what is wrong."""
    findings = checks.examine(url, api_key, redis_url)
    if output is Output.json:
        print_json([finding.as_dict() for finding in findings])
    else:
        checks.show(findings, Console(highlight=False))
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(REFUSED)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """In a checkout: what `python -m bench` does."""
    if not Path("bench/__main__.py").is_file():
        raise HeadraceError("the bench is a part of the checkout: run this in its folder")
    os.execv(sys.executable, [sys.executable, "-m", "bench", *context.args])


@app.command()
def version(output: OutputOption = Output.text) -> None:
    """Print the version."""
    number = importlib.metadata.version("headrace")
    if output is Output.json:
        print_json({"version": number})
    else:
        print(number)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits. Errors are one line on stderr and an exit code."""
    try:
        app(arguments, prog_name="headrace")
    except HeadraceError as error:
        notices().print(f"headrace: {error}", markup=False, soft_wrap=True)
        sys.exit(UNREACHABLE if isinstance(error, Unreachable) else REFUSED)
    raise AssertionError("typer exits")
