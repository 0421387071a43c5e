"""How the services are started as processes: their commands, and their settings as environment variables."""

import sys
from pathlib import Path
from typing import Literal


def command(
    service: Literal["api", "worker"], *interpreter_options: str, python: str | Path = sys.executable
) -> list[str]:
    """What starts it; -P: not the folder of that name in the current one."""
    return [str(python), "-P", *interpreter_options, "-m", service]


def settings(**named: object) -> dict[str, str]:
    """`redis_url="…"` -> `HEADRACE_REDIS_URL=…`."""
    return {f"HEADRACE_{name.upper()}": str(value) for name, value in named.items()}
