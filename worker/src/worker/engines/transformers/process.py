"""The process of the engine on transformers."""

import logging
import os
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from shared.telemetry.logs import adopt
from worker.engine_options import TransformersOptions
from worker.engine_protocol import Loading, Ready
from worker.engines.process import Loaded, Send, run
from worker.model_files import model_revision

if TYPE_CHECKING:
    from worker.engines.transformers.sequence import Answer

log = logging.getLogger(__name__)


def serve(connection: Connection, options: TransformersOptions) -> None:
    """The process's main function; `worker.engines.process.run` says how it ends.

    torch is imported in here, so that the parent can name this function without loading it.
    """
    run(connection, partial(_load, options))


def _load(options: TransformersOptions, send: Send) -> "Loaded[Answer]":
    begin = time.monotonic()
    send(Loading("starting torch", 0.0))
    # MKL reads it at its first product. Without it a product's last bits depend on where its rows lie in memory, so an
    # answer's attention on the thread that computes it. On AMD's cores few rows also take a quarter longer then.
    os.environ.setdefault("MKL_CBWR", "AUTO")
    # torch reads it at its first allocation. Each step reads all weights: with huge pages one request on AMD's cores
    # takes a twentieth less time (docs/decisions/0003-engine.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch
    from transformers import GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    adopt("transformers")

    from worker.engines.checkpoint.generation_config import eos_token_ids, sampling_defaults
    from worker.engines.checkpoint.tokenizer import load_tokenizer
    from worker.engines.grammar import grammars_of
    from worker.engines.transformers.batch import Batch
    from worker.engines.transformers.linear_layers import arrange
    from worker.engines.transformers.sizing import batch_config, context_length
    from worker.engines.transformers.weights import load_weights

    disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = load_weights(options, lambda detail, fraction: send(Loading(detail, 0.1 + 0.6 * fraction)))
    linear_layers = arrange(model) if model.device.type == "cpu" and options.device_map is None else None
    tokenizer = load_tokenizer(options)
    configured = model.generation_config or GenerationConfig()
    eos = eos_token_ids(configured, tokenizer)
    grammars = grammars_of(tokenizer, model.config.get_text_config().vocab_size, eos)
    send(Loading("preparing the batch", 0.8))
    generation = GenerationConfig(do_sample=False, eos_token_id=list(eos))
    batch = Batch(model, generation, batch_config(options, model), options.slots, options.attention, send)
    batch.warmup()
    context = context_length(options, model, batch.kv_tokens)
    batch.start()
    ready = Ready(
        context_length=context,
        revision=model_revision(options, options.quantization),
        eos_token_ids=eos,
        slots=options.slots,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        load_seconds=time.monotonic() - begin,
        sampling=sampling_defaults(configured),
        grammars=grammars is not None,
        continues_draws=True,
        linear_layers=linear_layers,
    )
    return Loaded(ready, batch, grammars)
