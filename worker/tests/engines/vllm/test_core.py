"""What vLLM's core is made of. Its environment is its own: `make test-vllm`."""

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

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
