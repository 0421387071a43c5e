"""The Lua scripts that change tasks: each is a file and what it uses of what they share; arguments go by name."""

import re
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from shared.store.keys import Keys

Argument = str | bytes | int | None
"""None is nil in Lua; numbers arrive as text."""


SHARED = ("prelude", "order", "warm", "accounts", "results", "endings")
"""What scripts may use; each of these what is in those before it."""


def joined(shared: str, script: str) -> str:
    """The script behind the definitions that it uses: Redis makes each function anew in every run.

    A definition begins with `local` at the beginning of a line, and uses only those before it.
    """
    shared, script = (re.sub("--.*", "", text) for text in (shared, script))
    for definition in reversed(re.split("^(?=local )", shared, flags=re.MULTILINE)[1:]):
        names = re.match(r"local (?:function )?([\w, ]+)", definition)
        assert names is not None, definition
        if {*_words(names[1])} & {*_words(script)}:
            script = definition + script
    return script


_words = re.compile(r"\w+").findall


class Scripts:
    """Some of the scripts of `lua/`, each one step that happens whole or not at all."""

    def __init__(self, redis: Redis, keys: Keys, *names: str) -> None:
        lua = files("shared.store") / "lua"
        shared = "".join((lua / f"{name}.lua").read_text() for name in SHARED)
        self._prefix = keys.prefix
        self._scripts = {
            name: redis.register_script(joined(shared, (lua / f"{name}.lua").read_text())) for name in names
        }

    async def run(self, name: str, task_id: str, **arguments: Argument) -> list[Any]:
        """The script's reply."""
        reply = await self._scripts[name](args=self._args(task_id, arguments))
        return reply if isinstance(reply, list) else [reply]

    async def add_to(self, pipeline: Pipeline, name: str, task_id: str, **arguments: Argument) -> None:
        """Puts a run of the script into the pipeline."""
        await self._scripts[name](args=self._args(task_id, arguments), client=pipeline)

    def _args(self, task_id: str, arguments: dict[str, Argument]) -> list[str | bytes | int]:
        args: list[str | bytes | int] = [self._prefix, task_id]
        for name, value in arguments.items():
            if value is not None:
                args += [name, value]
        return args
