"""Writes the model that the worker's engine runs as a plain folder for other programs."""

import shutil
import sys
from pathlib import Path

import torch

from worker.engine_options import PACKAGED_MODEL, TransformersOptions
from worker.engines.checkpoint.gguf import converted
from worker.engines.checkpoint.tokenizer import load_tokenizer
from worker.model_files import locate


def main(folder: Path) -> None:
    options = TransformersOptions(model_source=PACKAGED_MODEL)
    shutil.copytree(converted(locate(options), torch.float32, lambda detail, fraction: None), folder)
    load_tokenizer(options).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
