"""What vLLM's core is made of. Its environment is its own: `make test-vllm`."""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker.engine_options import VllmOptions

pytest.importorskip("vllm", reason="`make test-vllm` runs this, in an environment of its own")


@pytest.mark.filterwarnings("ignore")  # of what vLLM imports
def test_a_machine_without_libnuma_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.engines.vllm.core import make_core

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    config: Any = SimpleNamespace(device_config=SimpleNamespace(device_type="cpu"))
    with pytest.raises(ImportError, match=r"needs libnuma \(libnuma.so.1: .*\); install it"):
        make_core(config)


@pytest.mark.filterwarnings("ignore")  # of what vLLM imports
def test_a_vllm_for_gpus_says_that_it_sees_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vllm.platforms.interface import UnspecifiedPlatform

    from worker.engines.vllm import core

    monkeypatch.setattr(core, "current_platform", UnspecifiedPlatform())
    with pytest.raises(ValueError, match=r"is for GPUs, and there is none to be seen\. .* vLLM for CPUs"):
        core.configure(VllmOptions(engine="vllm"), tmp_path)
