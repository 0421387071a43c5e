"""The Lua scripts that change tasks: each is what they share and a file of its own; arguments go by name."""

from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from shared.store.keys import Keys

Argument = str | bytes | int | None
"""None is nil in Lua; numbers arrive as text."""


SHARED = ("prelude", "order", "warm", "accounts", "endings")
"""In front of every script."""


class Scripts:
    """Some of the scripts of `lua/`, each one step that happens whole or not at all."""

    def __init__(self, redis: Redis, keys: Keys, *names: str) -> None:
        lua = files("shared.store") / "lua"
        shared = "".join((lua / f"{name}.lua").read_text() for name in SHARED)
        self._prefix = keys.prefix
        self._scripts = {name: redis.register_script(shared + (lua / f"{name}.lua").read_text()) for name in names}

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
