"""The compliance suite that servers of these APIs are measured with."""

import json
import subprocess
import sys

import pytest

from testbed.fake_worker import DEFAULT_MODEL

IMAGES = {"openai-chat": "chat-image-input", "anthropic": "anth-image-input"}
"""What a model that reads text only refuses."""
OF_SOME_MODELS = {"openai-chat": {"chat-reasoning-summary"}, "anthropic": {"anth-thinking-display"}}
"""What the suite asks of models of these makers only, by their names."""


@pytest.mark.parametrize("kind", IMAGES)
def test_the_suite_passes_but_for_images(url: str, kind: str) -> None:
    command = [sys.executable, "-m", "llm_comply.cli", "--json", "--format", kind, "-k", "none"]
    done = subprocess.run(
        [*command, "-u", f"{url}/v1", "-m", DEFAULT_MODEL], capture_output=True, text=True, timeout=300
    )
    results = {result["id"]: result for result in json.loads(done.stdout)["results"]}
    refused = results.pop(IMAGES[kind])
    assert "HTTP 400 (expected [200])" in refused["errors"]
    assert [result for result in results.values() if result["status"] == "failed" or "warnings" in result] == []
    assert {name for name, result in results.items() if result["status"] == "skipped"} == OF_SOME_MODELS[kind]
