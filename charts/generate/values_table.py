"""Makes the table of values in README.md from the `# --` comments of values.yaml."""

import json
import re
from collections.abc import Iterator
from typing import Any

Path = tuple[str, ...]
"""Of a value: the keys that lead to it."""

BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"


def with_table(readme: str, values_text: str, values: dict[str, Any]) -> str:
    """The README with a new table. Raises ValueError for a value without its comment."""
    head, _, rest = readme.partition(BEGIN)
    tail = rest.partition(END)[2]
    rows = ["| value | default | meaning |", "|---|---|---|"]
    comments = dict(_comments(values_text))
    for path, default in _leaves(values, comments, ()):
        name = ".".join(path)
        if path not in comments:
            raise ValueError(f"{name} has no `# --` line in values.yaml")
        shown = json.dumps(default, separators=(", ", ": ")).replace("|", "\\|")
        rows.append(f"| `{name}` | `{shown}` | {comments[path].replace('|', chr(92) + '|')} |")
    return f"{head}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{tail}"


def _comments(text: str) -> Iterator[tuple[Path, str]]:
    """Path of a key -> the `# --` comment above it."""
    path: list[tuple[int, str]] = []
    comment: str | None = None
    for line in text.splitlines():
        if match := re.match(r" *# -- (.*)", line):
            comment = match[1]
        elif comment is not None and (match := re.match(r" *# (.*)", line)):
            comment += " " + match[1]
        elif match := re.match(r"( *)([A-Za-z][\w-]*):", line):
            indent = len(match[1])
            path = [step for step in path if step[0] < indent] + [(indent, match[2])]
            if comment is not None:
                yield tuple(name for _, name in path), comment
            comment = None
        else:
            comment = None


def _leaves(
    values: Any, comments: dict[tuple[str, ...], str], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Everything that has a comment or nothing below it."""
    if isinstance(values, dict) and values and path not in comments:
        for name, value in values.items():
            yield from _leaves(value, comments, (*path, name))
    else:
        yield path, values
