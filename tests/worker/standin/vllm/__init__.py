"""Stand-in: what is imported from the package itself."""

from vllm.sampling_params import SamplingParams

__all__ = ["SamplingParams"]
