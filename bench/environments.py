"""The peers' environments: one virtual environment each, outside the checkout, from the pins beside this file."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "headrace" / "bench"
PEERS = ("sse-starlette", "litserve", "bentoml", "ray", "litellm", "transformers-serve", "llama-cpp")


def python_of(peer: str) -> Path:
    """The interpreter of the peer's environment, which is made when it is not there or its pins have changed."""
    pins = HERE / f"peers/requirements-{peer}.txt"
    folder = CACHE / peer
    python, stamp = folder / "bin" / "python", folder / "installed"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == digest):
        print(f"bench: making the environment of {peer} in {folder}", flush=True)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(["nice", "-n", "10", *pip, "-r", str(pins)], check=True)
        stamp.write_text(digest)
    return python


def converted_model() -> Path:
    """A folder with the weights that the worker's engine runs and their tokenizer, for other programs."""
    folder = CACHE / "model"
    if not (folder / "config.json").exists():
        # In a process of its own: this one must not load torch.
        subprocess.run([sys.executable, "-m", "bench.peers.convert", str(folder)], check=True, cwd=CHECKOUT)
    return folder
