"""How far transformers is with loading weights, as it goes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

WEIGHTS = "Loading weights"
"""transformers' name of its progress bar over a model's tensors."""


@contextmanager
def weights_reported(report: Callable[[float], None]) -> Iterator[None]:
    """Within it, `report` is called with the loaded fraction of the weights, at each whole percent."""

    def hook(bar: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if options.get("desc") == WEIGHTS and args:
            return _counted(list(args[0]), report)
        return bar(*args, **options)

    previous = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)


def _counted(items: list[Any], report: Callable[[float], None]) -> Iterable[Any]:
    told = 0
    for number, item in enumerate(items, 1):
        yield item
        if (percent := 100 * number // len(items)) > told:
            told = percent
            report(percent / 100)
