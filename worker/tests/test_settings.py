import pytest
from pydantic import ValidationError

from worker.engine_options import EngineOptions, TransformersOptions
from worker.engine_protocol import SamplingDefaults
from worker.settings import WorkerSettings


def test_an_engine_gets_its_own_options_and_no_others() -> None:
    settings = WorkerSettings(model_source="org/name", slots=4, page_size=64)
    assert settings.engine_options == TransformersOptions(model_source="org/name", slots=4, page_size=64)
    scripted = WorkerSettings(model_source="scripted:?token_ms=1", slots=4)
    assert scripted.engine_options == EngineOptions(model_source="scripted:?token_ms=1", slots=4)


def test_a_source_that_is_a_script_means_the_scripted_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert WorkerSettings().engine == "transformers"
    monkeypatch.setenv("HEADRACE_MODEL_SOURCE", "scripted:?token_ms=20")
    assert WorkerSettings().engine == "scripted"


def test_a_models_own_sampling_holds_where_the_operator_has_not_set_another() -> None:
    qwen = SamplingDefaults(temperature=0.7, top_p=0.8, top_k=20)
    assert WorkerSettings().sampling(qwen) == qwen
    assert WorkerSettings(default_temperature=0).sampling(qwen) == SamplingDefaults(0.0, 0.8, 20)
    assert WorkerSettings(default_top_p=0.95).sampling(qwen) == SamplingDefaults(0.7, 0.95, 20)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"quantization": "bitsandbytes-4bit", "device": "cpu"}, "needs a GPU"),
        ({"quantization": "bitsandbytes-8bit", "model_source": "/models/m.gguf"}, "is quantized already"),
        ({"device_map": "auto", "device": "cuda:1"}, "over several GPUs"),
        ({"quantization": "gptq"}, "bitsandbytes-4bit"),
        ({"dtype": "float8"}, "bfloat16"),
        ({"device": "tpu"}, "cuda"),
        ({"model_name": "No Spaces"}, "pattern"),
        ({"slots": 0}, "greater than or equal to 1"),
        ({"engine_stall_seconds": 1}, "greater than or equal to 2"),
        ({"engine": "vroom"}, "'transformers', 'vllm' or 'scripted'"),
        ({"engine": "scripted"}, "set model_source to one"),
        ({"engine": "transformers", "model_source": "scripted:"}, "set engine to scripted, or name a model"),
        ({"model_source": "scripted:", "attention": "sdpa"}, "attention is a setting of the engine transformers"),
    ],
)
def test_a_wrong_combination_says_what_to_do(fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        WorkerSettings.model_validate(fields)
