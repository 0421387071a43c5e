"""What is not installed is left out, and the run says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import programs

ROOT = Path(__file__).parents[2]
NEEDING = ("charts/tests/test_monitoring.py", "charts/tests/test_proxies.py", "client/tests/test_readme.py")
WITHOUT_PROGRAMS = """
import sys, pytest
from testbed import programs
programs.find = lambda name: None
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_the_missing_packages_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find", lambda name: None if name in ("nginx", "promtool") else f"/bin/{name}")
    assert programs.missing_packages() == ["nginx-light", "prometheus"]


def test_a_run_names_each_program_that_it_left_tests_out_for() -> None:
    command = [sys.executable, "-c", WITHOUT_PROGRAMS, "-q", "-k", "nginx or alerts_fire or shell_commands", *NEEDING]
    run = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    for name in ("nginx", "promtool", "curl"):
        assert f"left out: {name} is not installed (Debian's package {programs.PACKAGES[name]})" in run.stdout
    assert "passed" not in run.stdout


@pytest.mark.needs("nginx")
def test_a_program_is_found_outside_of_the_path_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin-of-nobody")
    assert programs.program("nginx") == "/usr/sbin/nginx"
