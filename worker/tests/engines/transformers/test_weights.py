"""Loading weights: what cannot be loaded says why, before anything is downloaded."""

from typing import Any

import pytest

from worker.engine_options import TransformersOptions
from worker.engines.transformers.weights import load_weights
from worker.model_files import ModelUnavailable


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({"device": "cuda"}, ["sees no GPU", "runtimeClassName", "Set the device to cpu or auto"]),
        ({"quantization": "bitsandbytes-8bit"}, ["needs a GPU", "Set the quantization to none"]),
    ],
)
def test_what_cannot_be_loaded_says_why_and_what_to_do(changes: dict[str, Any], sentences: list[str]) -> None:
    with pytest.raises(ModelUnavailable) as failed:
        load_weights(TransformersOptions(model_source="org/name", **changes), lambda detail, fraction: None)
    for sentence in sentences:
        assert sentence in str(failed.value)
