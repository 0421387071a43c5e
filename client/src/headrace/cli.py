"""The command line: `headrace up | chat | models | task | bench | version`."""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from headrace.calls import Message, Options
from headrace.chat import answer, converse
from headrace.client import DEFAULT_URL, Client
from headrace.errors import HeadraceError, Unreachable
from headrace.local.plan import Plan

FAILED, UNREACHABLE, INTERRUPTED = 1, 3, 130
"""Exit codes; argparse exits with 2 for a command line that it does not understand."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command. Errors are one line on stderr and an exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        sys.exit(UNREACHABLE if isinstance(error, Unreachable) else FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `headrace task stream ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="Client and local stack of Headrace, the durable LLM inference server.",
        epilog="Exit codes: 1 refused or failed, 2 wrong usage, 3 server unreachable, 130 interrupted. "
        "HEADRACE_URL and HEADRACE_API_KEY stand for --url and --api-key.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_up(commands.add_parser("up", help="start Valkey, API and worker on this machine"))

    server = argparse.ArgumentParser(add_help=False)
    server.add_argument(
        "--url", type=_url, default=os.environ.get("HEADRACE_URL", DEFAULT_URL), help="default: %(default)s"
    )
    server.add_argument("--api-key", default=os.environ.get("HEADRACE_API_KEY"))

    chat = commands.add_parser("chat", parents=[server], help="ask a model, or talk with it")
    chat.add_argument("prompt", nargs="?", help="left out: a prompt on a terminal, else standard input")
    chat.add_argument("--model", help="default: the server's")
    chat.add_argument("--system", help="instructions that stand above the conversation")
    chat.add_argument("--temperature", type=float)
    chat.add_argument("--max-tokens", type=int)
    chat.add_argument("--seed", type=int)
    chat.set_defaults(run=_chat)

    commands.add_parser("models", parents=[server], help="list the server's models").set_defaults(run=_models)

    task = commands.add_parser("task", help="look at one task").add_subparsers(required=True, metavar="COMMAND")
    for name, run, what in (
        ("get", _get, "its state and text so far"),
        ("cancel", _cancel, "stop it"),
        ("stream", _stream, "its events, one JSON object a line"),
    ):
        command = task.add_parser(name, parents=[server], help=what)
        command.add_argument("task_id")
        command.set_defaults(run=run)
    command.add_argument("--last-event-id", help="go on behind this event")

    bench = commands.add_parser("bench", help="in a checkout: what `python -m bench` does", add_help=False)
    bench.add_argument("arguments", nargs=argparse.REMAINDER)
    bench.set_defaults(run=_bench)

    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def _add_up(parser: argparse.ArgumentParser) -> None:
    data_home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    once = os.environ.get("DEMO_ONCE", "") not in ("", "0")
    add = parser.add_argument
    add("--port", type=_port, default=8000, help="of the API; the next one is internal (default: %(default)s, 0: free)")
    add("--model-source", help="hub id, local folder, GGUF file (default: the packaged SmolLM2-135M-Instruct)")
    add("--model-name", help="what requests call the model")
    add("--workers", type=_count, default=1, help="worker processes, each with a model of its own (default: 1)")
    add("--data-dir", type=Path, default=data_home / "headrace", help="Valkey's data and logs (default: %(default)s)")
    add("--env", type=_assignment, action="append", default=[], metavar="NAME=VALUE", help="a setting of the services")
    add("--ask", metavar="QUESTION", help="ask this when the model is ready")
    add("--once", action="store_true", default=once, help="stop after the answer (also: DEMO_ONCE=1)")
    parser.set_defaults(run=_up)


def _up(options: argparse.Namespace) -> None:
    try:
        from headrace.local import up
    except ModuleNotFoundError as missing:  # fcntl: the rest of the command line runs on Windows too
        if missing.name != "fcntl":
            raise
        raise HeadraceError("`up` runs on Linux and macOS only; --url names a server for the other commands") from None
    plan = Plan(
        port=options.port,
        data_dir=options.data_dir,
        workers=options.workers,
        model_source=options.model_source,
        model_name=options.model_name,
        environment=dict(options.env),
    )
    up.run(plan, options.ask, once=options.once)


def _chat(options: argparse.Namespace) -> None:
    names = ("model", "temperature", "max_tokens", "seed")
    wishes = cast(Options, {name: value for name in names if (value := getattr(options, name)) is not None})
    system: list[Message] = [{"role": "system", "content": options.system}] if options.system else []
    with _client(options) as client:
        if options.prompt is None and sys.stdin.isatty():
            converse(client, wishes, system)
        else:
            prompt = sys.stdin.read() if options.prompt is None else options.prompt
            answer(client, [*system, {"role": "user", "content": prompt}], wishes)


def _models(options: argparse.Namespace) -> None:
    with _client(options) as client:
        for model in client.models():
            state = f"{model.ready_workers} ready" if model.ready else "not ready"
            default = " (default)" if model.default else ""
            print(f"{model.name}{default}: {state}, {model.running} running, {model.waiting} waiting")


def _get(options: argparse.Namespace) -> None:
    with _client(options) as client:
        print(client.get(options.task_id).model_dump_json(indent=2, exclude_none=True))


def _cancel(options: argparse.Namespace) -> None:
    with _client(options) as client:
        done = client.cancel(options.task_id)
    print("cancelled" if done.cancelled else f"not cancelled: the task has ended ({done.state})")


def _stream(options: argparse.Namespace) -> None:
    with _client(options) as client:
        for event in client.stream(options.task_id, last_event_id=options.last_event_id):
            print(event.model_dump_json(exclude_none=True), flush=True)


def _bench(options: argparse.Namespace) -> None:
    if not Path("bench/__main__.py").is_file():
        raise HeadraceError("the bench is a part of the checkout: run this in its folder")
    os.execv(sys.executable, [sys.executable, "-m", "bench", *options.arguments])


def _version(_: argparse.Namespace) -> None:
    print(importlib.metadata.version("headrace"))


def _client(options: argparse.Namespace) -> Client:
    return Client(options.url, api_key=options.api_key)


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with http:// or https://")
    return text


def _port(text: str) -> int:
    if not 0 <= (port := int(text)) < 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65534")
    return port


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
