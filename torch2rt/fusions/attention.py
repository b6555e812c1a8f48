"""Attention spelled out as two matmuls around a softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.attention import Attention
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.shapes import broadcast
from torch2rt.layers.softmax import Softmax
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class SpelledAttention:
    """The three layers, the factor on the scores and the mask added to them."""

    scores: Layer
    softmax: Layer
    product: Layer
    scale: float
    mask: Tensor | None


class FuseAttention(Fusion[SpelledAttention]):
    """Recognise softmax(q k^T * scale + mask) v.

    Before: %s = matmul(%q, %k, %m) {"transpose_b": true} epilogue add(mul(i0,0.125),i1)
            %p = softmax(%s) {"axis": 3}   %y = matmul(%p, %v)
    After:  %y = attention(%q, %k, %v, %m) {"scale": 0.125, "has_mask": true}
    Fires when the scores are only scaled by a literal and added to a float mask of the scores'
    dtype.
    Refuses when scores or probabilities have other readers (a model that returns them), or when
    the second matmul has an epilogue.
    """

    name: ClassVar[str] = "fuse_attention"
    equation: ClassVar[str] = "softmax(q k^T * c + m) v = attention(q, k, v, m)"
    priority: ClassVar[int] = 60

    def match(self, network: Network, layer: Layer) -> SpelledAttention | None:
        """A matmul of a softmax over the last axis of a matmul with a transposed operand."""
        if not isinstance(layer.kind, Matmul) or layer.kind != Matmul():
            return None
        softmax = layer.inputs[0].producer
        if softmax is None or not isinstance(softmax.kind, Softmax) or softmax.kind.is_log:
            return None
        scores = softmax.inputs[0].producer
        if softmax.kind.axis != softmax.output.rank - 1 or softmax.epilogue is not None:
            return None
        if scores is None or scores.kind != Matmul(transpose_b=True):
            return None
        term = _scale_and_mask(scores)
        return None if term is None else SpelledAttention(scores, softmax, layer, *term)

    def check(self, network: Network, match: SpelledAttention) -> Reject | None:
        """One reader each, no epilogue behind, and the result's shape."""
        for first, second in ((match.scores, match.softmax), (match.softmax, match.product)):
            if network.only_user(first.output) is not second:
                return Reject(f"{first.output.name} has other readers", first.name)
        if match.product.inputs.count(match.softmax.output) > 1:
            return Reject("the probabilities are also the values", match.product.name)
        if match.product.epilogue is not None:
            return Reject("an epilogue follows", match.product.name)
        scores, mask = match.scores.output, match.mask
        if mask is not None and mask.dtype != scores.dtype:
            return Reject(f"the mask is {mask.dtype.value}", match.scores.name)
        if mask is not None and broadcast(mask.shape, scores.shape) != scores.shape:
            return Reject("the mask does not broadcast to the scores", match.scores.name)
        q, v = match.scores.inputs[0], match.product.inputs[1]
        if q.rank != match.product.output.rank or v.rank != q.rank:
            return Reject("query and values differ in rank", match.product.name)
        return None

    def rewrite(self, network: Network, match: SpelledAttention) -> Layer:
        """One layer in the place of the second matmul."""
        masks = () if match.mask is None else (match.mask,)
        inputs = (*match.scores.main_inputs, match.product.inputs[1], *masks)
        kind = Attention(scale=match.scale, has_mask=bool(masks))
        return replace_layer(
            network, match.product, kind, inputs, absorbed=(match.softmax, match.scores)
        )


def _scale_and_mask(scores: Layer) -> tuple[float, Tensor | None] | None:
    """What the epilogue of the scores does, if it only scales and adds one tensor."""
    node = scores.epilogue if scores.epilogue is not None else ex.Input(0)
    mask: Tensor | None = None
    scale = 1.0
    match node:
        case ex.Apply("add", (inner, ex.Input(index))) if index > 0:
            node, mask = inner, scores.epilogue_inputs[index - 1]
    match node:
        case ex.Apply("mul", (inner, ex.Constant(value))):
            node, scale = inner, float(value)
    return (scale, mask) if node == ex.Input(0) else None
