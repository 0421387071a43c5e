"""Loading a tokenizer."""

import subprocess
import sys
from pathlib import Path

import pytest

from worker.engine_options import EngineOptions
from worker.engines.checkpoint.tokenizer import load_tokenizer
from worker.model_files import ModelUnavailable


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="has no tokenizer"):
        load_tokenizer(EngineOptions(model_source=str(tmp_path)))


def test_the_tokenizer_loads_without_torch(engine_options: EngineOptions) -> None:
    """The worker's own process tokenizes; 300 MB and seconds of torch stay in the engine's."""
    load_tokenizer(engine_options)
    code = """
import sys
from worker.engines.transformers import process as engine_process
from worker.engine_options import EngineOptions
from worker.engines.checkpoint.tokenizer import load_tokenizer
tokenizer = load_tokenizer(EngineOptions(model_source=sys.argv[1], cache_dir=sys.argv[2]))
tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hello'}])
sys.exit('torch is loaded' if 'torch' in sys.modules else 0)
"""
    arguments = [sys.executable, "-c", code, engine_options.model_source, str(engine_options.cache_dir)]
    subprocess.run(arguments, check=True, timeout=60)
