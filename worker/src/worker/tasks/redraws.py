"""An answer that is not what its request demanded is drawn anew: with which seed, and how.

The same draw again would be the same answer. So each has a seed of its own, and none is greedy: what client or model
want instead (temperature 0, top-k 1, a tiny top-p) leaves nothing to chance.
"""

import hashlib

from worker.engine_protocol import SamplingDefaults

LEAST_TOP_P = 0.9
LEAST_TOP_K = 20


def redraw_seed(seed: int, redraw: int) -> int:
    """The seed of the redraw with this number, from 1; 0 is the first answer, which is drawn with the seed itself."""
    if redraw == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(b"%d redraw %d" % (seed, redraw), digest_size=7).digest())


def redraw_sampling(wanted: SamplingDefaults, redraw: int) -> SamplingDefaults:
    """How its tokens are chosen: warmer from one redraw to the next, 0.7, 1.0 and so on, never cooler than wanted."""
    if redraw == 0:
        return wanted
    return SamplingDefaults(
        temperature=max(wanted.temperature, min(0.4 + 0.3 * redraw, 1.5)),
        top_p=max(wanted.top_p, LEAST_TOP_P),
        top_k=max(wanted.top_k, LEAST_TOP_K) if wanted.top_k else 0,
    )
