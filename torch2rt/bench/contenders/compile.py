"""torch.compile with weights frozen into the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import ClassVar

import torch

from torch2rt.bench.contenders.adapter import cast_loaded
from torch2rt.bench.contenders.base import BuildRequest, Contender
from torch2rt.bench.contenders.eager import DTYPES, on_gpu

MODES = ("default", "max-autotune")
Variants = Mapping[str, tuple[str, ...]]
CPU_PRECISIONS = ("fp32", "bf16", "fp16")


class Compile(Contender):
    """``torch.compile(model)`` by the Inductor backend, freezing on; on the CPU in two modes.

    On a GPU with CUDA graphs; what times templates there is `max_autotune`.
    """

    name = "compile"
    packages: ClassVar = ("torch",)
    variants: ClassVar[Variants] = dict.fromkeys(CPU_PRECISIONS, MODES)
    cuda_variants: ClassVar[Variants] = dict.fromkeys(DTYPES, ("reduce-overhead",))
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    times_while_building = True

    def build(self, request: BuildRequest) -> Callable[[], object]:
        """The compiled module; compilation happens at its first call."""
        torch._inductor.config.freezing = True
        if request.is_on_gpu:
            loaded = on_gpu(request)
        else:
            loaded = cast_loaded(request.loaded, DTYPES[request.precision], request.device)
        args, kwargs = loaded.args, loaded.kwargs
        model = torch.compile(loaded.model, mode=request.variant)

        def call() -> object:
            return model(*args, **kwargs)

        return call

    def context(self) -> AbstractContextManager[object]:
        """Freezing happens only where no gradient can be asked for."""
        return torch.no_grad()
