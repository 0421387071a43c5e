"""The folders of code, each with the sentence that its `__init__.py` says of it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("shared/src/shared", "api/src/api", "worker/src/worker", "client/src/headrace")


def rooms_table() -> str:
    """A row for each folder. Raises ValueError for one that says nothing of itself."""
    rows = ["| folder | what is in it |", "|---|---|"]
    for folder in (room for source in SOURCES for room in _rooms(ROOT / source)):
        name = folder.relative_to(ROOT).as_posix()
        sentence = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        if not sentence:
            raise ValueError(f"{name}/__init__.py has no docstring")
        rows.append(f"| `{name}` | {' '.join(sentence.split())} |")
    return "\n".join(rows)


def _rooms(folder: Path) -> Iterator[Path]:
    yield folder
    for inner in sorted(folder.rglob("__init__.py")):
        if inner.parent != folder:
            yield inner.parent
