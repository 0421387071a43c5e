"""How the linear layers of a model on a CPU are computed: those with one input as one matrix, in the faster form.

A step of a small model waits for its threads at every matrix, so fewer and larger ones are faster. Their weights are
packed by oneDNN, or in the order that suits MKL; which is faster depends on the machine
(docs/decisions/0003-engine.md), so it is measured where the model is loaded.
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

Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(rows, weight, bias) -> rows; rows are (rows, inputs) and (rows, outputs)."""
Pass = Callable[[Sequence[torch.Tensor]], None]
"""Rows for each of some matrices, through their weights."""

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that multiply the same rows, by the names that transformers' models have for them."""
MEASURED_BYTES = 128 << 20
"""Of weights: more than two cores' caches keep from one pass to the next."""
MEASURED_ROWS = (1, 8, 32)
ROUNDS = 3
ROWS_HINT = 16
"""For which number of rows oneDNN packs; other hints made no difference."""
WORTH = {torch.float32: 1.1}
"""So much of the others' time packed weights may take where they make an answer independent of its neighbours."""


class Joined:
    """One matrix for linear layers that multiply the same rows.

    Packed, in float32, a row comes out the same, bit for bit, whatever stands beside it.
    """

    def __init__(self, layers: Sequence[nn.Linear], form: LinearLayers) -> None:
        """`layers`: with as many inputs each, all with a bias or none."""
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._weight, self._multiply = FORMS[form](_one(layers))
        self._bias = torch.cat(biases) if biases else None
        self.sizes = [layer.out_features for layer in layers]
        self._inputs: torch.Tensor | None = None
        self._outputs: dict[int, torch.Tensor] = {}
        """Not yet taken, of these inputs."""

    def outputs(self, rows: torch.Tensor) -> torch.Tensor:
        """Of all the layers, side by side: (rows, inputs) -> (rows, sum of `sizes`)."""
        return self._multiply(rows, self._weight, self._bias)

    def output(self, at: int, inputs: torch.Tensor) -> torch.Tensor:
        """Of one of the layers; the others' are kept until they are asked for with the same tensor."""
        if inputs is not self._inputs or at not in self._outputs:
            made = torch.split(self.outputs(inputs.reshape(-1, inputs.shape[-1])), self.sizes, -1)
            shaped = (outputs.view(*inputs.shape[:-1], -1) for outputs in made)
            self._inputs, self._outputs = inputs, dict(enumerate(shaped))
        output = self._outputs.pop(at)
        if not self._outputs:
            self._inputs = None
        return output


class JoinedLinear(nn.Module):
    """A linear layer without gradients whose weights stand in a matrix with others'."""

    def __init__(self, joined: Joined, at: int) -> None:
        super().__init__()
        self.joined, self._at = joined, at

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, inputs) -> (…, outputs)."""
        return self.joined.output(self._at, inputs)


def arrange(model: "PreTrainedModel") -> LinearLayers:
    """Gives the linear layers of a model that is on a CPU the faster form, and says which."""
    groups = _groups(model)
    with torch.no_grad():
        chosen = _faster([[_linear(model, name) for name in names] for names in groups])
        for names in groups:  # nothing else holds these layers: their weights go before the next ones are arranged
            joined = Joined([_linear(model, name) for name in names], chosen)
            for at, name in enumerate(names):
                model.set_submodule(name, JoinedLinear(joined, at))
    return chosen


def _groups(model: nn.Module) -> list[list[str]]:
    """The names of all linear layers, those together that can be one matrix."""
    groups: list[list[str]] = []
    for parent, module in model.named_modules():
        path = f"{parent}." if parent else ""
        layers = {name: layer for name, layer in module.named_children() if type(layer) is nn.Linear}
        for names in SAME_INPUT:
            kinds = {(layers[name].in_features, layers[name].bias is None) for name in names if name in layers}
            if len(kinds) == 1 and layers.keys() >= {*names}:
                groups.append([path + name for name in names])
                layers = {name: layer for name, layer in layers.items() if name not in names}
        groups += [[path + name] for name in layers]
    return groups


def _linear(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def _one(layers: Sequence[nn.Linear]) -> torch.Tensor:
    """(outputs of all, inputs)."""
    weights = [layer.weight.detach() for layer in layers]
    return torch.cat(weights) if len(weights) > 1 else weights[0]


def _faster(groups: Sequence[Sequence[nn.Linear]]) -> LinearLayers:
    """By some passes through as many of the weights as there is time for."""
    some: list[torch.Tensor] = []
    room = MEASURED_BYTES
    for layers in groups:
        size = sum(layer.weight.nbytes for layer in layers)
        if size <= room:
            room -= size
            some.append(_one(layers))
    if not some or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "plain"
    ways: dict[LinearLayers, Pass] = {
        form: partial(_through, [arranged(weight) for weight in some]) for form, arranged in FORMS.items()
    }
    seconds: dict[LinearLayers, float] = dict.fromkeys(ways, 0.0)
    for rows in MEASURED_ROWS:
        inputs = [torch.ones(rows, weight.shape[1], dtype=weight.dtype) for weight in some]
        for name, least in _least_seconds(ways, inputs).items():
            seconds[name] += least
    return "packed" if seconds["packed"] <= WORTH.get(some[0].dtype, 1.0) * seconds["plain"] else "plain"


def _through(matrices: Sequence[tuple[torch.Tensor, Multiply]], inputs: Sequence[torch.Tensor]) -> None:
    for rows, (weight, multiply) in zip(inputs, matrices, strict=True):
        multiply(rows, weight, None)


def _least_seconds(ways: Mapping[LinearLayers, Pass], inputs: Sequence[torch.Tensor]) -> dict[LinearLayers, float]:
    """In turns, so that a busy moment of the machine is every way's; the least, because others' work only adds."""
    found: dict[LinearLayers, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begin = time.perf_counter()
            way(inputs)
            found[name].append(time.perf_counter() - begin)
    return {name: min(seconds) for name, seconds in found.items()}


def _plain(weight: torch.Tensor) -> tuple[torch.Tensor, Multiply]:
    """The same shape; float32 stored input by input: MKL multiplies a few rows with such a matrix a quarter faster."""
    return weight.t().contiguous().t() if weight.dtype == torch.float32 else weight, linear


def _packed(weight: torch.Tensor) -> tuple[torch.Tensor, Multiply]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS_HINT)
    # With many inputs oneDNN adds them up in another order for one row alone; data of any values shows it.
    two = torch.rand(2, weight.shape[1]).to(weight.dtype)
    same = torch.equal(_multiplied(two[:1], packed, None), _multiplied(two, packed, None)[:1])
    return packed, _multiplied if same else _multiplied_never_alone


def _multiplied(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return outputs


def _multiplied_never_alone(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """One row goes as two."""
    return _multiplied(rows.expand(2, -1), packed, bias)[:1] if len(rows) == 1 else _multiplied(rows, packed, bias)


FORMS: dict[LinearLayers, Callable[[torch.Tensor], tuple[torch.Tensor, Multiply]]] = {
    "plain": _plain,
    "packed": _packed,
}
"""How the weights of a matrix are stored, and how rows are multiplied with it."""
