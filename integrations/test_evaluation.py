"""What evaluation harnesses ask for: the values of the packaged model's own forward pass."""

import httpx
import pytest
import torch

from worker.engine_options import PACKAGED_MODEL, TransformersOptions
from worker.engines.checkpoint.tokenizer import load_tokenizer
from worker.engines.transformers.weights import load_weights

CONTEXT = "The capital of France is"
CONTINUATIONS = [" Paris", " Rome, the city of bridges", " grün 🦊"]


def test_loglikelihoods_are_those_of_the_models_own_forward_pass(url: str) -> None:
    """As lm-evaluation-harness's `local-completions` asks for them: tokens, one more of them, and all echoed."""
    options = TransformersOptions(model_source=PACKAGED_MODEL)
    tokenizer = load_tokenizer(options)
    model = load_weights(options, lambda detail, fraction: None)
    prompts = [tokenizer.encode(CONTEXT + continuation) for continuation in CONTINUATIONS]
    context = len(tokenizer.encode(CONTEXT))
    body = {"prompt": prompts, "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1234}
    reply = httpx.post(f"{url}/v1/completions", json={"model": "smollm2-135m-instruct"} | body, timeout=120)
    assert reply.status_code == 200, reply.text
    for ids, choice in zip(prompts, reply.json()["choices"], strict=True):
        told = choice["logprobs"]
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        # The last one is that of the token that was generated.
        own = told["token_logprobs"][context:-1]
        top = told["top_logprobs"][context:-1]
        assert len(own) == len(ids) - context
        for place, (value, likely) in enumerate(zip(own, top, strict=True), context):
            assert value == pytest.approx(expected[place - 1, ids[place]].item(), abs=1e-3)
            greedy = expected[place - 1].argmax().item() == ids[place]
            assert (value == max(likely.values())) == greedy
        assert choice["text"].startswith(tokenizer.decode(ids))
    text = {"prompt": CONTEXT, "max_tokens": 0, "logprobs": 5, "echo": True}
    alone = httpx.post(f"{url}/v1/completions", json={"model": "smollm2-135m-instruct"} | text, timeout=60).json()
    [choice] = alone["choices"]
    assert (choice["text"], "".join(choice["logprobs"]["tokens"])) == (CONTEXT, CONTEXT)
    assert alone["usage"]["completion_tokens"] == 0
