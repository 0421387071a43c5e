"""The tasks that were started here: their ids outlive the terminal. No question and no answer is kept."""

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from headrace.calls import Message, Options
from headrace.client import Client
from headrace.whole_file import held, replace

KEPT = 200
"""The newest ones, of all servers together."""


@dataclass(frozen=True)
class StartedTask:
    """A task of this user on this computer."""

    task_id: str
    url: str
    at: float
    """Unix time, s."""


def state_folder() -> Path:
    """Where the command line keeps what it remembers."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "headrace"


def start(client: Client, messages: str | list[Message], options: Options) -> str:
    """Creates a task, remembers it and returns its id. What cannot be remembered is started all the same."""
    task_id = client.create(messages, **options)
    line = json.dumps({"task_id": task_id, "url": client.url, "at": time.time()})
    with contextlib.suppress(OSError):
        state_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        with held(_file()):
            with _file().open("a") as file:
                file.write(line + "\n")
            _shorten()
    return task_id


def started(url: str) -> list[StartedTask]:
    """What was started at this server and is remembered, newest first."""
    tasks = []
    for line in _lines():
        with contextlib.suppress(ValueError, TypeError):
            tasks.append(StartedTask(**json.loads(line)))
    return [task for task in reversed(tasks) if task.url == url]


def _file() -> Path:
    return state_folder() / "tasks.jsonl"


def _lines() -> list[str]:
    try:
        return _file().read_text().splitlines()
    except (OSError, ValueError):
        return []


def _shorten() -> None:
    lines = _lines()
    if len(lines) >= 2 * KEPT:
        replace(_file(), "".join(f"{line}\n" for line in lines[-KEPT:]))
