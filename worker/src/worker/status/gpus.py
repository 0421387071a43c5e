"""Memory and utilisation of the GPUs that this process sees, from NVML; nothing where there is none."""

import logging
from collections.abc import Iterable
from typing import Any

import pynvml
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)


class Gpus(Collector):
    """Asks the driver at each scrape."""

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self._handles: list[Any] | None = None

    def collect(self) -> Iterable[Metric]:
        """Empty without a driver, or while it does not answer."""
        try:
            if self._handles is None:
                self._handles = self._find()
            return self._ask(self._handles)
        except pynvml.NVMLError as error:
            log.debug("NVML does not answer: %s", error)
            self._handles = self._handles or []
            return []

    def _find(self) -> list[Any]:
        self._nvml.nvmlInit()
        return [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(self._nvml.nvmlDeviceGetCount())]

    def _ask(self, handles: list[Any]) -> list[Metric]:
        used = GaugeMetricFamily("headrace_gpu_memory_used_bytes", "Memory in use, by any process.", labels=["gpu"])
        total = GaugeMetricFamily("headrace_gpu_memory_total_bytes", "Memory of the GPU.", labels=["gpu"])
        busy = GaugeMetricFamily("headrace_gpu_utilization_ratio", "Time in which a kernel ran.", labels=["gpu"])
        for index, handle in enumerate(handles):
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            used.add_metric([str(index)], memory.used)
            total.add_metric([str(index)], memory.total)
            busy.add_metric([str(index)], self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        return [used, total, busy] if handles else []
