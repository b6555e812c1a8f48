"""Primitive attributes: post-ops, scales, zero points, and scratch memory given by the caller.

A post-op is applied to the result in order, before it is stored. Its tensor, where it has one, is
passed at execution as `post_op_arg(index)`.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch2rt.backends.cpu.onednn.constants import (
    SCRATCHPAD_USER,
    Algorithm,
    DataType,
    FpMath,
)
from torch2rt.backends.cpu.onednn.handle import Handle, out_pointer, pointer_of
from torch2rt.backends.cpu.onednn.loader import call
from torch2rt.backends.cpu.onednn.memory import MemoryDesc


@dataclass(frozen=True, slots=True)
class Eltwise:
    """x -> f(x; alpha, beta): clip_v2(min, max), linear alpha x + beta, swish x sigmoid(alpha x).

    hardsigmoid is clip(alpha x + beta, 0, 1), hardswish x clip(alpha x + beta, 0, 1), relu has the
    negative slope alpha, pow is alpha x^beta.
    """

    algorithm: Algorithm
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True, slots=True)
class Binary:
    """x -> op(x, other); every axis of `other` is 1 or that of x. `other` may not be `any`.

    `any` is allowed for `other` only when its dims equal x's; the primitive then picks x's layout.
    """

    algorithm: Algorithm
    other: MemoryDesc


@dataclass(frozen=True, slots=True)
class Sum:
    """x -> x + scale * (what dst held - zero_point), that value read as `data_type`."""

    scale: float = 1.0
    zero_point: int = 0
    data_type: DataType = DataType.undefined


@dataclass(frozen=True, slots=True)
class Prelu:
    """x -> x if x > 0 else w x; `mask` bit i set: w varies along axis i. w is plain f32."""

    mask: int


@dataclass(frozen=True, slots=True)
class DepthwiseConvolution:
    """A k x k depthwise convolution fused behind a 1x1 convolution (2D only)."""

    weights: DataType
    bias: DataType
    dst: DataType
    kernel: int
    stride: int
    padding: int


PostOp = Eltwise | Binary | Sum | Prelu | DepthwiseConvolution


class Attributes(Handle):
    """Attributes of one primitive; scratch memory is always the caller's (thread safety).

    `scales` and `zero_points` map an argument (`Arg`) to a mask: 0 is one value for the whole
    tensor, bit i set means one per index of axis i. Values are passed at execution.
    """

    __slots__ = ("post_ops",)

    def __init__(
        self,
        post_ops: Sequence[PostOp] = (),
        *,
        scales: Mapping[int, int] | None = None,
        zero_points: Mapping[int, int] | None = None,
        fpmath: FpMath = FpMath.strict,
    ) -> None:
        cell = out_pointer()
        call("dnnl_primitive_attr_create", ctypes.byref(cell), what="creating attributes")
        super().__init__(pointer_of(cell), "dnnl_primitive_attr_destroy")
        self.post_ops = tuple(post_ops)
        self._set("dnnl_primitive_attr_set_scratchpad_mode", SCRATCHPAD_USER)
        if fpmath != FpMath.strict:
            self._set("dnnl_primitive_attr_set_fpmath_mode", fpmath)
        for arg, mask in (scales or {}).items():
            self._set("dnnl_primitive_attr_set_scales_mask", arg, mask)
        for arg, mask in (zero_points or {}).items():
            self._set("dnnl_primitive_attr_set_zero_points_mask", arg, mask)
        if self.post_ops:
            chain = _PostOps(self.post_ops)  # named, so that it lives until it has been copied
            self._set("dnnl_primitive_attr_set_post_ops", chain.pointer)

    def _set(self, name: str, *values: int) -> None:
        call(name, self.pointer, *values, what=f"setting an attribute to {values}")


class _PostOps(Handle):
    """The C list of post-ops; copied by the library when set on attributes."""

    __slots__ = ()

    def __init__(self, post_ops: Sequence[PostOp]) -> None:
        cell = out_pointer()
        call("dnnl_post_ops_create", ctypes.byref(cell), what="creating post-ops")
        super().__init__(pointer_of(cell), "dnnl_post_ops_destroy")
        for post_op in post_ops:
            name, values = _append_call(post_op)
            call(name, self.pointer, *values, what=f"appending {post_op}")


def _append_call(post_op: PostOp) -> tuple[str, tuple[int | float, ...]]:
    """The C function that appends a post-op, and its arguments."""
    match post_op:
        case Eltwise(algorithm, alpha, beta):
            return "dnnl_post_ops_append_eltwise", (algorithm, alpha, beta)
        case Binary(algorithm, other):
            return "dnnl_post_ops_append_binary", (algorithm, other.pointer)
        case Sum(scale, zero_point, data_type):
            return "dnnl_post_ops_append_sum", (scale, zero_point, data_type)
        case Prelu(mask):
            return "dnnl_post_ops_append_prelu", (mask,)
        case DepthwiseConvolution(weights, bias, dst, kernel, stride, padding):
            values = (weights, bias, dst, kernel, stride, padding)
            return "dnnl_post_ops_append_dw", values
