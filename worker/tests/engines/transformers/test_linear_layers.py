"""Linear layers with packed weights, and which form a machine gets."""

import weakref

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from worker.engines.transformers import linear_layers
from worker.engines.transformers.linear_layers import PackedLinear, arrange

SHAPES = [(576, 576), (576, 192), (576, 1536), (1536, 576), (576, 49_152)]
"""Of the packaged model: inputs, outputs."""


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    made: LlamaForCausalLM = LlamaForCausalLM(config).eval()
    return made


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_row_is_the_same_alone_and_among_others(inputs: int, outputs: int) -> None:
    torch.manual_seed(1)
    layer = PackedLinear(nn.Linear(inputs, outputs, bias=False))
    rows = torch.randn(64, inputs)
    with torch.no_grad():
        all_at_once = layer(rows)
        for count in (*range(1, 9), 12, 16, 20, 24, 32, 48, 63):
            assert torch.equal(layer(rows[:count]), all_at_once[:count]), count
            assert torch.equal(layer(rows[-count:]), all_at_once[-count:]), count


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_what_the_plain_layer_does(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(1)
    plain = nn.Linear(24, 40, bias=bias, dtype=dtype)
    with torch.no_grad():
        for shape in ((24,), (1, 24), (3, 24), (2, 1, 24), (2, 5, 24)):
            inputs = torch.randn(shape, dtype=dtype)
            assert torch.allclose(PackedLinear(plain)(inputs), plain(inputs), rtol=1e-2, atol=1e-2), shape


def test_the_faster_form_is_chosen_and_no_other_copy_is_kept(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(512, (1, 9))
    with torch.no_grad():
        before = model(ids).logits

    def measured(packed: float) -> None:
        monkeypatch.setattr(linear_layers, "_least_seconds", lambda ways, inputs: {"plain": 1.0, "packed": packed})

    measured(packed=1.2)
    assert arrange(model) == "plain"
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    measured(packed=1.05)
    assert arrange(model) == "packed"
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert sum(parameter.ndim == 2 for parameter in model.parameters()) == 1, "the embeddings alone"
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, before, atol=1e-5)


def test_no_more_than_one_layer_is_there_twice(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [weakref.ref(module) for module in model.modules() if type(module) is nn.Linear]
    monkeypatch.setattr(linear_layers, "_faster", lambda weights: "packed")
    pack, left = linear_layers._packed, []

    def packed(weight: torch.Tensor) -> torch.Tensor:
        left.append(sum(layer() is not None for layer in layers))
        return pack(weight)

    monkeypatch.setattr(linear_layers, "_packed", packed)
    arrange(model)
    assert left == list(range(len(layers), 0, -1))


def test_both_forms_are_measured_here(model: LlamaForCausalLM) -> None:
    assert arrange(model) in ("packed", "plain")
