"""Matmuls with weights stored in 8 bits as matmuls of float weights, for tactics of those.

The weights in the engine file stay small; those that a plan works with are float again, which the
names of such tactics say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Job, Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.accumulator import has_stored_weights
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import Array, DType


def stored_refusal(spec: LayerSpec) -> Refusal | None:
    """Why a layer is no product of floats by one constant matrix that is stored in int8, or None.

    The rows are those of all matrices of the batch.
    """
    kind, (a, b) = spec.kind, spec.inputs[:2]
    if not isinstance(kind, Matmul) or not has_stored_weights(a.dtype, b.dtype):
        return Refusal("its weights are not stored in 8 bits")
    if spec.constants[1] is None or spec.constants[0] is not None or b.rank != 2:
        return Refusal("its second operand is no constant matrix")
    return Refusal("its first operand is transposed") if kind.transpose_a else None


def unpacked_spec(spec: LayerSpec) -> LayerSpec:
    """The same layer with its second operand in the dtype of the first."""
    a, b, *others = spec.inputs
    return replace(spec, inputs=(a, replace(b, dtype=a.dtype), *others))


class UnpackedWeights(Weights):
    """The weights of a layer, of which the constant ``name`` is whole numbers in a float dtype.

    Those between -128 and 127 are exact in every float.
    """

    def __init__(self, weights: Weights, name: str, dtype: DType) -> None:
        self._weights = weights
        self._name = name
        self._dtype = dtype

    def array(self, name: str) -> Array:
        """A constant's data; bits where numpy has no such dtype."""
        array = self._weights.array(name)
        if name != self._name:
            return array
        if self._dtype is DType.BFLOAT16:
            return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return array.astype(self._dtype.numpy)

    def packed(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Packed forms of what is unpacked have keys of their own; others are shared."""
        is_own = self._name in key
        return self._weights.packed(("unpacked", self._dtype, *key) if is_own else key, make)

    def blob(self, key: str, job: Job) -> bytes:
        """Those of the engine: a key says what the code depends on."""
        return self._weights.blob(key, job)


class UnpackedTactic(Tactic):
    """A tactic for float weights, ``over``, that is given what 8 bits stand for."""

    kinds: ClassVar[tuple[str, ...]] = ("matmul",)
    over: ClassVar[Tactic]

    def inner(self, spec: LayerSpec) -> LayerSpec:
        """The layer of float weights."""
        return unpacked_spec(spec)

    def unpack(self, spec: LayerSpec, weights: Weights, name: str) -> Weights:
        """The weights, the constant ``name`` as float."""
        return UnpackedWeights(weights, name, spec.inputs[0].dtype)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """As the tactic for floats."""
        return self.over.takes_pitch(self.inner(spec))

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """What the tactic for floats takes."""
        return stored_refusal(spec) or self.over.supports(self.inner(spec))

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """As the tactic for floats."""
        return self.over.layouts(self.inner(spec))

    def estimate_us(self, spec: LayerSpec) -> float | None:
        """As the tactic for floats."""
        return self.over.estimate_us(self.inner(spec))

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """The tactic for floats, given float weights."""
        name = spec.constants[1]
        if name is None:
            raise Unprepared("the weight is not a constant")
        return self.over.prepare(self.inner(spec), self.unpack(spec, weights, name))


def unpacked_variants(
    base: type[UnpackedTactic], module: ModuleType, library: str, own: str
) -> dict[str, type[UnpackedTactic]]:
    """Classes of the module ``own``: ``base`` over every tactic of ``module``, by their names.

    ``matmul.triton.pointer_64x64x64`` becomes ``matmul.triton_unpacked.pointer_64x64x64``.
    """
    tactics = {
        name: cls for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, Tactic) and hasattr(cls, "name")
        and cls.__module__ == module.__name__
    }
    return {
        f"Unpacked{name}": type(f"Unpacked{name}", (base,), {
            "__module__": own, "__doc__": f"{cls.__doc__} Weights are unpacked.",
            "name": cls.name.replace(library, f"{library}_unpacked"), "over": cls(),
        })
        for name, cls in tactics.items()
    }
