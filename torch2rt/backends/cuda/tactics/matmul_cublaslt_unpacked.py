"""Products by weights stored in 8 bits that are restored to float, by cuBLASLt.

Many rows are multiplied as fast as by a float model's weights, of which memory holds as many bytes;
the file stays small.
"""

from __future__ import annotations

from torch2rt.backends.cuda.restored import RestoredTactic
from torch2rt.backends.cuda.tactics import matmul_cublaslt
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal
from torch2rt.backends.unpacked import unpacked_variants

# Fewer wait for their weights, of which 8 bits are fewer.
FEWEST_ROWS = 32


class UnpackedCublasLt(RestoredTactic):
    """One algorithm over float weights."""

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """What the tactic for floats takes, of so many rows that it may be fastest."""
        rows = spec.outputs[0].element_count // max(1, spec.outputs[0].shape[-1])
        if rows < FEWEST_ROWS:
            return Refusal(f"{rows} rows, which wait for their weights more than they compute")
        return super().supports(spec)


globals().update(unpacked_variants(UnpackedCublasLt, matmul_cublaslt, "cublaslt", __name__))
