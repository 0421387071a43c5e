"""The engines there are: each kind's process, and how its model is spoken to. Imports the one that is used alone."""

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from worker.engine_options import EngineKind, EngineOptions
from worker.model_files import ModelUnavailable
from worker.text.codec import Prompts

Serve = Callable[[Connection, Any], None]
"""Main function of an engine process: its end of the pipe, and the options of its kind (`engine_options.OPTIONS`)."""


def serve(kind: EngineKind) -> Serve:
    """The main function of the engine's process, in which it is called."""
    match kind:
        case "transformers":
            from worker.engines.transformers import process as transformers

            return transformers.serve
        case "vllm":
            from worker.engines.vllm import process as vllm

            return vllm.serve
        case "scripted":
            from worker.engines.scripted import process as scripted

            return scripted.serve


def load_prompts(options: EngineOptions, default_max_tokens: int) -> Prompts:
    """How the model is spoken to, for the worker's own process. Takes seconds; raises ModelUnavailable.

    `default_max_tokens`: the most tokens of an answer whose request names no limit.
    """
    match options.engine:
        case "transformers" | "vllm":
            from shared.telemetry.logs import adopt
            from worker.engines.checkpoint.tokenizer import load_tokenizer
            from worker.text.chat_template import TemplateRefusal
            from worker.text.imitation_check import Imitated, refuse_imitations
            from worker.text.prompt_rendering import PromptRenderer

            adopt("transformers")
            try:
                prompts = PromptRenderer(load_tokenizer(options), default_max_tokens)
                refuse_imitations(prompts)
            except TemplateRefusal as error:
                raise ModelUnavailable(
                    f"The chat template of {options.model_source} cannot be used: {error}. Ask its authors for a newer "
                    "one, or put another into its folder."
                ) from error
            except Imitated as error:
                raise ModelUnavailable(
                    f"The model {options.model_source} cannot be served: {error}. Use a chat template that keeps it "
                    "text."
                ) from error
            return prompts
        case "scripted":
            from worker.engines.scripted.prompts import ScriptedPrompts

            return ScriptedPrompts()
