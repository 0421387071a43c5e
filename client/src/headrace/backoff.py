"""How long to wait before the next try."""

import random
from collections.abc import Iterator

FIRST_SECONDS = 0.25
LONGEST_SECONDS = 8.0


def delays() -> Iterator[float]:
    """Seconds to wait before each further try: doubling, with jitter so that clients do not return in step."""
    ceiling = FIRST_SECONDS
    while True:
        yield random.uniform(ceiling / 2, ceiling)
        ceiling = min(2 * ceiling, LONGEST_SECONDS)
