"""The init container that fills a model cache: once, and never half."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker import fetch as fetch_module
from worker.engine_options import EngineOptions
from worker.fetch import fetch, mark_of
from worker.model_files import ModelFiles, ModelUnavailable
from worker.settings import WorkerSettings


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(model_source="hf://Qwen/Qwen2.5-14B-Instruct", cache_dir=tmp_path)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    done: list[str] = []

    def locate(options: EngineOptions) -> ModelFiles:
        done.append(options.model_source)
        return ModelFiles(tmp_path / "snapshot")

    monkeypatch.setattr(fetch_module, "locate", locate)
    return done


def test_a_model_is_fetched_once(settings: WorkerSettings, downloads: list[str]) -> None:
    assert fetch(settings)
    assert not fetch(settings)
    assert downloads == ["hf://Qwen/Qwen2.5-14B-Instruct"]


def test_another_revision_is_fetched_again(settings: WorkerSettings, downloads: list[str]) -> None:
    fetch(settings)
    assert fetch(settings.model_copy(update={"model_revision": "v2"}))
    assert len(downloads) == 2


def test_a_download_that_fails_leaves_no_mark(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def locate(_: EngineOptions) -> ModelFiles:
        raise ModelUnavailable("The hub cannot be reached.")

    monkeypatch.setattr(fetch_module, "locate", locate)
    with pytest.raises(ModelUnavailable):
        fetch(settings)
    assert not mark_of(settings).exists()


def test_the_program_says_what_is_wrong_and_exits_with_1(settings: WorkerSettings) -> None:
    env = os.environ | {"HEADRACE_MODEL_SOURCE": "/no/such/folder", "HEADRACE_CACHE_DIR": str(settings.cache_dir)}
    program = [sys.executable, "-m", "worker.fetch"]
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "There is no model at /no/such/folder" in done.stderr


def test_wrong_settings_are_told_without_their_values() -> None:
    env = os.environ | {"HEADRACE_SLOTS": "sesame"}
    program = [sys.executable, "-m", "worker.fetch"]
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("headrace worker: HEADRACE_SLOTS: ")
    assert (done.stderr.count("\n"), "sesame" in done.stderr) == (1, False)
