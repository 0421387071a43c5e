"""vLLM's switches that are variables of the environment."""

import os

from worker.engine_options import VllmOptions


def set_environment(options: VllmOptions) -> None:
    """To be called before vLLM is imported, which reads some of them then."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the model is in this process
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # its sampler takes no processor of ours
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # every request is greedy to it: compiled for nothing
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["VLLM_CONFIGURE_LOGGING"] = "0"
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
