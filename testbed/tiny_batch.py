"""The batch of the engine on transformers in this process, for a tiny model."""

import threading
from collections import defaultdict
from collections.abc import Callable

from transformers import GenerationConfig

from worker.engine_options import TransformersOptions
from worker.engine_protocol import Generate, Step
from worker.engines.transformers.batch import Batch
from worker.engines.transformers.linear_layers import arrange
from worker.engines.transformers.sizing import batch_config, context_length
from worker.engines.transformers.weights import load_weights

PAGE = 4
"""Tokens."""
KV_BYTES_PER_TOKEN = 2 * 2 * 2 * 16 * 4
"""Keys and values, layers, key heads, dimensions, bytes."""


class Driver:
    """A batch and what came out of it."""

    def __init__(self, options: TransformersOptions) -> None:
        self.steps: list[Step] = []
        self._changed = threading.Condition()
        self._tokens: dict[str, list[int]] = defaultdict(list)
        self._ended: set[str] = set()
        model = load_weights(options, lambda detail, fraction: None)
        self.model = model
        if options.attention != "sdpa":  # which is what ours is compared with
            arrange(model)
        config = batch_config(options, model)
        generation = GenerationConfig(do_sample=False, eos_token_id=[2])
        self.batch = Batch(model, generation, config, options.slots, options.attention, self._on_step)
        self.batch.warmup()
        self.context_length = context_length(options, model, self.batch.kv_tokens)
        self.batch.start()

    def _on_step(self, step: Step) -> None:
        with self._changed:
            self.steps.append(step)
            for output in step.outputs:
                self._tokens[output.request_id] += output.token_ids
                if output.finish:
                    self._ended.add(output.request_id)
            self._changed.notify_all()

    def add(self, request: Generate) -> None:
        answer = self.batch.hold(request)
        assert answer is not None
        self.batch.join_batch(answer)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout=60)

    def tokens(self, *requests: Generate) -> list[list[int]]:
        """The answers of requests that run together."""
        for request in requests:
            self.add(request)
        ids = [request.request_id for request in requests]
        self.wait_for(lambda: self._ended.issuperset(ids))
        self._ended.clear()
        return [self._tokens.pop(request_id) for request_id in ids]


StartBatch = Callable[..., Driver]
