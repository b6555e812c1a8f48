"""Runs a shipped plugin's CUDA kernels against its torch body.

    check_kernels(reorg, torch.randn(2, 8, 6, 6), 2, "darknet")

The call is captured and lowered as `convert` does; the kernels run on the device of the fixture
``cuda_device`` and are compiled for every architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from cuda_compile import compile_for_all
from cuda_testing import check_cuda_tactic
from layer_testing import lower_model
from tactic_testing import make_spec
from torch import nn

from torch2rt.backends.cuda.cpp.plugin_source import plugin_source
from torch2rt.backends.reference.executor import run_network
from torch2rt.layers.plugin import Plugin
from torch2rt.network.layer import Layer


class _Call(nn.Module):
    def __init__(self, function: Callable[..., Any], others: Sequence[Any]) -> None:
        super().__init__()
        self.function, self.others = function, others

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors, *self.others)


def plugin_call(function: Callable[..., Any], *arguments: Any) -> tuple[Plugin, list[torch.Tensor]]:
    """The layer that a call becomes, and what it reads."""
    tensors = [item for item in arguments if isinstance(item, torch.Tensor)]
    call = _Call(function, arguments[len(tensors) :])
    network = lower_model(call, *tensors).network
    found: list[tuple[Plugin, list[torch.Tensor]]] = []

    def observe(layer: Layer, read: tuple[torch.Tensor, ...], _: object) -> None:
        if isinstance(layer.kind, Plugin):
            found.append((layer.kind, list(read)))

    run_network(network, dict(zip(network.inputs, tensors, strict=True)), observe=observe)
    assert len(found) == 1, network
    return found[0]


def check_kernels(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Tensors come first. ``options`` go to `check_cuda_tactic`."""
    kind, tensors = plugin_call(function, *arguments)
    check_cuda_tactic("plugin.cuda.first", kind, tensors, **options)


def compile_kernels(function: Callable[..., Any], *arguments: Any) -> None:
    """For every architecture."""
    kind, tensors = plugin_call(function, *arguments)
    spec = make_spec(kind, tensors)
    for way in kind.cuda:
        for source, entry, *_ in way:
            compile_for_all(plugin_source(spec, source), entry)
