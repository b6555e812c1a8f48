"""Triangles of matrices: the other side of the diagonal is cleared."""

from __future__ import annotations

import math
from typing import ClassVar

from torch2rt.backends.buffer import VECTOR_BYTES
from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.moves import Move, flat_launch, overwritable
from torch2rt.backends.cuda.launch import I32, Argument, KernelPrepared, Out
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec, LayoutChoice, plain_choice
from torch2rt.backends.tactic import Prepared, Weights
from torch2rt.kernels.cuda import triangle
from torch2rt.layers.triangle import Triangle


class TriangleMask(Move):
    """A vector of a row per thread. Row-major."""

    name: ClassVar[str] = "triangle.cuda.mask"
    kinds: ClassVar[tuple[str, ...]] = ("triangle",)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Rows follow each other."""
        return all(tensor.is_dense for tensor in (*spec.inputs, *spec.outputs))

    def layouts(self, spec: LayerSpec) -> list[LayoutChoice]:
        """Row-major."""
        return [plain_choice(spec)]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        kind, output = kind_of(spec, Triangle), spec.outputs[0]
        rows, columns = output.shape[-2:]
        item = output.dtype.itemsize_bytes
        vector = math.gcd(columns, VECTOR_BYTES // item)
        total = output.element_count // vector
        arguments: list[Argument] = [operand(spec, weights, 0), Out(0)]
        arguments += [I32(number) for number in (total, rows, columns // vector, kind.diagonal)]
        source = triangle.triangle_source(item, vector, kind.upper)
        launch = flat_launch(
            weights, triangle.NAME, source, triangle.THREADS, total, arguments
        )
        return KernelPrepared([launch], may_overwrite=overwritable(spec))
