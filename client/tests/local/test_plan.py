"""What `headrace up` is about to start."""

import pytest

from headrace.local import plan
from headrace.local.plan import Plan, StackError


def test_a_part_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "DISTRIBUTIONS", ("headrace", "headrace-of-tomorrow"))
    with pytest.raises(StackError, match="headrace-of-tomorrow is not installed"):
        plan.require_installed()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("scripted:?token_ms=5", "scripted"),
        ("Qwen/Qwen2.5-14B-Instruct", "qwen2.5-14b-instruct"),
        ("/models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.q4-1"),
    ],
)
def test_a_model_without_a_name_is_named_after_its_source(source: str, name: str) -> None:
    *workers, api = plan.services(Plan(model_source=source, workers=2), plan.Ports(1, 2, 3), "python")
    assert [worker.environment["HEADRACE_MODEL_NAME"] for worker in workers] == [name, name]
    assert api.environment["HEADRACE_MODELS"] == name
