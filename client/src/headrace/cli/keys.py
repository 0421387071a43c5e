"""`headrace keys create | list | revoke | rotate`: the API keys of a server, in their file."""

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.common import Output, OutputOption, print_json
from headrace.key_file import Entry, KeyFile, KeyFileError

UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke the API keys of a server.")

File = Annotated[
    Path,
    typer.Option("--file", envvar="HEADRACE_API_KEYS", help="Of the keys: what the server's HEADRACE_API_KEYS names."),
]
Name = Annotated[str, typer.Argument(help="Of the key, in logs and in these commands.")]
Limit = Annotated[int | None, typer.Option(min=1)]
FILE = Path("api-keys.json")


class Priority(StrEnum):
    """Of tasks."""

    high = "high"
    normal = "normal"
    low = "low"


def duration(text: str) -> timedelta:
    """From `90d`, `24h` or `30m`."""
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is not a number of days (90d), hours (24h) or minutes (30m)")
    return int(found[1]) * UNITS[found[2]]


def key_name(text: str) -> str:
    """As the server takes it."""
    if not re.fullmatch(r"[\w.-]{1,64}", text, re.ASCII):
        raise typer.BadParameter("a key's name has 1 to 64 letters, digits, '.', '_' and '-'")
    return text


def tenant_name(text: str) -> str:
    """As the server takes it."""
    if not text or ":" in text or not text.isprintable() or len(text) > 128:
        raise typer.BadParameter("a tenant's name has 1 to 128 printable characters, and no ':'")
    return text


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(help="Of the key, in logs and in these commands.", parser=key_name, metavar="NAME")
    ],
    tenant: Annotated[
        str, typer.Option(help="Whose tasks and conversations are the key's.", parser=tenant_name, metavar="NAME")
    ],
    file: File = FILE,
    policy: Annotated[
        str | None, typer.Option(help="One of the file's `policies`, instead of the options below.", metavar="NAME")
    ] = None,
    models: Annotated[str | None, typer.Option(help="That it may use, with commas.", metavar="NAMES")] = None,
    scopes: Annotated[
        str | None, typer.Option(help="Of ask, read and admin, with commas.", metavar="NAMES", show_default="ask,read")
    ] = None,
    highest_priority: Annotated[Priority | None, typer.Option(help="That its tasks get.")] = None,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Whether what it sends may be kept beyond the end of its task.")
    ] = True,
    weight: Annotated[
        float | None,
        typer.Option(help="Its share of a model's slots beside others.", min=0.001, show_default="1"),
    ] = None,
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
    tokens_per_day: Limit = None,
    unfinished_tasks: Limit = None,
    waiting_tasks: Limit = None,
    open_streams: Limit = None,
    expires_in: Annotated[
        timedelta | None, typer.Option(help="Days, hours or minutes.", parser=duration, metavar="90d")
    ] = None,
    output: OutputOption = Output.text,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    limits = {
        "requestsPerMinute": requests_per_minute,
        "tokensPerMinute": tokens_per_minute,
        "tokensPerDay": tokens_per_day,
        "unfinishedTasks": unfinished_tasks,
        "waitingTasks": waiting_tasks,
        "openStreams": open_streams,
    }
    wished = {
        "models": models and [model.strip() for model in models.split(",")],
        "scopes": scopes and [scope.strip() for scope in scopes.split(",")],
        "highestPriority": highest_priority and highest_priority.value,
        "weight": weight,
        "limits": {limit: most for limit, most in limits.items() if most is not None},
    }
    own: Entry = {field: value for field, value in wished.items() if value}
    if not store:
        own["store"] = False
    if policy and own:
        raise KeyFileError("--policy names what the key may do, so that no other option can")
    expires = None if expires_in is None else datetime.now(UTC) + expires_in
    _show(name, KeyFile(file).create(name, tenant, policy or own or None, expires), file, output)


@app.command("list")
def list_keys(file: File = FILE, output: OutputOption = Output.text) -> None:
    """Name the keys, their tenants, and what each may do."""
    entries = KeyFile(file).entries()
    if output is Output.json:
        print_json([_without_hashes(entry) for entry in entries])
        return
    for entry in entries:
        said = [f"{entry['id']}: {entry['tenant']}"]
        if entry.get("policy"):
            said.append(json.dumps(entry["policy"]))
        if expires := entry.get("expires"):
            over = datetime.fromisoformat(expires) <= datetime.now(UTC)
            said.append(f"{'expired' if over else 'expires'} {expires}")
        if replaced := entry.get("replaced"):
            said.append(f"the secret before holds until {replaced['expires']}")
        print(", ".join(said))


@app.command()
def rotate(
    name: Name,
    file: File = FILE,
    grace: Annotated[
        timedelta, typer.Option(help="How long the old secret still holds.", parser=duration, metavar="1d")
    ] = "1d",  # type: ignore[assignment]  # typer parses defaults too
    output: OutputOption = Output.text,
) -> None:
    """Give a key a new secret and print it, once."""
    _show(name, KeyFile(file).rotate(name, grace), file, output)


@app.command()
def revoke(name: Name, file: File = FILE, output: OutputOption = Output.text) -> None:
    """Remove a key: a server that follows the file refuses it within seconds."""
    KeyFile(file).revoke(name)
    if output is Output.json:
        print_json({"id": name, "revoked": True})
        return
    print(f"{name} is revoked: a server that follows {file} refuses it within seconds")


def _show(name: str, key: str, file: Path, output: Output) -> None:
    """The key alone on standard output, so that a script can take it from there."""
    if output is Output.json:
        print_json({"id": name, "key": key})
    else:
        print(key)
    print(f"Keep it: it is not shown again. Its hash is in {file}.", file=sys.stderr)


def _without_hashes(entry: Entry) -> Entry:
    shown = {field: value for field, value in entry.items() if field not in ("sha256", "replaced")}
    return {**shown, "replaced": {"expires": entry["replaced"]["expires"]}} if entry.get("replaced") else shown
