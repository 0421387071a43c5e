"""The process of the engine on vLLM."""

import logging
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from shared.telemetry.logs import adopt
from worker.engine_options import VllmOptions
from worker.engine_protocol import Loading, Ready
from worker.engines.process import Loaded, Send, run
from worker.model_files import ModelUnavailable, locate, model_revision

if TYPE_CHECKING:
    from worker.engines.vllm.answer import Answer

log = logging.getLogger(__name__)


def serve(connection: Connection, options: VllmOptions) -> None:
    """The process's main function; `worker.engines.process.run` says how it ends.

    vLLM is imported in here, so that the parent can name this function without loading it.
    """
    run(connection, partial(_load, options))


def _load(options: VllmOptions, send: Send) -> "Loaded[Answer]":
    begin = time.monotonic()
    send(Loading("starting vLLM", 0.0))
    from worker.engines.vllm.environment import set_environment

    set_environment(options)
    try:
        import vllm
    except ImportError as error:
        raise ModelUnavailable(
            f"The engine vllm is not installed here ({error}): it has an environment of its own, which `headrace up "
            "--engine vllm` makes, and an image of its own (docs/configuration.md)."
        ) from error
    adopt("vllm")
    logging.getLogger("vllm").setLevel(logging.WARNING)
    adopt("transformers")

    from worker.engines.checkpoint.generation_config import eos_token_ids, generation_config, sampling_defaults
    from worker.engines.checkpoint.tokenizer import load_tokenizer
    from worker.engines.grammar import grammars_of
    from worker.engines.vllm import core
    from worker.engines.vllm.batch import Batch

    folder = _folder(options, send)
    tokenizer = load_tokenizer(options)
    configured = generation_config(folder)
    eos = eos_token_ids(configured, tokenizer)
    send(Loading("loading weights", 0.4))
    try:
        config = core.configure(options, folder)
        batch = Batch(partial(core.make_core, config), core.shape(options), eos, send)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ModelUnavailable(f"vLLM cannot load the model {options.model_source}: {error}") from error
    model = config.model_config
    grammars = grammars_of(tokenizer, model.get_vocab_size(), eos)
    ready = Ready(
        context_length=min(model.max_model_len, options.context_length or model.max_model_len),
        revision=model_revision(options, "vllm"),
        eos_token_ids=eos,
        slots=options.slots,
        device=str(config.device_config.device),
        dtype=str(model.dtype).removeprefix("torch."),
        load_seconds=time.monotonic() - begin,
        sampling=sampling_defaults(configured),
        grammars=grammars is not None,
        continues_draws=True,
    )
    log.info("vLLM %s runs the model.", vllm.__version__)
    return Loaded(ready, batch, grammars)


def _folder(options: VllmOptions, send: Send) -> Path:
    """The model as safetensors: vLLM reads no GGUF."""
    from worker.engines.checkpoint.gguf import converted
    from worker.engines.vllm.core import dtype

    send(Loading("finding the model", 0.1))
    files = locate(options)
    if files.gguf is None:
        return files.folder
    return converted(files, dtype(options), lambda detail, fraction: send(Loading(detail, 0.1 + 0.3 * fraction)))
