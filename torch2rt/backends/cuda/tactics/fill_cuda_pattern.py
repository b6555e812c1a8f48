"""Tensors of one value."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import Move, flat_launch, largest_vector, pattern_of
from torch2rt.backends.cuda.launch import I32, I64, Argument, KernelPrepared, Out
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.kernels.cuda import fill
from torch2rt.layers.fill import Fill
from torch2rt.network.dtype import DType


class FillPattern(Move):
    """A vector per thread."""

    name: ClassVar[str] = "fill.cuda.pattern"
    kinds: ClassVar[tuple[str, ...]] = ("fill",)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Memory is filled without gaps."""
        return spec.outputs[0].is_dense

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """A float8 other than 0 has no bits here."""
        if spec.outputs[0].dtype is DType.FLOAT8_E4M3 and kind_of(spec, Fill).value != 0:
            return Refusal("float8 values other than 0")
        return None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        output = spec.outputs[0]
        value = kind_of(spec, Fill).value
        number = value if isinstance(value, float | bool) else int(value)
        vector = largest_vector(output.size_bytes)
        total = output.size_bytes // vector
        arguments: list[Argument] = [Out(0), I32(total), I64(pattern_of(number, output.dtype))]
        source = fill.fill_source(vector)
        return KernelPrepared([
            flat_launch(weights, fill.NAME, source, fill.THREADS, total, arguments)
        ])
