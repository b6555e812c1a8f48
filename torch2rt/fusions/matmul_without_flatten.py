"""A matmul keeps the batch axes that a model flattened around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.reshape import Reshape
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class FlattenedMatmul:
    """A reshape, a matmul and a reshape back."""

    before: Layer
    matmul: Layer
    after: Layer


class MatmulWithoutFlatten(Fusion[FlattenedMatmul]):
    """Take out the reshapes around a matmul with a two-axis weight.

    Before: %f = reshape(%x[b,s,c]) {"shape": [b*s,c]}   %m = matmul(%f, @w[c,k])
            %y = reshape(%m[b*s,k]) {"shape": [b,s,k]}
    After:  %y = matmul(%x[b,s,c], @w[c,k])
    Fires when the epilogue reads one value per channel only and the result has the shape that the
    matmul of %x has.
    Refuses when %m has other readers.
    """

    name: ClassVar[str] = "matmul_without_flatten"
    equation: ClassVar[str] = "reshape(reshape(x) @ w) = x @ w"
    priority: ClassVar[int] = 46

    def match(self, network: Network, layer: Layer) -> FlattenedMatmul | None:
        """A reshape after a matmul after a reshape that kept the last axis."""
        matmul = layer.inputs[0].producer if isinstance(layer.kind, Reshape) else None
        if matmul is None or not isinstance(matmul.kind, Matmul) or matmul.kind.transpose_a:
            return None
        before = matmul.inputs[0].producer
        if before is None or not isinstance(before.kind, Reshape):
            return None
        x, weight = before.inputs[0], matmul.inputs[1]
        if weight.rank != 2 or x.rank < 2 or x.shape[-1] != matmul.inputs[0].shape[-1]:
            return None
        if layer.output.shape != (*x.shape[:-1], matmul.output.shape[-1]):
            return None
        return FlattenedMatmul(before, matmul, layer)

    def check(self, network: Network, match: FlattenedMatmul) -> Reject | None:
        """One reader, and an epilogue per channel."""
        matmul = match.matmul
        if network.only_user(matmul.output) is not match.after:
            return Reject(f"{matmul.output.name} has other readers", matmul.name)
        for tensor in matmul.epilogue_inputs:
            if any(size != 1 for size in tensor.shape[:-1]):
                return Reject(f"its epilogue reads {tensor.name}, one value per row", matmul.name)
        return None

    def rewrite(self, network: Network, match: FlattenedMatmul) -> Layer:
        """The matmul of the tensor before it was flattened."""
        inputs = (match.before.inputs[0], *match.matmul.inputs[1:])
        return replace_layer(
            network, match.after, match.matmul.kind, inputs,
            absorbed=(match.matmul, match.before), epilogue=match.matmul.epilogue,
            named_after=match.matmul,
        )
