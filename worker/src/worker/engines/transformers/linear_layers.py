"""How the linear layers of a model on a CPU keep their weights: packed by oneDNN, or in the order that suits MKL.

Which is faster depends on the machine (docs/decisions/0003-engine.md), so it is measured where the model is loaded.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import linear

from worker.engine_protocol import LinearLayers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Layer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(rows, weight) -> rows."""
Pass = Callable[[Sequence[torch.Tensor]], None]
"""Rows for each of some layers, through their weights."""

MEASURED_BYTES = 128 << 20
"""Of weights: more than two cores' caches keep from one pass to the next."""
MEASURED_ROWS = (1, 8, 32)
ROUNDS = 3
ROWS_HINT = 16
"""For which number of rows oneDNN packs; other hints made no difference."""
WORTH = {torch.float32: 1.1}
"""So much of the others' time packed weights may take where they make an answer independent of its neighbours."""


class PackedLinear(nn.Module):
    """A linear layer without gradients. In float32 a row comes out the same, bit for bit, whatever stands beside it."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self._weight = _packed(plain.weight)
        self._bias = None if plain.bias is None else plain.bias.detach()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in_features) -> (…, out_features)."""
        rows = inputs.reshape(-1, self.in_features)
        # One row alone is multiplied in another way than one among others.
        outputs = _multiplied(rows.expand(2, -1) if len(rows) == 1 else rows, self._weight, self._bias)
        return outputs[: len(rows)].view(*inputs.shape[:-1], self.out_features)


def arrange(model: "PreTrainedModel") -> LinearLayers:
    """Gives the linear layers of a model that is on a CPU the faster form, and says which."""
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    with torch.no_grad():
        chosen = _faster([model.get_parameter(f"{name}.weight").detach() for name in names])
        for name in names:  # nothing else holds a layer: its weights go before the next one's are packed
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            if chosen == "packed":
                model.set_submodule(name, PackedLinear(layer))
            else:
                layer.weight.data = _plain(layer.weight)
    return chosen


def _faster(weights: Sequence[torch.Tensor]) -> LinearLayers:
    """By some passes through as many of the weights as there is time for."""
    some: list[torch.Tensor] = []
    for weight in weights:
        if sum(one.nbytes for one in some) + weight.nbytes <= MEASURED_BYTES:
            some.append(weight)
    if not some or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "plain"
    ways: dict[LinearLayers, Pass] = {
        "plain": partial(_through, linear, [_plain(weight) for weight in some]),
        "packed": partial(_through, _multiplied, [_packed(weight) for weight in some]),
    }
    seconds: dict[LinearLayers, float] = dict.fromkeys(ways, 0.0)
    for rows in MEASURED_ROWS:
        inputs = [torch.ones(rows, weight.shape[1], dtype=weight.dtype) for weight in some]
        for name, least in _least_seconds(ways, inputs).items():
            seconds[name] += least
    return "packed" if seconds["packed"] <= WORTH.get(some[0].dtype, 1.0) * seconds["plain"] else "plain"


def _through(layer: Layer, weights: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
    for rows, weight in zip(inputs, weights, strict=True):
        layer(rows, weight)


def _least_seconds(ways: Mapping[LinearLayers, Pass], inputs: Sequence[torch.Tensor]) -> dict[LinearLayers, float]:
    """In turns, so that a busy moment of the machine is every way's; the least, because others' work only adds."""
    found: dict[LinearLayers, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begin = time.perf_counter()
            way(inputs)
            found[name].append(time.perf_counter() - begin)
    return {name: min(seconds) for name, seconds in found.items()}


def _packed(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS_HINT)
    return packed


def _plain(weight: torch.Tensor) -> torch.Tensor:
    """The same shape; float32 stored input by input: MKL multiplies a few rows with such a matrix a quarter faster."""
    return weight.detach().t().contiguous().t() if weight.dtype == torch.float32 else weight.detach()


def _multiplied(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return outputs
