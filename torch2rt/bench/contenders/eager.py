"""PyTorch as it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import torch

from torch2rt.bench.contenders.adapter import cast_loaded
from torch2rt.bench.contenders.base import BuildRequest, Contender

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Eager(Contender):
    """``model(*inputs)``; in 16 bits by casting the weights, or by autocast."""

    name = "eager"
    packages: ClassVar = ("torch",)
    variants: ClassVar = {
        "fp32": ("plain",),
        "bf16": ("weights", "autocast"),
        "fp16": ("weights", "autocast"),
    }
    devices: ClassVar = ("cpu", "cuda")

    def build(self, request: BuildRequest) -> Callable[[], object]:
        """The model itself, with its weights or its calls in ``request.precision``."""
        target = DTYPES[request.precision]
        weights = torch.float32 if request.variant == "autocast" else target
        loaded = cast_loaded(request.loaded, weights, request.device)
        model, args, kwargs = loaded.model, loaded.args, loaded.kwargs

        def call() -> object:
            return model(*args, **kwargs)

        def call_autocast() -> object:
            with torch.autocast(request.device.partition(":")[0], dtype=target):
                return model(*args, **kwargs)

        chosen = call_autocast if request.variant == "autocast" else call
        return synchronised(chosen, request.device)

    def context(self) -> AbstractContextManager[object]:
        """Without autograd's bookkeeping."""
        return torch.inference_mode()


def synchronised(call: Callable[[], object], device: str) -> Callable[[], object]:
    """``call``, returning only when the device has finished."""
    if not device.startswith("cuda"):
        return call

    def call_and_wait() -> object:
        outputs = call()
        torch.cuda.synchronize()
        return outputs

    return call_and_wait
