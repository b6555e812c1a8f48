"""Reshapes by copying the bytes, where the output cannot be the input's memory."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cpu.steps import ArrayOperand, StepBuilder
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights


class ReshapeCopy(Tactic):
    """One copy of all bytes, row-major."""

    name: ClassVar[str] = "reshape.numpy.copy"
    kinds: ClassVar[tuple[str, ...]] = ("reshape",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every reshape."""
        return None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Treat both sides as flat."""
        builder = StepBuilder(spec, weights)
        flat = TensorSpec((spec.outputs[0].element_count,), spec.outputs[0].dtype)
        source = builder.array_input(0)
        if isinstance(source, ArrayOperand):
            source = ArrayOperand(source.place, flat)
        else:
            source = source.reshape(flat.shape)
        builder.copy(ArrayOperand(builder.array_output().place, flat), source)
        return builder.finish()

