"""Batches with a tiny model, for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.tiny_batch import KV_BYTES_PER_TOKEN, PAGE, Driver, StartBatch
from worker.engine_options import TransformersOptions


@pytest.fixture(scope="module")
def start_batch(tiny_model: Path) -> Iterator[StartBatch]:
    """Starts a batch with the tiny model; keyword arguments change its options."""
    drivers: list[Driver] = []
    options = TransformersOptions(
        model_source=str(tiny_model),
        slots=6,
        page_size=PAGE,
        kv_memory_gib=4096 * KV_BYTES_PER_TOKEN / 2**30,
        max_batch_tokens=24,
        prefill_chunk=8,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def start(**changes: Any) -> Driver:
        drivers.append(Driver(options.model_copy(update=changes)))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.batch.stop(hard_stop=True)
    torch.set_num_threads(threads)
