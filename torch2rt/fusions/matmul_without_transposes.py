"""Transposes of batch axes before and behind a matmul with a matrix cancel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class TransposedMatmul:
    """A transpose, a matmul and a transpose that undoes the first."""

    before: Layer
    matmul: Layer
    after: Layer


class MatmulWithoutTransposes(Fusion[TransposedMatmul]):
    """Multiply rows in the order in which they lie.

    Before: %t = transpose(%x[b,l,c]) {"permutation": [1,0,2]}   %m = matmul(%t, @w[c,k])
            %y = transpose(%m) {"permutation": [1,0,2]}
    After:  %y = matmul(%x, @w)
    Fires when the second transpose undoes the first, both leave the last axis alone, and the
    epilogue reads one value per channel only.
    Refuses when something else reads the matmul.
    """

    name: ClassVar[str] = "matmul_without_transposes"
    equation: ClassVar[str] = "transpose(transpose(x) w) = x w"
    priority: ClassVar[int] = 47

    def match(self, network: Network, layer: Layer) -> TransposedMatmul | None:
        """A transpose behind a matmul behind a transpose."""
        if not isinstance(layer.kind, Transpose):
            return None
        matmul = layer.inputs[0].producer
        if matmul is None or not isinstance(matmul.kind, Matmul) or matmul.kind.transpose_a:
            return None
        before = matmul.inputs[0].producer
        if before is None or not isinstance(before.kind, Transpose):
            return None
        first, second = before.kind.permutation, layer.kind.permutation
        last = len(first) - 1
        if matmul.inputs[1].rank != 2 or len(second) != len(first) or first[last] != last:
            return None
        if tuple(first[axis] for axis in second) != tuple(range(len(first))):
            return None
        return TransposedMatmul(before, matmul, layer)

    def check(self, network: Network, match: TransposedMatmul) -> Reject | None:
        """One reader, and an epilogue per channel."""
        matmul = match.matmul
        if network.only_user(matmul.output) is not match.after:
            return Reject(f"{matmul.output.name} has other readers", matmul.name)
        for tensor in matmul.epilogue_inputs:
            if any(size != 1 for size in tensor.shape[:-1]):
                return Reject(f"its epilogue reads {tensor.name}, one value per row", matmul.name)
        return None

    def rewrite(self, network: Network, match: TransposedMatmul) -> Layer:
        """The matmul of what was transposed."""
        matmul = match.matmul
        inputs = (match.before.inputs[0], *matmul.inputs[1:])
        return replace_layer(
            network, match.after, matmul.kind, inputs, absorbed=(matmul, match.before),
            epilogue=matmul.epilogue, named_after=matmul,
        )
