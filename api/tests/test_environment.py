"""The API runs in an environment that has neither torch nor transformers."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ABSENT = {"torch", "transformers", "tokenizers"}


def closure(name: str) -> set[str]:
    """The distributions that installing `name` installs, all requirements of requirements followed."""
    found: set[str] = set()
    waiting = [Requirement(name)]
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in found:
            continue
        found.add(str(wanted))
        extras = wanted.extras or {""}
        for requirement in map(Requirement, requirements(wanted.name)):
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
                requirement.marker = None
                waiting.append(requirement)
    return {canonicalize_name(Requirement(text).name) for text in found}


def requirements(name: str) -> list[str]:
    """What a distribution requires; of our own what the checkout says, not what was installed from it once."""
    if not name.startswith("headrace-"):
        return importlib.metadata.requires(name) or []
    project = tomllib.loads((ROOT / name.removeprefix("headrace-") / "pyproject.toml").read_text())
    return list(project["project"]["dependencies"])


def link(distribution: importlib.metadata.Distribution, folder: Path) -> None:
    """Makes a distribution importable from `folder`, and nothing else of where it is installed."""
    for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
        link = folder / top
        if not link.exists() and top != "__pycache__":
            link.symlink_to(str(distribution.locate_file(top)))


def test_the_api_is_imported_where_there_is_no_torch(tmp_path: Path) -> None:
    distributions = closure("headrace-api")
    assert not distributions & ABSENT
    for name in distributions:
        link(importlib.metadata.distribution(name), tmp_path)
    path = [str(ROOT / "api/src"), str(ROOT / "shared/src"), str(tmp_path)]
    program = f"""
import sys, importlib.util
sys.path[:0] = {path}
import api.app
for name in {ABSENT}:
    assert importlib.util.find_spec(name) is None, name
"""
    # -I -S: no site-packages, no environment variables, no user site.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
