"""How the next token is drawn from a model's scores, for every engine whose scores are torch's.

An engine takes the arg max of the scores. Here they are made such that the arg max is the draw: Gumbel noise turns an
arg max into a sample of the softmax (Gumbel-max trick). The noise of a vocabulary entry is a hash of (seed, position in
the answer, entry), so that a draw depends on nothing else in the batch and an answer goes on identically on another
worker.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from worker.engine_protocol import Generate

CANDIDATES = 256
"""Most likely tokens looked at first for top-k and top-p; eight times more while the nucleus is larger."""

ROWS = 5
"""Of the argument tensor, which has one column per request; int32, the first two rows hold float32 bits."""
TEMPERATURE, TOP_P, TOP_K, KEY_LOW, KEY_HIGH = range(ROWS)
SMALLEST_TEMPERATURE = float(np.finfo(np.float32).tiny)
"""The smallest normal float32. Below it a device may compute with zero: such a temperature is greedy."""


class Draws:
    """The draws over one vocabulary on one device."""

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._hashed_vocabulary = _mixed(torch.arange(vocabulary, dtype=torch.int32, device=device))

    def fill(self, column: NDArray[np.int32], generate: Generate, position: int) -> None:
        """Writes the arguments of one draw, of the token at `position` of the answer, into a column of zeros."""
        floats = column.view(np.float32)
        floats[TEMPERATURE], floats[TOP_P] = generate.temperature, generate.top_p
        column[TOP_K] = min(generate.top_k, self._vocabulary)
        column[KEY_LOW:] = _key(generate.seed, position)

    def add_plain(self, scores: torch.Tensor, rows: list[int], arguments: torch.Tensor) -> None:
        """For rows that sample from the whole vocabulary: their arg max becomes the draw. `arguments`: of all rows."""
        own = arguments[:, rows]
        scores[rows] += _temperature(own) * self._noise(own)

    def add_filtered(self, scores: torch.Tensor, rows: list[int], arguments: torch.Tensor) -> None:
        """The same for rows with top-k or top-p."""
        scores[rows, self._drawn(scores[rows], arguments[:, rows])] = torch.inf

    def _noise(self, arguments: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Standard Gumbel noise per row and vocabulary entry; of `tokens` alone (rows, n) where given."""
        hashed = self._hashed_vocabulary if tokens is None else self._hashed_vocabulary[tokens]
        bits = _mixed((hashed ^ arguments[KEY_LOW, :, None]) + arguments[KEY_HIGH, :, None])
        # Uniform in (0, 1] from 31 bits: its steps are finest at 0, where the noise that wins comes from.
        uniform = (bits & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-31)
        return uniform.neg_().log1p_().neg_().log_().neg_()

    def _drawn(self, scores: torch.Tensor, arguments: torch.Tensor) -> torch.Tensor:
        """The token drawn for each row among its top-k and, of those, its top-p most likely."""
        scaled = _scaled(scores, _temperature(arguments))
        normalizer = scaled.logsumexp(-1, keepdim=True)
        count = CANDIDATES
        while True:
            values, tokens = scaled.topk(min(count, scaled.shape[1]))
            kept, enough = _kept(values, normalizer, arguments)
            if enough.all() or count >= scaled.shape[1]:
                break
            count *= 8
        noisy = torch.where(kept, values + self._noise(arguments, tokens), -torch.inf)
        return tokens.gather(1, noisy.argmax(-1, keepdim=True))[:, 0]


def is_drawn(generate: Generate) -> bool:
    """False where the likeliest token is taken."""
    return generate.temperature >= SMALLEST_TEMPERATURE


def is_filtered(generate: Generate) -> bool:
    """Whether its draws are from a part of the vocabulary."""
    return generate.top_k > 0 or generate.top_p < 1


def _key(seed: int, position: int) -> NDArray[np.int32]:
    """64 bits that stand for one draw."""
    digest = hashlib.blake2b(b"%d %d" % (seed, position), digest_size=8).digest()
    return np.frombuffer(digest, dtype=np.int32)


def _mixed(bits: torch.Tensor) -> torch.Tensor:
    """A hash of int32 in which every input bit reaches every output bit (Wellons' lowbias32)."""
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    return bits ^ ((bits >> 16) & 0xFFFF)


def _temperature(arguments: torch.Tensor) -> torch.Tensor:
    return arguments[TEMPERATURE].view(torch.float32)[:, None]


def _scaled(scores: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Scores over temperature, the best of each row at 0: the quotients of a low temperature would be infinite."""
    return (scores - scores.amax(-1, keepdim=True)) / temperature


def _kept(values: torch.Tensor, normalizer: torch.Tensor, arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the candidates (most likely first) stay, and for which rows the candidates were enough to tell."""
    top_k = arguments[TOP_K, :, None]
    top_p = arguments[TOP_P].view(torch.float32)[:, None]
    within_k = (top_k == 0) | (torch.arange(values.shape[1], device=values.device) < top_k)
    probability = (values - normalizer).exp() * within_k
    mass = torch.where(top_k > 0, probability.sum(-1, keepdim=True), 1.0)
    before = probability.cumsum(-1) - probability
    # The best one always: a top-p next to zero leaves no room for its own probability.
    kept = within_k & ((before < top_p * mass) | (before == 0))
    enough = ((top_k > 0) & (top_k <= values.shape[1])) | (before + probability)[:, -1:].ge(top_p * mass)
    return kept, enough
