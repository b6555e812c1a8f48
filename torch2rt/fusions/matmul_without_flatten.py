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
    Fires when the epilogue reads one value per channel only. Where %x has other batch axes than %y,
    as the heads of attention, the first reshape stays and gives it those of %y.
    Refuses when %m has other readers.
    """

    name: ClassVar[str] = "matmul_without_flatten"
    equation: ClassVar[str] = "reshape(reshape(x) @ w) = x @ w"
    priority: ClassVar[int] = 46

    def match(self, network: Network, layer: Layer) -> FlattenedMatmul | None:
        """A reshape after a matmul after a reshape; the last keeps the channels."""
        matmul = layer.inputs[0].producer if isinstance(layer.kind, Reshape) else None
        if matmul is None or not isinstance(matmul.kind, Matmul) or matmul.kind.transpose_a:
            return None
        before = matmul.inputs[0].producer
        if before is None or not isinstance(before.kind, Reshape):
            return None
        weight, shape = matmul.inputs[1], layer.output.shape
        if weight.rank != 2 or shape[-1:] != matmul.output.shape[-1:]:
            return None
        found = FlattenedMatmul(before, matmul, layer)
        is_deeper = len(shape) > matmul.output.rank
        return found if is_deeper or _has_same_batch(found) else None

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
        x = match.before.inputs[0]
        if not _has_same_batch(match):
            assert isinstance(match.after.kind, Reshape)
            features = match.matmul.inputs[0].shape[-1]
            kind = Reshape((*match.after.kind.shape[:-1], features))
            x = network.add(
                kind, (x,), name=match.before.name, before=match.after,
                origins=match.before.origins,
            ).output
        inputs = (x, *match.matmul.inputs[1:])
        return replace_layer(
            network, match.after, match.matmul.kind, inputs,
            absorbed=(match.matmul, match.before), epilogue=match.matmul.epilogue,
            named_after=match.matmul,
        )


def _has_same_batch(match: FlattenedMatmul) -> bool:
    """Whether the tensor before it was flattened has all axes of the result but the last."""
    x, flat = match.before.inputs[0], match.matmul.inputs[0]
    wanted = (*match.after.output.shape[:-1], flat.shape[-1])
    return x.shape == wanted
