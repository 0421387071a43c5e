"""What CONTRIBUTING.md says of the dependencies is so."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"shared": "shared", "api": "api", "worker": "worker", "client": "headrace"}
"""The folder of each distribution, and the package in it."""
PARTS = {"pydantic_core": "pydantic"}
"""Modules of a distribution that another one is made of, in exactly one version."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(package: Path) -> set[str]:
    """Top-level modules that the code imports, wherever it does."""
    found: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    found |= {alias.name.partition(".")[0] for alias in names}
                case ast.ImportFrom(module=str(module), level=0):
                    found.add(module.partition(".")[0])
    return {PARTS.get(module, module) for module in found} - sys.stdlib_module_names - {package.name}


def named(folder: str) -> set[str]:
    """Distributions that the folder's pyproject.toml asks for, its extras included."""
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    extras = [wanted for extra in project.get("optional-dependencies", {}).values() for wanted in extra]
    return {canonical(re.split(r"[^\w.-]", wanted)[0]) for wanted in [*project["dependencies"], *extras]}


@pytest.mark.parametrize(("folder", "package"), OURS.items(), ids=list(OURS))
def test_a_distribution_names_what_it_imports(folder: str, package: str) -> None:
    distributions = {**packages_distributions(), **{module: [f"headrace-{folder}"] for folder, module in OURS.items()}}
    names = named(folder)
    missing = {
        module
        for module in imported(ROOT / folder / "src" / package)
        if not names & {canonical(name) for name in distributions.get(module, [module])}
    }
    assert missing == set()
