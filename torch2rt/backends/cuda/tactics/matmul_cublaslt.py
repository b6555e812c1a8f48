"""Matrix products by cuBLASLt: one tactic per algorithm that its heuristics propose."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from torch2rt.backends.cuda.constants import convert, operand, packed_constant
from torch2rt.backends.cuda.cublaslt import binding
from torch2rt.backends.cuda.cublaslt.algorithms import (
    ALGORITHM_COUNT,
    HeuristicJob,
    read_algorithm,
)
from torch2rt.backends.cuda.cublaslt.apart import ApartPrepared, find_apart
from torch2rt.backends.cuda.cublaslt.problem import Gemm, find_gemm
from torch2rt.backends.cuda.cublaslt.product import Operands, Product
from torch2rt.backends.cuda.device import Memory, current_device
from torch2rt.backends.cuda.launch import In, Out
from torch2rt.backends.cuda.tactics.pointwise_cuda_vector import PointwiseVector
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.network.dtype import Array


class CublasLtMatmul(Tactic):
    """One algorithm. Operands may be pitched; a bias must be a constant.

    A bias has the dtype of the result: in 16 bits it is rounded, as torch's own linear layers round
    it. That stays within 1.5 times the error of eager.
    """

    kinds: ClassVar[tuple[str, ...]] = ("matmul",)
    index: ClassVar[int]

    def gemm(self, spec: LayerSpec) -> Gemm | Refusal:
        """The product that a layer is."""
        return find_gemm(spec)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Distances of rows and of matrices are told to the library."""
        return not isinstance(self.gemm(spec), Refusal)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """What the library can express."""
        reason = binding.missing()
        if reason is not None:
            return Refusal(reason)
        gemm = self.gemm(spec)
        return gemm if isinstance(gemm, Refusal) else None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Look up the algorithm, or ask the library; upload constants."""
        gemm = self.gemm(spec)
        if isinstance(gemm, Refusal):
            raise Unprepared(gemm.reason)
        bias = _bias(spec, weights, gemm)
        device, gpu = current_device(), binding.current_gpu()
        where = f"{device.arch}/{device.multiprocessors}/{binding.version()}"
        blob = weights.blob(f"cublaslt/{where}/{gemm.digest}", HeuristicJob(gemm, gpu))
        residual = gemm.epilogue.residual
        places = Operands(
            operand(spec, weights, 0), operand(spec, weights, 1),
            In(residual) if residual is not None else Out(), bias, _scales(spec, weights, gemm),
        )
        return Product(gemm, read_algorithm(blob, self.index), places, gpu)


def _bias(spec: LayerSpec, weights: Weights, gemm: Gemm) -> Memory | None:
    """The bias in device memory, in the dtype of the result."""
    index = gemm.epilogue.bias
    name = spec.constants[index] if index is not None else None
    if index is None or name is None:
        return None
    source, target = spec.inputs[index].dtype, spec.outputs[0].dtype

    def pack(array: Array) -> Array:
        return convert(array, source, target)

    return packed_constant(weights, name, f"cublaslt {target.value}", pack)


def _scales(spec: LayerSpec, weights: Weights, gemm: Gemm) -> tuple[Memory, Memory] | None:
    """Scales of the columns, and those of the rows, which the library wants too: ones."""
    name = spec.constants[gemm.scale] if gemm.scale is not None else None
    if name is None:
        return None
    columns, rows = gemm.d.columns, gemm.d.rows

    def spread(array: Array) -> Array:
        return np.broadcast_to(array.reshape(-1), (columns,))

    def ones() -> Memory:
        return current_device().upload(np.ones(rows, np.float32))

    return (
        packed_constant(weights, name, f"cublaslt scales {columns}", spread),
        weights.packed(("cuda", "ones", rows), ones),
    )


class CublasLtApart(CublasLtMatmul):
    """One algorithm, and a pointwise kernel of ours for what the library's epilogue lacks."""

    _pointwise = PointwiseVector()

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """As the product takes it."""
        apart = find_apart(spec)
        return not isinstance(apart, Refusal) and super().takes_pitch(apart.head)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """An epilogue that can be cut in two."""
        reason = binding.missing()
        if reason is not None:
            return Refusal(reason)
        apart = find_apart(spec)
        return apart if isinstance(apart, Refusal) else self._pointwise.supports(apart.tail)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Both steps."""
        apart = find_apart(spec)
        if isinstance(apart, Refusal):
            raise Unprepared(apart.reason)
        head = super().prepare(apart.head, weights)
        return ApartPrepared(apart, head, self._pointwise.prepare(apart.tail, weights))


def _variants(base: type[CublasLtMatmul], prefix: str, count: int) -> dict[str, type]:
    """Classes of the first ``count`` algorithms."""
    return {
        f"{base.__name__}{index}": type(f"{base.__name__}{index}", (base,), {
            "__module__": __name__, "__doc__": f"Algorithm {index} of the heuristics.",
            "name": f"matmul.cublaslt.{prefix}{index}", "index": index,
        })
        for index in range(count)
    }


globals().update(_variants(CublasLtMatmul, "algo", ALGORITHM_COUNT))
globals().update(_variants(CublasLtApart, "apart", 3))
