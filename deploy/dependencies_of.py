"""Prints what the distributions in the named folders depend on, without their own packages: one image layer of its own.

Usage: dependencies_of.py shared 'api[kubernetes]'
"""

import re
import sys
import tomllib
from pathlib import Path


def dependencies(target: str) -> list[str]:
    """The requirements of one `folder` or `folder[extra,...]`."""
    match = re.fullmatch(r"([^\[]+)(?:\[(.+)\])?", target)
    assert match, target
    project = tomllib.loads((Path(match[1]) / "pyproject.toml").read_text())["project"]
    found: list[str] = list(project["dependencies"])
    for extra in (match[2] or "").split(","):
        if extra:
            found += project["optional-dependencies"][extra]
    return [requirement for requirement in found if not requirement.startswith("headrace")]


if __name__ == "__main__":
    print("\n".join(sorted({line for target in sys.argv[1:] for line in dependencies(target)})))
