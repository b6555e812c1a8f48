"""Products by weights stored in 8 bits that are unpacked to float when the engine is loaded.

Many rows are multiplied faster so. The file stays small, memory holds the weights in float.
"""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cpu.stored_weights.plan import stored_refusal
from torch2rt.backends.cpu.tactics.matmul_onednn import PackedMatmul
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.backends.unpacked import UnpackedWeights, unpacked_spec


class UnpackedMatmul(Tactic):
    """oneDNN's matmul over the unpacked weights."""

    name: ClassVar[str] = "matmul.onednn.unpacked"
    kinds: ClassVar[tuple[str, ...]] = ("matmul",)
    over: ClassVar[Tactic] = PackedMatmul()

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """What the tactic for floats takes."""
        return stored_refusal(spec) or self.over.supports(unpacked_spec(spec))

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """The tactic for floats, given float weights."""
        name = spec.constants[1]
        if name is None:
            raise Unprepared("the weight is not a constant")
        unpacked = UnpackedWeights(weights, name, spec.inputs[0].dtype)
        return self.over.prepare(unpacked_spec(spec), unpacked)
