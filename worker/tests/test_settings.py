import pytest
from pydantic import ValidationError

from worker.engine_protocol import EngineOptions
from worker.settings import WorkerSettings


def test_the_defaults_of_the_engine_are_the_engines_own() -> None:
    options = WorkerSettings().engine_options
    defaults = EngineOptions(model=options.model, cache_dir=options.cache_dir, logs=options.logs)

    assert options == defaults


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"quantization": "bitsandbytes-4bit", "device": "cpu"}, "needs a GPU"),
        ({"quantization": "bitsandbytes-8bit", "model_source": "/models/m.gguf"}, "is quantized already"),
        ({"device_map": "auto", "device": "cuda:1"}, "over several GPUs"),
        ({"quantization": "gptq"}, "bitsandbytes-4bit"),
        ({"model_name": "No Spaces"}, "pattern"),
        ({"slots": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_combination_says_what_to_do(fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        WorkerSettings.model_validate(fields)
