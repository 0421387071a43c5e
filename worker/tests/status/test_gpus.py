"""GPU gauges, on a stand-in for NVML."""

from typing import Any

import pynvml
from prometheus_client import CollectorRegistry, generate_latest

from testbed.nvml import OneGpu
from worker.status.gpus import Gpus


class NoDriver:
    """What a machine without a driver says, the same error each time."""

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's names
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def exposed(nvml: Any) -> str:
    registry = CollectorRegistry()
    registry.register(Gpus(nvml))
    generate_latest(registry)
    return generate_latest(registry).decode()


def test_each_gpu_says_how_full_and_how_busy_it_is() -> None:
    nvml = OneGpu()
    text = exposed(nvml)
    assert 'headrace_gpu_memory_used_bytes{gpu="0"} 3.221225472e+10' in text
    assert 'headrace_gpu_memory_total_bytes{gpu="0"} 8.589934592e+10' in text
    assert 'headrace_gpu_utilization_ratio{gpu="0"} 0.75' in text
    assert nvml.started == 1


def test_without_a_driver_there_is_nothing_to_say() -> None:
    assert exposed(NoDriver()) == ""
