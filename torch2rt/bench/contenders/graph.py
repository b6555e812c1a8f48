"""PyTorch as it is, recorded once as a CUDA graph and replayed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import torch

from torch2rt.bench.contenders.base import BuildRequest, Contender
from torch2rt.bench.contenders.eager import CUDA_VARIANTS, on_gpu

WARM_UP_CALLS = 3


class Graph(Contender):
    """``torch.cuda.graph`` around the eager model, inputs and outputs at fixed addresses."""

    name = "graph"
    packages: ClassVar = ("torch",)
    variants: ClassVar = CUDA_VARIANTS
    devices: ClassVar = ("cuda",)

    def build(self, request: BuildRequest) -> Callable[[], object]:
        """A replay; the outputs are overwritten by the next one."""
        loaded = on_gpu(request)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_CALLS):
                loaded.model(*loaded.args, **loaded.kwargs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = loaded.model(*loaded.args, **loaded.kwargs)

        def call(weights: object = loaded) -> object:
            """Replay; the graph knows the addresses of the weights, and they must stay."""
            graph.replay()
            return outputs

        return call

    def context(self) -> AbstractContextManager[object]:
        """Without autograd's bookkeeping."""
        return torch.inference_mode()
