"""torch.compile with weights frozen into the graph."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import torch

from torch2rt.bench.contenders.adapter import cast_loaded
from torch2rt.bench.contenders.base import BuildRequest, Contender
from torch2rt.bench.contenders.eager import DTYPES, synchronised

MODES = ("default", "max-autotune")


class Compile(Contender):
    """``torch.compile(model)`` by the Inductor backend, freezing on, in two modes."""

    name = "compile"
    packages: ClassVar = ("torch",)
    variants: ClassVar = dict.fromkeys(DTYPES, MODES)
    devices: ClassVar = ("cpu", "cuda")
    times_while_building = True

    def build(self, request: BuildRequest) -> Callable[[], object]:
        """The compiled module; compilation happens at its first call."""
        torch._inductor.config.freezing = True
        loaded = cast_loaded(request.loaded, DTYPES[request.precision], request.device)
        args, kwargs = loaded.args, loaded.kwargs
        mode = request.variant
        if mode == "default" and request.device.startswith("cuda"):
            mode = "reduce-overhead"
        model = torch.compile(loaded.model, mode=mode)

        def call() -> object:
            return model(*args, **kwargs)

        return synchronised(call, request.device)

    def context(self) -> AbstractContextManager[object]:
        """Freezing happens only where no gradient can be asked for."""
        return torch.no_grad()
