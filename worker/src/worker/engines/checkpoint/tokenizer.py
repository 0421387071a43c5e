"""Loads a model's tokenizer with its chat template; without torch once a GGUF's tokenizer is on disk."""

from pathlib import Path
from typing import TYPE_CHECKING

from worker.engine_options import EngineOptions
from worker.engines.checkpoint.gguf import unreadable
from worker.model_files import ModelUnavailable, built_once, locate
from worker.text.reading_time import TimedRegex

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(options: EngineOptions) -> "PreTrainedTokenizerFast":
    """The model's tokenizer with its chat template. Cheap, and without torch once a GGUF's tokenizer is on disk."""
    files = locate(options)
    folder = files.folder
    if files.gguf is not None:
        folder = files.folder / "tokenizer"
        with built_once(folder) as scratch:
            if scratch is not None:
                from transformers import AutoTokenizer

                try:
                    tokenizer = AutoTokenizer.from_pretrained(files.gguf.parent, gguf_file=files.gguf.name)
                except Exception as error:
                    raise unreadable(files.gguf, error) from error
                tokenizer.save_pretrained(scratch)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelUnavailable(
            f"The folder {folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}). Copy the tokenizer's files into it."
        )
    tokenizer = _loaded(folder)
    if getattr(tokenizer, "response_template", None) is not None:
        time_patterns()
    return tokenizer


def _loaded(folder: Path) -> "PreTrainedTokenizerFast":
    if (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)  # type: ignore[no-any-return]  # transformers' is Any
    from transformers import AutoTokenizer

    # The few models without tokenizer.json: transformers converts theirs.
    return AutoTokenizer.from_pretrained(folder)  # type: ignore[return-value]


def time_patterns() -> None:
    """From here on, response templates have their patterns matched by `TimedRegex`: transformers knows no bound."""
    from transformers.utils.chat_parsing import content_parsers, response_templates

    for module in (content_parsers, response_templates):
        vars(module)["re"] = TimedRegex
