"""What torch itself has of float8: linear layers by torch._scaled_mm, the rest compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import Tensor, fx, nn

from torch2rt.bench.contenders.adapter import (
    FlatModel,
    calibration_samples,
    cast_loaded,
    flat_inputs,
)
from torch2rt.bench.contenders.base import BuildRequest, Contender
from torch2rt.bench.source import LoadedModel

FLOAT8_MAX = 448.0
# What the products of the library count in.
_MULTIPLE = 16


class ScaledMm(Contender):
    """The exported model in fp16, static scales from calibration, ``torch.compile`` over it.

    Scales are per tensor, as the library's quick products of half results want them, and sums are
    those of ``use_fast_accum=True``.
    """

    name = "scaled_mm"
    packages: ClassVar = ("torch",)
    variants: ClassVar = {}
    cuda_variants: ClassVar = {"fp8": ("reduce-overhead",)}
    devices: ClassVar = ("cuda",)

    def build(self, request: BuildRequest) -> Callable[[], object]:
        """The compiled module; compilation happens at its first call."""
        torch._inductor.config.freezing = True
        with torch.inference_mode(False), torch.no_grad():
            loaded = cast_loaded(request.loaded, torch.float16, request.device)
            tensors = flat_inputs(loaded)
            model = torch.compile(in_float8(loaded), mode=request.variant)

        def call() -> object:
            return model(*tensors)

        return call

    def context(self) -> AbstractContextManager[object]:
        """Freezing happens only where no gradient can be asked for."""
        return torch.no_grad()


class Float8Linear(nn.Module):
    """A linear layer that notes the range of its inputs, and multiplies float8 once `settled`."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.largest = weight.new_zeros((), dtype=torch.float32)
        self.is_settled = False

    def forward(self, x: Tensor) -> Tensor:
        """[..., k] to [..., n], in the dtype of x."""
        if not self.is_settled:
            self.largest = torch.maximum(self.largest, x.abs().amax().float())
            return nn.functional.linear(x, self.weight, self.bias)
        rows = _rounded(x.flatten(0, -2), self.x_scale)
        y: Tensor = torch._scaled_mm(
            rows, self.weight.t(), scale_a=self.x_scale, scale_b=self.weight_scale,
            bias=self.bias, out_dtype=x.dtype, use_fast_accum=True,
        )
        return y.reshape(*x.shape[:-1], -1)

    def settle(self) -> None:
        """Round the weight; from now on multiply float8."""
        self.x_scale = (self.largest / FLOAT8_MAX).clamp(min=1e-12)
        self.weight_scale = (self.weight.abs().amax().float() / FLOAT8_MAX).clamp(min=1e-12)
        self.weight = _rounded(self.weight, self.weight_scale)
        self.is_settled = True


def in_float8(loaded: LoadedModel) -> nn.Module:
    """The model over its flat tensors, its linear layers in float8 as calibration samples say."""
    program = torch.export.export(FlatModel(loaded), flat_inputs(loaded), strict=False)
    module = program.module()
    layers = _replaced(module)
    for sample in calibration_samples(loaded):
        module(*sample)
    for layer in layers:
        layer.settle()
    return module


def _replaced(module: fx.GraphModule) -> Sequence[Float8Linear]:
    """Put a `Float8Linear` in the place of every linear layer of sizes that can be multiplied."""
    layers: list[Float8Linear] = []
    for node in list(module.graph.nodes):
        if node.target is not torch.ops.aten.linear.default:
            continue
        x, *parameters = node.args
        weight, *bias = (_attribute(module, parameter) for parameter in parameters)
        if x.meta["val"].ndim < 2 or weight is None or any(s % _MULTIPLE for s in weight.shape):
            continue
        layers.append(Float8Linear(weight, bias[0] if bias else None))
        name = f"float8_{len(layers)}"
        module.add_submodule(name, layers[-1])
        with module.graph.inserting_after(node):
            made = module.graph.call_module(name, (x,))
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
    module.recompile()
    return layers


def _attribute(module: fx.GraphModule, node: object) -> Tensor | None:
    """The parameter that a node reads; None for what is computed."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found: object = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found.detach() if isinstance(found, Tensor) else None


def _rounded(x: Tensor, scale: Tensor) -> Tensor:
    return (x.float() / scale).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn)
