"""Programs that some tests use and that pip does not install. `python -m testbed.programs` prints what is missing."""

import os
import shutil

PACKAGES = {
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "curl": "curl",
    "nginx": "nginx-light",
    "node": "nodejs",
    "npm": "npm",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}
"""Program -> Debian's package of it."""


def find(program: str) -> str | None:
    """Where it is; also in /usr/sbin, which is not in everybody's PATH."""
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")))


def program(name: str) -> str:
    """Where it is, for a test that is marked with `needs(name)`."""
    found = find(name)
    assert found, f"{name} is not installed: the test wants the mark needs({name!r})"
    return found


def missing_packages() -> list[str]:
    """Debian's packages without which some tests are left out."""
    return sorted({package for name, package in PACKAGES.items() if find(name) is None})


if __name__ == "__main__":
    print(*missing_packages())
