"""Rules of conversions, copies and of what does nothing in inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch2rt.layers.expand import expand_to
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering


@rule(
    "aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device",
    "aten.to.other", "aten.to.prim_Device", "aten.to.prim_dtype", "aten.type_as.default",
    "aten._cast_Float.default", "aten._cast_Long.default", "aten._cast_Half.default",
)
def lower_to(lowering: Lowering, input: Tensor, **named: object) -> Tensor:
    """Conversion to the node's dtype; device, layout and copies have no meaning here."""
    return lowering.cast(input, lowering.output_type.dtype)


@rule("aten.copy.default")
def lower_copy(lowering: Lowering, input: Tensor, src: Tensor, non_blocking: bool) -> Tensor:
    """The source in the shape and dtype of the input."""
    return expand_to(lowering, lowering.cast(src, input.dtype), input.shape)


@rule(
    "aten.clone.default", "aten.contiguous.default", "aten.detach.default", "aten.alias.default",
    "aten.lift_fresh.default", "aten.lift_fresh_copy.default", "aten.lift.default",
    "aten.positive.default", "aten.detach_copy.default", "aten.detach_.default",
    "aten.alias_copy.default",
    "aten.resolve_conj.default", "aten.resolve_neg.default", "aten.real.default",
)
def lower_identity(lowering: Lowering, input: Tensor, **named: object) -> Tensor:
    """The input itself."""
    return input


@rule(
    "aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default",
    "aten.feature_alpha_dropout.default",
)
def lower_dropout(lowering: Lowering, input: Tensor, p: float, train: bool) -> Tensor:
    """The input itself; dropout that is asked to be random stays so."""
    if train and p > 0:
        raise Unsupported("dropout in training mode")
    return input
