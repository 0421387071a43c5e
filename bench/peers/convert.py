"""Writes the model that the worker's engine runs as a plain folder for other programs."""

import sys
from pathlib import Path

from worker.engine_options import PACKAGED_MODEL, TransformersOptions
from worker.engines.checkpoint.tokenizer import load_tokenizer
from worker.engines.transformers.weights import load_weights


def main(folder: Path) -> None:
    options = TransformersOptions(model_source=PACKAGED_MODEL, device="cpu")
    load_tokenizer(options).save_pretrained(folder)
    model = load_weights(options, lambda detail, fraction: None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
