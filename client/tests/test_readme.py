"""The README's commands work when pasted, on a running stack with the real model."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.up_process import Up

README = Path(__file__).parents[2] / "README.md"
DEMO_URL = "http://127.0.0.1:8000"
START_SECONDS = 180.0
"""Bound on loading the model; its first start on a machine converts it."""
MARK = "=====\n"


class Demo:
    """A folder in which the local stack runs, as `make demo` runs it in the checkout."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url

    def run(self, *command: str) -> str:
        """What a command prints; the README's address stands for the stack's."""
        command = tuple(part.replace(DEMO_URL, self._url) for part in command)
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    os.symlink(sys.prefix, folder / ".venv")
    up = Up(data_dir=folder / ".headrace", source=None)
    try:
        up.says("Ctrl-C stops it", within=START_SECONDS)
        yield Demo(folder, up.addresses()["HEADRACE_URL"])
    finally:
        up.close()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def events(stream: str) -> list[dict[str, Any]]:
    return [
        {"id": frame.partition("\n")[0], **json.loads(frame.partition("data: ")[2])}
        for frame in stream.split("\n\n")
        if "data: " in frame
    ]


@pytest.mark.needs("curl")
def test_the_shell_commands_give_what_the_text_says(demo: Demo) -> None:
    completed, called, answered, resumed, celery = demo.run(
        "bash", "-euo", "pipefail", "-c", f"echo {MARK}".join(blocks("bash"))
    ).split(MARK)
    assert "Paris" in json.loads(completed)["choices"][0]["message"]["content"]
    (call,) = next(event["toolCalls"] for event in events(called) if event["type"] == "tool_calls")
    assert call["name"] == "get_weather"
    assert call["arguments"]["city"] in ("Paris", "Rome")
    assert events(called)[-1]["state"] == "SUCCESS"

    answer = next(event for event in events(answered) if event["type"] == "final_text")
    assert answer["text"].strip()
    assert events(answered)[-1]["state"] == "SUCCESS"

    ids = [event["id"] for event in events(answered)]
    assert events(resumed) == events(answered)[ids.index("id: 1-5") + 1 :]
    assert celery.strip() == answer["text"].strip()


def test_the_python_program_runs(demo: Demo) -> None:
    (program,) = blocks("python")
    assert "Paris" in demo.run(sys.executable, "-c", program)


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    root = README.parent
    text = (root / page).read_text()
    named = set(re.findall(r"`((?:api|worker|shared|client)/[\w/.-]+)`", text)) | {
        link for link in re.findall(r"\]\(([\w/.-]+)\)", text) if "://" not in link
    }
    assert [name for name in sorted(named) if not (root / name).exists()] == []
