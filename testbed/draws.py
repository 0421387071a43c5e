"""Answers of the scripted engine, one for each draw of a task."""

import json
from collections.abc import Sequence
from itertools import count

from worker.tasks.redraws import redraw_seed

UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
"""A schema of which grammars enforce a part."""
REFUSED, MET = "[1, 1]", "[1, 2]"
"""A document that it refuses, and one that it accepts."""


def draws(answers: Sequence[str], *, slow: int = 0) -> tuple[str, int]:
    """The message and the seed with which the draws are these answers in turn; `slow`: milliseconds more per token."""
    texts = sorted(set(answers))
    wanted = [texts.index(answer) for answer in answers]
    seeds = (seed for seed in count(1) if [redraw_seed(seed, n) % len(texts) for n in range(len(answers))] == wanted)
    return f"!draw {json.dumps(texts)}\n!slow {slow}", next(seeds)
