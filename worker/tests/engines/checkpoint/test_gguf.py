"""GGUF files: converted once, then a folder like any other."""

from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from transformers import PreTrainedModel

from worker.engine_options import TransformersOptions
from worker.engines.checkpoint.gguf import sampling_in
from worker.engines.checkpoint.tokenizer import load_tokenizer
from worker.engines.transformers.weights import load_weights
from worker.model_files import ModelUnavailable, locate


def silent(detail: str, fraction: float) -> None:
    """No progress shown."""


def test_a_broken_gguf_file_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    options = TransformersOptions(model_source=str(broken), cache_dir=tmp_path / "cache")
    with pytest.raises(ModelUnavailable, match=r"broken\.gguf cannot be read"):
        load_weights(options, silent)
    with pytest.raises(ModelUnavailable, match=r"broken\.gguf cannot be read"):
        load_tokenizer(options)
    assert [path.suffix for path in locate(options).folder.iterdir()] == [".lock", ".lock"]


@pytest.fixture(scope="module")
def packaged(engine_options: TransformersOptions) -> PreTrainedModel:
    """The packaged model, loaded once, and converted before that where it was not yet."""
    return load_weights(engine_options, silent)


@pytest.mark.usefixtures("packaged")
def test_a_gguf_model_is_converted_once(engine_options: TransformersOptions) -> None:
    details: list[str] = []
    model = load_weights(engine_options, lambda detail, fraction: details.append(detail))
    assert details[:2] == ["finding the model", "loading weights"]
    assert details[-1] == "loading weights 100 %"
    assert not any("converting" in detail for detail in details)
    assert (model.config.num_hidden_layers, model.config.vocab_size, model.training) == (30, 49152, False)


def test_a_conversion_is_a_folder_like_any_other(
    packaged: PreTrainedModel, engine_options: TransformersOptions, tmp_path: Path
) -> None:
    load_tokenizer(engine_options).save_pretrained(tmp_path)
    for path in (locate(engine_options).folder / "float32").iterdir():
        (tmp_path / path.name).symlink_to(path)
    copy = TransformersOptions(model_source=str(tmp_path))
    assert load_weights(copy, silent).num_parameters() == packaged.num_parameters()
    assert load_tokenizer(copy).encode("Hello") == load_tokenizer(engine_options).encode("Hello")


@pytest.mark.parametrize(
    ("said", "config"),
    [
        ({}, {}),
        ({"temp": 0.5}, {"do_sample": True, "temperature": 0.5}),
        (
            {"temp": 0.75, "top_p": 0.5, "top_k": 20},
            {"do_sample": True, "temperature": 0.75, "top_p": 0.5, "top_k": 20},
        ),
        ({"temp": 0.0, "top_k": 20}, {}),
    ],
    ids=["nothing", "temperature", "all", "greedy"],
)
def test_what_a_file_says_of_sampling_is_taken_over(
    tmp_path: Path, said: dict[str, Any], config: dict[str, Any]
) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    for word, value in said.items():
        add = writer.add_int32 if isinstance(value, int) else writer.add_float32
        add(f"general.sampling.{word}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert sampling_in(tmp_path / "model.gguf") == config
