"""GGUF files: weights that transformers converts, once per machine."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from gguf import GGUFReader, Keys

from worker.model_files import ModelFiles, ModelUnavailable, built_once

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, float], None]
"""Called with a sentence for a person and a fraction of the loading."""


def converted(files: ModelFiles, dtype: "torch.dtype", progress: Progress) -> Path:
    """The GGUF weights as safetensors, converted at most once per machine, file, dtype and transformers version."""
    from transformers import AutoModelForCausalLM, GgufConfig

    assert files.gguf is not None
    folder = files.folder / str(dtype).removeprefix("torch.")
    with built_once(folder) as scratch:
        if scratch is not None:
            progress("converting GGUF (only the first start does this)", 0.1)
            try:
                model = AutoModelForCausalLM.from_pretrained(
                    files.gguf.parent,
                    gguf_file=files.gguf.name,
                    dtype=dtype,
                    quantization_config=GgufConfig(dequantize=True),
                )
                wanted = sampling_in(files.gguf)
            except Exception as error:
                raise unreadable(files.gguf, error) from error
            model.generation_config.update(**wanted)
            model.save_pretrained(scratch)
    return folder


def sampling_in(gguf: Path) -> dict[str, Any]:
    """What the file says of sampling, in the words of a generation config: transformers does not look for it."""
    fields = GGUFReader(gguf).fields
    words = {
        "temperature": Keys.General.SAMPLING_TEMP,
        "top_p": Keys.General.SAMPLING_TOP_P,
        "top_k": Keys.General.SAMPLING_TOP_K,
    }
    said = {word: fields[key].contents() for word, key in words.items() if key in fields}
    return {"do_sample": True, **said} if said.get("temperature", 0) > 0 else {}


def unreadable(gguf: Path, error: Exception) -> ModelUnavailable:
    """What to raise where transformers cannot read a GGUF file."""
    return ModelUnavailable(
        f"The GGUF file {gguf} cannot be read: {error}. The file may be cut off, or of an architecture that "
        f"transformers {transformers.__version__} does not know; use the model's safetensors instead."
    )
