"""A stand-in for NVML, for machines without a GPU: the calls that `worker.status.gpus` makes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    used: int = 30 << 30
    total: int = 80 << 30


@dataclass(frozen=True)
class Utilization:
    """Percent of the time in which the GPU did something."""

    gpu: int = 75


class OneGpu:
    """A machine with one."""

    started = 0
    """How often NVML was initialised."""

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's names
        self.started += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Memory:  # noqa: N802
        return Memory()

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Utilization:  # noqa: N802
        return Utilization()
