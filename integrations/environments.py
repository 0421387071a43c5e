"""An environment for each program of other people's, outside the checkout: their versions would fight in one."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed.programs import program

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "headrace" / "clients"


def python_with(*packages: str) -> Path:
    """The interpreter of a virtual environment with these packages, which is made when it is not there."""
    folder = _folder("python", packages)
    python, stamp = folder / "bin" / "python", folder / "installed"
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True
        )
        stamp.touch()
    return python


def node_modules_with(*packages: str) -> Path:
    """A folder in which node finds these packages."""
    folder = _folder("node", packages)
    if not (folder / "installed").exists():
        (folder / "package.json").write_text(json.dumps({"private": True, "type": "module"}))
        command = [program("npm"), "install", "--no-audit", "--no-fund", "--silent", *packages]
        subprocess.run(command, cwd=folder, check=True)
        (folder / "installed").touch()
    return folder


def _folder(kind: str, packages: Sequence[str]) -> Path:
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    folder = CACHE / f"{kind}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
