"""PyTorch as it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import torch

from torch2rt.bench.contenders.adapter import cast_loaded, channels_last
from torch2rt.bench.contenders.base import BuildRequest, Contender
from torch2rt.bench.source import LoadedModel
from torch2rt.inspect.verify import float32_matmuls

DTYPES = {
    "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
}
CUDA_VARIANTS = dict.fromkeys(DTYPES, ("channels_last", "plain"))


class Eager(Contender):
    """``model(*inputs)``; in 16 bits by casting the weights, or by autocast."""

    name = "eager"
    packages: ClassVar = ("torch",)
    variants: ClassVar = {
        "fp32": ("plain",),
        "bf16": ("weights", "autocast"),
        "fp16": ("weights", "autocast"),
    }
    cuda_variants: ClassVar = CUDA_VARIANTS
    devices: ClassVar = ("cpu", "cuda")

    def build(self, request: BuildRequest) -> Callable[[], object]:
        """The model itself, with its weights or its calls in ``request.precision``."""
        target = DTYPES[request.precision]
        if request.is_on_gpu:
            loaded = on_gpu(request)
        else:
            weights = torch.float32 if request.variant == "autocast" else target
            loaded = cast_loaded(request.loaded, weights, request.device)
        model, args, kwargs = loaded.model, loaded.args, loaded.kwargs

        def call() -> object:
            return model(*args, **kwargs)

        def call_autocast() -> object:
            with torch.autocast(request.device.partition(":")[0], dtype=target):
                return model(*args, **kwargs)

        return call_autocast if request.variant == "autocast" else call

    def context(self) -> AbstractContextManager[object]:
        """Without autograd's bookkeeping."""
        return torch.inference_mode()


def on_gpu(request: BuildRequest) -> LoadedModel:
    """The model and its inputs on the GPU, as precision and variant say.

    TF32 is on for ``tf32`` alone, from now on: torch's own default is on for convolutions.
    """
    float32_matmuls("tf32" if request.precision == "tf32" else "ieee")
    loaded = cast_loaded(request.loaded, DTYPES[request.precision], request.device)
    return channels_last(loaded) if request.variant == "channels_last" else loaded
