"""The batch in this process, with a tiny random model; and what it needs of transformers' insides."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.generation.continuous_batching import continuous_api, model_runner, requests

from testbed import tiny_batch
from testbed.tiny_batch import KV_BYTES_PER_TOKEN, Driver, StartBatch
from worker.engine_protocol import Generate, Logprobs
from worker.engines.step_budget import SCORED_AT_ONCE
from worker.engines.transformers import attention as per_request
from worker.engines.transformers import torch_flash
from worker.engines.transformers.llama_layers import LlamaLayers
from worker.engines.transformers.step_runner import StepRunner


def varied(seed: int) -> list[Generate]:
    """Prompts of many lengths, two with a long prefix in common, answers of many lengths."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(100, 40_000, (length,), generator=generator).tolist())

    shared = ids(33)
    lengths = (1, 5, 19, 70)
    prompts = [*(ids(length) for length in lengths), (*shared, *ids(3)), (*shared, *ids(9))]
    return [Generate(f"r{i}", prompt, max_new_tokens=4 + 6 * i) for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def stock(start_batch: StartBatch) -> Driver:
    return start_batch(attention="sdpa")


@pytest.fixture(scope="module")
def ours(start_batch: StartBatch) -> Driver:
    return start_batch(attention="per_request")


@pytest.mark.parametrize("attention", ["sdpa", "per_request"])
def test_logprobs_are_those_of_the_models_own_forward_pass(
    start_batch: StartBatch, tiny_model: Path, attention: str
) -> None:
    """Of prompts and answers: in chunks, side by side, behind cached prefixes and with a temperature."""
    driver = start_batch(attention=attention)
    requests = [
        dataclasses.replace(
            request, logprobs=3, scores_prompt=number != 2, temperature=0.7 * (number % 2), top_k=5, max_new_tokens=9
        )
        for number, request in enumerate(varied(7))
    ]
    answers = driver.tokens(*requests)
    plain = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for request, answer in zip(requests, answers, strict=True):
        outputs = [one for step in driver.steps for one in step.outputs if one.request_id == request.request_id]
        of_prompt = [logprobs for output in outputs for logprobs in output.prompt_logprobs]
        of_answer = [logprobs for output in outputs for logprobs in output.logprobs]
        ids = [*request.prompt_ids, *answer]
        with torch.no_grad():
            expected = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
        told: list[Logprobs | None] = [*of_prompt] or [None] * len(request.prompt_ids)
        told += of_answer
        assert len(told) == len(ids)
        assert bool(of_prompt) == request.scores_prompt
        for place, logprobs in list(enumerate(told))[1:]:
            if logprobs is not None:
                assert logprobs.own == pytest.approx(expected[place - 1, ids[place]].item(), abs=1e-3)
                values, _ = expected[place - 1].topk(3)
                assert [logprob for _, logprob in logprobs.top] == pytest.approx(values.tolist(), abs=1e-3)


def test_a_scored_prompt_takes_no_more_rows_of_a_step_than_there_are(start_batch: StartBatch) -> None:
    driver = start_batch(max_batch_tokens=600, prefill_chunk=600)
    rows: list[int] = []
    sampler = driver.batch._sampler
    score = sampler.score

    def counted(scores: torch.Tensor) -> None:
        rows.append(len(scores))
        score(scores)

    sampler.score = counted  # type: ignore[method-assign]
    ids = tuple(range(100, 400))
    scored = [Generate(f"s{at}", ids, max_new_tokens=2, logprobs=0, scores_prompt=True) for at in range(3)]
    driver.tokens(*scored, Generate("plain", ids, max_new_tokens=2))
    assert sum(rows) == 3 * 299
    assert max(rows) <= SCORED_AT_ONCE + len(scored)
    assert max(step.stats.running for step in driver.steps) == 4


def attention_mask(driver: Driver) -> torch.Tensor | None:
    processor: Any = driver.batch.batch_processor
    mask: torch.Tensor | None = processor.inputs_and_outputs.attention_mask
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_per_request_attention_gives_stocks_tokens_in_mixed_batches(stock: Driver, ours: Driver, seed: int) -> None:
    """Prompts in chunks beside decoding requests, pages shared between requests, lengths far apart."""
    assert ours.tokens(*varied(seed)) == stock.tokens(*varied(seed))
    # Once more: now the prompts' pages come from the prefix cache.
    assert ours.tokens(*varied(seed)) == stock.tokens(*varied(seed))


@pytest.mark.parametrize("page_size", [5, 24, 32])
def test_pages_of_any_size_give_stocks_tokens(start_batch: StartBatch, stock: Driver, page_size: int) -> None:
    """What is copied of them at once divides them: single tokens, eight, sixteen."""
    ours = start_batch(attention="per_request", page_size=page_size)
    for _ in range(2):
        assert ours.tokens(*varied(4)) == stock.tokens(*varied(4))


SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}
ROPE = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE["original_max_position_embeddings"] = 64
MODELS: dict[str, tuple[type[PreTrainedModel], PreTrainedConfig]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, rope_parameters=ROPE)),
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE)),
}


@pytest.mark.parametrize("name", MODELS)
def test_one_pass_gives_the_tokens_of_transformers_layers(start_batch: StartBatch, tmp_path: Path, name: str) -> None:
    kind, config = MODELS[name]
    torch.manual_seed(1)
    made = kind(config)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:  # norms and biases: one and zero as they are made
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    made.save_pretrained(tmp_path)
    stock, ours = (start_batch(model_source=str(tmp_path), attention=each) for each in ("sdpa", "auto"))
    assert [type(layer) for layer in ours.model.get_decoder().layers] == [LlamaLayers]
    for seed in range(2):
        assert ours.tokens(*varied(seed)) == stock.tokens(*varied(seed))


def test_layers_that_compute_something_else_stay_as_they_are(start_batch: StartBatch, tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SHAPE, hidden_act="gelu")).save_pretrained(tmp_path)
    stock, ours = (start_batch(model_source=str(tmp_path), attention=each) for each in ("sdpa", "auto"))
    assert len(ours.model.get_decoder().layers) == SHAPE["num_hidden_layers"]
    assert ours.tokens(*varied(0)) == stock.tokens(*varied(0))


def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What torch's `varlen_attn` computes, which exists on GPUs alone; rows of no request are left as they were."""
    left, right = window_size
    assert right == 0
    output = torch.full_like(query, torch.nan)
    for (q, q_end), (k, k_end) in zip(itertools.pairwise(cu_seq_q), itertools.pairwise(cu_seq_k), strict=True):
        if q == q_end:
            continue
        assert q_end - q <= max_q
        assert k_end - k <= max_k
        seen = torch.ones(int(q_end - q), int(k_end - k), dtype=torch.bool).tril(int(k_end - k - q_end + q))
        if left >= 0:
            seen = seen.triu(int(k_end - k - q_end + q) - left)
        own = query[q:q_end].transpose(0, 1)[None]
        keys, values = (states[k:k_end].transpose(0, 1)[None] for states in (key, value))
        attended = scaled_dot_product_attention(own, keys, values, seen, scale=scale, enable_gqa=enable_gqa)
        output[q:q_end] = attended[0].transpose(0, 1)
    return output


class Replayed:
    """In the place of a CUDA graph: computes again what was recorded, from the same memory."""

    def __init__(self, forward: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._forward, self._arguments = forward, arguments
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self._forward(*self._arguments)

    def reset(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("graphs", [False, True])
def test_flash_attention_and_graphs_of_a_gpu_give_stocks_tokens(
    start_batch: StartBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphs: bool, window: int | None
) -> None:
    """All around the kernels, which need a GPU: sizes are padded, and the sampler stands behind what is recorded."""
    recorded: list[Replayed] = []
    longest: list[int] = []

    def record(runner: StepRunner, forward: Callable[..., None], _: object, *arguments: Any) -> None:
        forward(*arguments)
        recorded.append(Replayed(forward, arguments))
        longest.append(max(each.query_length for each in runner.inputs_and_outputs.requests_in_batch))  # type: ignore[union-attr]  # not the asynchronous ones
        runner.inputs_and_outputs.set_graph(recorded[-1])  # type: ignore[arg-type]

    config = MistralConfig(**SHAPE, sliding_window=window)
    MistralForCausalLM(config).save_pretrained(tmp_path)
    stock = start_batch(model_source=str(tmp_path), attention="sdpa")
    monkeypatch.setattr(tiny_batch, "arrange", lambda _: None)  # packed weights are a CPU's, too
    monkeypatch.setattr(per_request, "install", lambda _: False)
    monkeypatch.setattr(torch_flash, "suits", lambda _: True)  # `works` is asked, of the kernels in their place
    monkeypatch.setattr(torch_flash, "varlen_attn", packed_attention)
    monkeypatch.setattr(StepRunner, "_capture_graph", record)
    monkeypatch.setattr(model_runner, "get_memory_pools", lambda: (None, None))
    ours = start_batch(model_source=str(tmp_path), attention="auto", cuda_graphs=None if graphs else False)
    assert attention_mask(ours) is None
    drawn = [dataclasses.replace(one, temperature=1.0, seed=7, top_p=0.9, logprobs=1) for one in varied(1)]
    for requests_ in (varied(0), varied(0), drawn):  # the second time behind cached prefixes
        assert ours.tokens(*requests_) == stock.tokens(*requests_)
    assert (sum(one.replays for one in recorded) > 20) == graphs
    assert set(longest) == ({1} if graphs else set()), "no graph of a step with a prompt"


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        (packed_attention, None),
        (lambda query, *_, **__: torch.zeros_like(query), "is wrong here"),
        (lambda query, *_, **__: torch.full_like(query, torch.nan), "is wrong here"),
        (
            lambda query, keys, values, q, _, *rest, **named: packed_attention(
                query, keys, values, q, q, *rest, **named
            ),
            "is wrong here",
        ),
        (varlen_attn, "does not run here"),
        (lambda query, *_, window_size: query, "does not run here"),
    ],
)
def test_flash_attention_that_fails_or_errs_on_a_machine_is_not_used(
    stock: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kernels: Any, said: str | None
) -> None:
    monkeypatch.setattr(torch_flash, "varlen_attn", kernels)
    assert torch_flash.works(stock.model) == (said is None)
    assert (said or "") in caplog.text
    assert not torch_flash.suits(stock.model), "no GPU"


def test_per_request_attention_replaces_the_mask_and_its_memory(stock: Driver, ours: Driver) -> None:
    assert attention_mask(stock) is not None
    assert attention_mask(ours) is None
    assert ours.model.config._attn_implementation == "per_request"


def test_a_preempted_request_goes_on_with_the_same_tokens(start_batch: StartBatch, ours: Driver) -> None:
    """A KV cache for one and a half of three answers: requests lose their pages and are computed again."""
    requests_ = [
        Generate(f"p{i}", tuple(range(1000 * i + 100, 1000 * i + 120)), max_new_tokens=60, temperature=t, seed=i)
        for i, t in enumerate((0.0, 1.0, 1.0))
    ]
    alone = [ours.tokens(request)[0] for request in requests_]
    small = start_batch(attention="per_request", kv_memory_gib=120 * KV_BYTES_PER_TOKEN / 2**30)
    assert small.tokens(*requests_) == alone
    assert small.steps[-1].stats.preemptions > 0


def test_the_context_is_no_larger_than_the_kv_cache(start_batch: StartBatch, ours: Driver) -> None:
    small = start_batch(attention="per_request", kv_memory_gib=120 * KV_BYTES_PER_TOKEN / 2**30)
    assert (small.context_length, ours.context_length) == (120, 1024)
    assert len(small.tokens(Generate("all", tuple(range(100, 180)), max_new_tokens=40))[0]) == 40


def test_decoding_requests_are_not_held_up_by_a_long_prompt(ours: Driver) -> None:
    ours.add(Generate("decoding", (500, 501), max_new_tokens=100))
    ours.wait_for(lambda: len(ours._tokens["decoding"]) > 2)
    before = len(ours._tokens["decoding"])
    ours.add(Generate("long", tuple(range(2000, 2400)), max_new_tokens=1))
    ours.wait_for(lambda: "long" in ours._ended)
    # 400 prompt tokens, at most 8 beside a decoding request: the other one got a token in each of the 50 steps.
    assert len(ours._tokens["decoding"]) - before >= 49
    ours.wait_for(lambda: "decoding" in ours._ended)
    ours._ended.clear()
    ours._tokens.clear()


def test_a_burst_behind_one_answer_is_not_taken_in_one_by_one(ours: Driver) -> None:
    ours.add(Generate("decoding", (500, 501), max_new_tokens=200))
    ours.wait_for(lambda: len(ours._tokens["decoding"]) > 2)
    before = len(ours._tokens["decoding"])
    burst = [Generate(f"burst {at}", tuple(range(2000 + at, 2040 + at)), max_new_tokens=1) for at in range(10)]
    for request in burst:
        ours.add(request)
    ours.wait_for(lambda: ours._ended.issuperset(request.request_id for request in burst))
    # 400 prompt tokens, as in the test above, in much fewer than 50 steps.
    assert len(ours._tokens["decoding"]) - before <= 25
    ours.wait_for(lambda: "decoding" in ours._ended)
    ours._ended.clear()
    ours._tokens.clear()


def test_no_result_of_transformers_piles_up(ours: Driver) -> None:
    assert ours.batch.output_router.output_queue.empty()


def test_transformers_calls_what_the_batch_overrides() -> None:
    """Private names that `Batch`, `Sequence` and `Sampler` stand on: an upgrade that moves one must fail here."""
    manager, processor = continuous_api.ContinuousBatchingManager, continuous_api.ContinuousBatchProcessor
    assert "_generation_loop_body" in manager._run_generation_loop.__code__.co_names
    assert "output_router" in manager._create_batch_processor.__code__.co_names
    assert "logit_processor" in manager._create_batch_processor.__code__.co_names
    assert "_wake_up_loop" in manager.add_request.__code__.co_names
    assert "update_and_check_completion" in processor.update_batch.__code__.co_names
    assert "position_offset" in {field.name for field in dataclasses.fields(requests.RequestState)}
    from transformers.generation.continuous_batching.offloading_manager import OffloadingManager

    assert "create_equivalent_initial_request" in OffloadingManager.offload_requests.__code__.co_names
