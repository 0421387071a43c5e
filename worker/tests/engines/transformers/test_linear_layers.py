"""Linear layers as one matrix, and which form a machine gets."""

import weakref

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from worker.engine_protocol import LinearLayers
from worker.engines.transformers import linear_layers
from worker.engines.transformers.linear_layers import FORMS, Joined, JoinedLinear, Multiply, arrange

SHAPES = [(576, [576, 192, 192]), (576, [576]), (576, [1536, 1536]), (1536, [576]), (576, [49_152])]
"""Of the packaged model: inputs, outputs of each layer."""


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    made: LlamaForCausalLM = LlamaForCausalLM(config).eval()
    return made


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_packed_row_is_the_same_alone_and_among_others(inputs: int, outputs: list[int]) -> None:
    torch.manual_seed(1)
    joined = Joined([nn.Linear(inputs, each, bias=False) for each in outputs], "packed")
    rows = torch.randn(64, inputs)

    def multiplied(some: torch.Tensor) -> torch.Tensor:
        return torch.cat([joined.output(at, some) for at in range(len(outputs))], -1)

    with torch.no_grad():
        all_at_once = multiplied(rows)
        for count in (*range(1, 9), 12, 16, 20, 24, 32, 48, 63):
            assert torch.equal(multiplied(rows[:count]), all_at_once[:count]), count
            assert torch.equal(multiplied(rows[-count:]), all_at_once[-count:]), count


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_layer_computes_what_it_did_alone(form: LinearLayers, dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(1)
    alone = [nn.Linear(24, outputs, bias=bias, dtype=dtype) for outputs in (40, 8, 16)]
    joined = Joined(alone, form)
    layers = [JoinedLinear(joined, at) for at in range(3)]
    with torch.no_grad():
        for shape in ((24,), (1, 24), (3, 24), (2, 1, 24), (2, 5, 24)):
            inputs = torch.randn(shape, dtype=dtype)
            for layer, before in zip(layers, alone, strict=True):
                assert torch.allclose(layer(inputs), before(inputs), rtol=1e-2, atol=1e-2), shape


def test_layers_that_are_asked_in_any_order_or_with_other_inputs_answer_for_theirs() -> None:
    torch.manual_seed(1)
    alone = [nn.Linear(24, 8) for _ in range(2)]
    joined = Joined(alone, "packed")
    a, b = torch.randn(3, 24), torch.randn(3, 24)
    with torch.no_grad():
        for at, inputs in ((0, a), (1, b), (0, b), (1, b), (1, a), (0, a), (0, a)):
            assert torch.allclose(joined.output(at, inputs), alone[at](inputs), atol=1e-5)
        joined.output(1, a)
        a.mul_(2)  # of what was computed before, nothing is left
        assert torch.allclose(joined.output(0, a), alone[0](a), atol=1e-5)


@pytest.mark.parametrize(("packed", "chosen"), [(1.2, "plain"), (1.05, "packed")])
def test_the_faster_form_is_chosen_and_no_other_copy_is_kept(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, packed: float, chosen: LinearLayers
) -> None:
    ids = torch.randint(512, (1, 9))
    with torch.no_grad():
        before = model(ids).logits
    monkeypatch.setattr(linear_layers, "_least_seconds", lambda ways, inputs: {"plain": 1.0, "packed": packed})
    assert arrange(model) == chosen
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert sum(parameter.ndim == 2 for parameter in model.parameters()) == 1, "the embeddings alone"
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, before, atol=1e-5)


def test_layers_with_the_same_input_are_multiplied_once(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [weakref.ref(module) for module in model.modules() if type(module) is nn.Linear]
    monkeypatch.setattr(linear_layers, "_faster", lambda groups: "packed")
    pack, left, multiplied = FORMS["packed"], [], []

    def packed(weight: torch.Tensor) -> tuple[torch.Tensor, Multiply]:
        left.append(sum(layer() is not None for layer in layers))
        stored, multiply = pack(weight)

        def counted(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            multiplied.append(weight)
            return multiply(rows, weight, bias)

        return stored, counted

    monkeypatch.setitem(FORMS, "packed", packed)
    arrange(model)
    # The head; of each layer q, k, v; o; gate, up; down. Only those that are being joined are there twice.
    assert left == [15, 14, 11, 10, 8, 7, 4, 3, 1]
    with torch.no_grad():
        model(torch.randint(512, (1, 9)))
    assert len(multiplied) == len(left)


def test_layers_that_differ_stay_apart(model: LlamaForCausalLM) -> None:
    attention = model.model.layers[0].self_attn
    attention.k_proj = nn.Linear(64, 64, bias=True)
    ids = torch.randint(512, (1, 9))
    with torch.no_grad():
        before = model(ids).logits
        arrange(model)
        assert torch.allclose(model(ids).logits, before, atol=1e-5)
    assert attention.q_proj.joined is not attention.k_proj.joined
    assert model.model.layers[1].self_attn.q_proj.joined is model.model.layers[1].self_attn.v_proj.joined


def test_both_forms_are_measured_here(model: LlamaForCausalLM) -> None:
    assert arrange(model) in ("packed", "plain")
