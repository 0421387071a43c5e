"""The running batch: transformers' ContinuousBatchingManager with our sequences in it and one output per step out."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager, OutputRouter

from worker.engine_options import Attention
from worker.engine_protocol import SIGN_OF_LIFE_SECONDS, Generate, Output, Stats, Step
from worker.engines.transformers import attention as per_request
from worker.engines.transformers import kv_placement, llama_layers, torch_flash
from worker.engines.transformers.sampling import Sampler
from worker.engines.transformers.sequence import Answer, Sequence
from worker.engines.transformers.step_runner import StepRunner
from worker.model_files import ModelUnavailable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Discarding(OutputRouter):
    """Drops the results that transformers routes one by one: `Batch` hands a step's outputs over in one piece."""

    def deliver(self, output: Any) -> None:
        """Nothing is kept."""

    def deliver_batch(self, outputs: list[Any]) -> None:
        """Nothing is kept."""


class Batch(ContinuousBatchingManager):
    """All requests being decoded together; `send` gets one `Step` per engine step, from the generation thread."""

    def __init__(
        self,
        model: "PreTrainedModel",
        generation_config: GenerationConfig,
        config: ContinuousBatchingConfig,
        slots: int,
        attention: Attention,
        send: Callable[[Step], None],
    ) -> None:
        super().__init__(model, generation_config, config)  # type: ignore[arg-type]  # its prototype of a model
        self._choose_attention(model, attention, config)
        self.output_router = Discarding()
        vocabulary = model.config.get_text_config().vocab_size
        self._sampler = self.logit_processor = Sampler(vocabulary, model.device)
        captured = any(self.continuous_batching_config.cuda_graph_booleans)
        # Before the KV cache, which takes its share of what is free then.
        self._kept = torch.empty(slots, vocabulary, device=model.device) if captured else None
        self._send = send
        self._answers: dict[str, Answer] = {}
        self._answers_lock = threading.Lock()
        self._immediate: deque[Output] = deque()
        self._sequences_made = 0
        self._preemptions = 0
        self._last_sent = time.monotonic()

    def _choose_attention(
        self, model: "PreTrainedModel", attention: Attention, asked: ContinuousBatchingConfig
    ) -> None:
        """Only now: the manager's constructor knows no attention but sdpa, eager and flash."""
        config = self.continuous_batching_config
        if attention in ("auto", "per_request"):
            if per_request.install(model):
                llama_layers.rewrite(model)
                pages = -(-model.config.get_text_config().max_position_embeddings // config.page_size)
                config.max_blocks_per_request = pages
            elif attention == "per_request":
                raise ModelUnavailable(
                    "The attention per_request is for models with plain full attention on a CPU, and this is none: "
                    "set the attention to auto."
                )
            elif model.config._attn_implementation == "sdpa" and torch_flash.install(model):
                config.use_cuda_graph = (asked.use_cuda_graph is not False,) * 2  # as transformers with flash attention
                config.kv_padding_interval_size = torch_flash.KV_PADDING

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache can hold; known after `warmup`."""
        assert self.batch_processor is not None
        cache = self.batch_processor.cache
        return int(cache.num_blocks * self.continuous_batching_config.page_size)

    def _create_batch_processor(self) -> Any:
        """Called for the warm-up and again for the start; the cache is made by the first call."""
        made = self.batch_processor is None
        processor = super()._create_batch_processor()
        if made:
            processor.model_runner = StepRunner(processor, self._sampler, self._kept)
            kv_placement.spread(processor.cache, kv_placement.layer_devices(self.model))
        return processor

    def hold(self, generate: Generate) -> Answer | None:
        """Registers a request before it may join; None when its id is already held."""
        answer = Answer(generate, told=self._sampler.told)
        with self._answers_lock:
            if generate.request_id in self._answers:
                return None
            self._answers[generate.request_id] = answer
        return answer

    def join_batch(self, answer: Answer) -> None:
        """Lets a held request take part from the next step on."""
        if answer.cancelled:
            return
        generate = answer.generate
        # Ids are never used twice: transformers applies cancellations after additions, so a request that comes again
        # right behind its own cancellation would be cancelled with it.
        self._sequences_made += 1
        sequence = Sequence(
            request_id=f"{generate.request_id}#{self._sequences_made}",
            initial_tokens=[*generate.prompt_ids, *generate.generated_ids],
            max_new_tokens=generate.max_new_tokens - len(generate.generated_ids),
            eos_token_id=self.generation_config.eos_token_id,
            answer=answer,
        )
        answer.sequence_id = sequence.request_id
        answer.tokens = len(generate.generated_ids)
        self.input_queue.put(sequence)
        self._wake_up_loop.set()

    def end_at_once(self, output: Output) -> None:
        """Sends the only output of a request that never joins, with the next turn of the loop."""
        with self._answers_lock:
            self._answers.pop(output.request_id, None)
        self._immediate.append(output)
        self._wake_up_loop.set()

    def end(self, seconds: float) -> None:
        """Lets the step in progress end, for so long."""
        self.stop(block=True, timeout=seconds, hard_stop=True)

    def cancel(self, request_id: str) -> None:
        """Forgets a request: no output follows, its slot is free after the current step."""
        with self._answers_lock:
            answer = self._answers.pop(request_id, None)
        if answer is not None:
            answer.cancelled = True
            if answer.sequence_id is not None:
                self.cancel_request(answer.sequence_id)

    def _generation_loop_body(self, batch_processor: Any, bootstrapping: bool) -> bool:
        """One turn of the loop, a step or a wait of at most 0.1 s; then whatever it produced is sent."""
        step, begin = self.current_batch, time.monotonic()
        goes_on: bool = super()._generation_loop_body(batch_processor, bootstrapping)
        self._report(batch_processor, stepped=self.current_batch != step, begin=begin)
        return goes_on

    def _report(self, batch_processor: Any, stepped: bool, begin: float) -> None:
        outputs = [self._immediate.popleft() for _ in range(len(self._immediate))]
        with self._answers_lock:
            for request_id, answer in list(self._answers.items()):
                output = answer.take_output()
                if output is not None:
                    outputs.append(output)
                    if answer.ended:
                        del self._answers[request_id]
                        self._preemptions += answer.preemptions
        now = time.monotonic()
        idle = not batch_processor.has_pending_requests()
        # A turn that holds requests and did not step is no sign of life: the watchdog shall see a stuck batch.
        if outputs or ((stepped or idle) and now - self._last_sent >= SIGN_OF_LIFE_SECONDS):
            self._last_sent = now
            self._send(Step(tuple(outputs), self._stats(batch_processor, now - begin if stepped else 0.0)))

    def _stats(self, batch_processor: Any, step_seconds: float) -> Stats:
        cache, scheduler = batch_processor.cache, batch_processor.scheduler
        free = cache.compute_free_capacity(relative=False)
        kept = sum(len(a.ledger.cached_blocks) * a.bytes_per_block for a in cache.cache_allocators.values())
        total = cache.num_sectors * cache.bytes_per_sector
        return Stats(
            step_seconds=step_seconds,
            running=len(scheduler.active_requests),
            waiting=len(scheduler.waiting_requests),
            kv_used=max(0.0, 1.0 - (free + kept) / total),
            preemptions=self._preemptions,
        )
