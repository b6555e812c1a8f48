"""Scaled dot-product attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import broadcast
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Shape, Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Attention(LayerKind):
    """y = softmax(scale * q k^T + mask) v over the last two axes.

    Inputs: q [*batch, l, e], k [*batch, s, e], v [*batch, s, d], then the mask if ``has_mask``: a
    bool (False hides) or a float that is added, broadcast to [*batch, l, s]. ``is_causal`` hides
    key j from query i where j > i. With ``is_grouped``, the batch's last axis counts heads and
    each head of k and v serves as many consecutive heads of q. A query with every key hidden
    gives zeros. Output: [*batch, l, d], dtype of q. Of float8, all three of q, k and v, the sum
    in float32: shares of the values are not rounded to float8.
    ``*_heads_last`` tells that this operand has the last axis of its batch, the heads, behind its
    rows: [*, l, h, e] where [*, h, l, e] is meant, as linear layers leave and take it.
    Source: torch.nn.functional.scaled_dot_product_attention; ONNX Attention.
    """

    name: ClassVar[str] = "attention"
    scale: float
    is_causal: bool = False
    has_mask: bool = False
    is_grouped: bool = False
    query_heads_last: bool = False
    key_heads_last: bool = False
    value_heads_last: bool = False
    output_heads_last: bool = False

    @property
    def inputs_heads_last(self) -> tuple[bool, bool, bool]:
        """The flags of q, k and v."""
        return self.query_heads_last, self.key_heads_last, self.value_heads_last

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """[*batch, l, d]; [*, l, h, d] with ``output_heads_last``."""
        if len(inputs) != 3 + self.has_mask:
            raise ValueError(f"attention with {len(inputs)} inputs, has_mask={self.has_mask}")
        q, k, v = (
            _heads_first(x, is_last)
            for x, is_last in zip(inputs[:3], self.inputs_heads_last, strict=True)
        )
        if min(q.rank, k.rank, v.rank) < 2:
            raise ValueError(f"attention needs two axes or more, not {q}, {k} and {v}")
        _check_equal(q.shape[-1], k.shape[-1], f"feature sizes of query {q} and key {k}")
        _check_equal(k.shape[-2], v.shape[-2], f"lengths of key {k} and value {v}")
        batches = [x.shape[:-2] for x in (q, k, v)]
        if self.is_grouped:
            heads = batches[0][-1]
            batches[1:] = [_with_heads(batch, heads) for batch in batches[1:]]
        shape = (*broadcast(*batches), q.shape[-2], v.shape[-1])
        result = TensorType(shape, _result_dtype(q.dtype, k.dtype, v.dtype))
        return (_heads_first(result, self.output_heads_last),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The function of torch."""
        q, k, v = (
            x.transpose(-3, -2) if is_last else x
            for x, is_last in zip(inputs[:3], self.inputs_heads_last, strict=True)
        )
        mask = inputs[3] if self.has_mask else None
        result = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, mask, 0.0, self.is_causal, scale=self.scale, enable_gqa=self.is_grouped
        )
        return (result.transpose(-3, -2) if self.output_heads_last else result,)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Two per multiply-add of the two products."""
        features = inputs[0].shape[-1] + inputs[2].shape[-1]
        keys = inputs[1].shape[-3 if self.key_heads_last else -2]
        scores = outputs[0].element_count // outputs[0].shape[-1] * keys
        return 2 * int(scores * features)


def _heads_first(x: TensorType, is_last: bool) -> TensorType:
    """The type with the axes of heads and rows exchanged; the same function undoes it."""
    if not is_last:
        return x
    if x.rank < 3:
        raise ValueError(f"attention: {x} has no axis of heads to stand last")
    *batch, rows, heads, features = x.shape
    return TensorType((*batch, heads, rows, features), x.dtype)


def _result_dtype(q: DType, k: DType, v: DType) -> DType:
    """That of the query; ValueError where some are float8 and some are not."""
    if DType.FLOAT8_E4M3 not in (q, k, v):
        return q
    if not q is k is v:
        raise ValueError(f"attention of {q.value}, {k.value} and {v.value}: all or none are float8")
    return DType.FLOAT32


def _check_equal(left: object, right: object, what: str) -> None:
    if isinstance(left, int) and isinstance(right, int) and left != right:
        raise ValueError(f"attention: {what} differ")


def _with_heads(batch: Shape, heads: object) -> Shape:
    """The batch axes of k or v as if its heads were repeated to those of q."""
    own = batch[-1]
    if isinstance(own, int) and isinstance(heads, int) and heads % own:
        raise ValueError(f"attention: {heads} query heads are no multiple of {own} key heads")
    return (*batch[:-1], 1)


@rule("aten.scaled_dot_product_attention.default")
def lower_attention(
    lowering: Lowering, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None,
    dropout_p: float, is_causal: bool, scale: float | None, enable_gqa: bool,
) -> Tensor:
    """Attention; the scale is 1/sqrt(e) unless given."""
    if dropout_p:
        raise Unsupported(f"attention with dropout_p={dropout_p}: results are random")
    features = query.shape[-1]
    if scale is None:
        if not isinstance(features, int):
            raise Unsupported(f"attention over a symbolic feature size {features}")
        scale = features**-0.5
    is_grouped = enable_gqa and query.shape[-3] != key.shape[-3]
    kind = Attention(scale, is_causal, attn_mask is not None, is_grouped)
    masks = () if attn_mask is None else (attn_mask,)
    return lowering.add(kind, query, key, value, *masks)
