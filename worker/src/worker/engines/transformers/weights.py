"""Loads a model's weights onto its device or devices. torch is imported by `load_weights` alone."""

import importlib.util
from typing import TYPE_CHECKING, Any

from worker.engine_options import TransformersOptions
from worker.engines.checkpoint.gguf import Progress, converted
from worker.engines.transformers.loading_progress import weights_reported
from worker.model_files import ModelUnavailable, locate

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel


def load_weights(options: TransformersOptions, progress: Progress) -> "PreTrainedModel":
    """The model in eval mode on its device or devices. Raises `ModelUnavailable`."""
    import torch
    from transformers import AutoModelForCausalLM

    # A wrong combination of settings fails here, before anything is downloaded.
    device = _device(options)
    dtype = _dtype(options, device)
    placement: dict[str, Any] = {}
    if options.device_map is not None or (options.device == "auto" and torch.cuda.device_count() > 1):
        placement["device_map"] = options.device_map or "auto"
    elif device.type != "cpu":
        placement["device_map"] = {"": device}
    if options.quantization != "none":
        placement["quantization_config"] = _bitsandbytes(options, device, dtype)

    progress("finding the model", 0.0)
    files = locate(options)
    folder = files.folder if files.gguf is None else converted(files, dtype, progress)
    progress("loading weights", 0.5)
    # `per_request` takes the place of sdpa when the batch exists.
    attention = "sdpa" if options.attention in ("auto", "per_request") else options.attention
    try:
        with weights_reported(lambda done: progress(f"loading weights {100 * done:.0f} %", 0.5 + done / 2)):
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, attn_implementation=attention, **placement
            )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ModelUnavailable(f"The model {options.model_source} cannot be loaded: {error}") from error
    model.eval()
    return model


def _device(options: TransformersOptions) -> "torch.device":
    import torch

    name = options.device
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelUnavailable(
            f"The device {name} is asked for, but torch {torch.__version__} sees no GPU. In Kubernetes its node "
            "perhaps needs the runtime of its GPUs (gpuProfiles, runtimeClassName); elsewhere install the GPU's driver "
            "and a torch build with CUDA. Set the device to cpu or auto for a machine without one."
        )
    device = torch.device(name if ":" in name else "cuda:0")
    if (device.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailable(f"The device {name} is asked for, but there are {torch.cuda.device_count()} GPUs here.")
    return device


def _dtype(options: TransformersOptions, device: "torch.device") -> "torch.dtype":
    import torch

    if options.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[options.dtype]


def _bitsandbytes(options: TransformersOptions, device: "torch.device", dtype: "torch.dtype") -> "BitsAndBytesConfig":
    from transformers import BitsAndBytesConfig

    if device.type == "cpu":
        raise ModelUnavailable(
            f"The quantization {options.quantization} needs a GPU and there is none in use. Set the quantization to "
            "none; on a CPU a small GGUF model is the way to save memory."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelUnavailable(
            f"The quantization {options.quantization} needs the package bitsandbytes, which is not installed. "
            "Run: pip install bitsandbytes"
        )
    if options.quantization == "bitsandbytes-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
