"""Attention on Hopper's tensor cores by kernels/cuda/sm90_attention.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.print_cpp import missing_op, print_cpp
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import Argument, Encoded, KernelPrepared, Launch, Out, Place
from torch2rt.backends.cuda.rounding import unsaturated
from torch2rt.backends.cuda.tactics.attention_triton import (
    Heads,
    attention_kind,
    find_heads,
    map_refusal,
)
from torch2rt.backends.cuda.triton.tensor_map import Box, Matrix, encoded_map
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.kernels.cuda.sm90_attention import NAME, attention_source
from torch2rt.kernels.cuda.sm90_attention_form import (
    FEATURES,
    MIN_STAGES,
    TILE_ROWS,
    AttentionForm,
    MaskForm,
)
from torch2rt.network.dtype import DType

# CUtensorMapDataType and CUtensorMapSwizzle of the driver.
_ELEMENTS = {DType.FLOAT16: 6, DType.BFLOAT16: 9, DType.FLOAT8_E4M3: 0}
_NOT_SWIZZLED, _SWIZZLE_64B, _SWIZZLE_128B = 0, 2, 3
_MASKS = (DType.BOOL, DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32)
_MOST_STAGES = 8
# What is kept of a multiprocessor's shared memory per block, beside the block's own.
_RESERVED_BYTES = 1024


class WgmmaAttention(Tactic):
    """``groups`` warpgroups take the tiles of a matrix in turn, or one each."""

    kinds: ClassVar[tuple[str, ...]] = ("attention",)
    groups: ClassVar[int]
    # Whether a block takes all queries of a matrix, whose keys it keeps meanwhile.
    is_whole: ClassVar[bool]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Rows may lie anywhere at multiples of 16 bytes."""
        return not isinstance(find_operands(spec), Refusal)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """16 bits or float8, 64 features, operands that can be mapped."""
        if current_device().capability != (9, 0):
            return Refusal("wgmma needs sm_90")
        heads = find_operands(spec)
        if isinstance(heads, Refusal):
            return heads
        if not self.is_whole and self.groups > 1 and heads.rows <= TILE_ROWS * self.groups:
            return Refusal("whole matrices are no larger")
        form = self._form(spec, heads)
        if form.stages < max(MIN_STAGES, form.chunks if self.is_whole else 0):
            return Refusal("keys and values that do not fit shared memory")
        return None

    def _form(self, spec: LayerSpec, heads: Heads) -> AttentionForm:
        """The source's parameters, with as many stages as fit."""
        device, kind = current_device(), attention_kind(spec)
        tiles = math.ceil(heads.rows / TILE_ROWS) if self.is_whole else self.groups
        blocks = 2 if self.groups == 1 else 1
        mask = None
        if kind.has_mask:
            far, mid, _, row, key = heads.mask
            mask = MaskForm(spec.inputs[3].dtype, (far, mid, row, key))
        form = AttentionForm(
            spec.inputs[0].dtype, heads.batch[:2], heads.rows, heads.keys, kind.scale,
            kind.is_causal, mask, self.groups, tiles, blocks, 1, spec.outputs[0].dtype,
            _epilogue(spec),
        )
        room = (device.shared_bytes + _RESERVED_BYTES) // blocks - _RESERVED_BYTES
        stages = 1
        while stages < _MOST_STAGES and replace(form, stages=stages + 1).shared_bytes <= room:
            stages += 1
        return replace(form, stages=stages)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile, bind."""
        heads = find_operands(spec)
        if isinstance(heads, Refusal):
            raise Unprepared(heads.reason)
        form = self._form(spec, heads)
        kernel = cpp_kernel(weights, NAME, attention_source(form), form.shared_bytes)
        blocks = min(form.items, form.blocks * current_device().multiprocessors)
        launch = Launch(
            kernel, (blocks, 1, 1), (form.threads, 1, 1), _arguments(spec, weights, heads, form),
            form.shared_bytes, overlaps=True,
        )
        return KernelPrepared([launch])


def _epilogue(spec: LayerSpec) -> str:
    """C++ of what follows a result x; storing cuts float8 to its range by itself."""
    if spec.epilogue is None:
        return "x"
    expression, out = spec.epilogue, spec.outputs[0].dtype
    if out is DType.FLOAT8_E4M3:
        expression = unsaturated(expression)
    return print_cpp(expression, ["x"], [DType.FLOAT32], out)


def find_operands(spec: LayerSpec) -> Heads | Refusal:
    """What the kernel is told of a layer, if it takes it."""
    heads = find_heads(spec)
    if isinstance(heads, Refusal):
        return heads
    dtype, kind = spec.inputs[0].dtype, attention_kind(spec)
    if dtype not in _ELEMENTS or spec.outputs[0].dtype not in _ELEMENTS:
        return Refusal(f"operands of {dtype.value} to {spec.outputs[0].dtype.value}")
    if spec.epilogue is not None and missing_op(spec.epilogue) is not None:
        return Refusal(f"an epilogue with {missing_op(spec.epilogue)}")
    if kind.has_mask and spec.inputs[3].dtype not in _MASKS:
        return Refusal(f"a mask of {spec.inputs[3].dtype.value}")
    if (heads.e, heads.d) != (FEATURES, FEATURES):
        return Refusal(f"{heads.e} and {heads.d} features, not {FEATURES}")
    if not (kind.scale > 0 and math.isfinite(kind.scale)):
        return Refusal(f"a scale of {kind.scale}")
    if any(stride * spec.outputs[0].dtype.itemsize_bytes % 16 for stride in heads.y):
        return Refusal("rows of the result that are not at multiples of 16 bytes")
    return map_refusal(spec, heads) or heads


def _arguments(
    spec: LayerSpec, weights: Weights, heads: Heads, form: AttentionForm
) -> list[Argument]:
    """Maps of q, k, v and y by what one copy moves, then the mask."""

    def mapped(
        place: Place, rows: int, strides: tuple[int, ...], box_rows: int,
        dtype: DType = form.dtype, is_swizzled: bool = True,
    ) -> Encoded:
        far, mid, _, row = strides
        swizzle = _SWIZZLE_128B if dtype.itemsize_bytes == 2 else _SWIZZLE_64B
        # An axis of size 1 has any stride but 0.
        outer = tuple(stride or FEATURES for stride in (far, mid, row))
        return encoded_map(
            Matrix(place, (*heads.batch[:2], rows, FEATURES), (*outer, 1)),
            Box(
                _ELEMENTS[dtype], dtype.itemsize_bytes, swizzle if is_swizzled else _NOT_SWIZZLED,
                (1, 1, box_rows, FEATURES),
            ),
        )

    q, k, v = (operand(spec, weights, i) for i in range(3))
    arguments: list[Argument] = [
        mapped(q, heads.rows, heads.q, TILE_ROWS), mapped(k, heads.keys, heads.k, form.scores),
        # Bytes of values are read by threads.
        mapped(v, heads.keys, heads.v, form.values, is_swizzled=not form.is_float8),
        mapped(Out(0), heads.rows, heads.y, TILE_ROWS, form.result),
    ]
    if form.mask is not None:
        arguments.append(operand(spec, weights, 3))
    return arguments


def _tactic(groups: int, is_whole: bool) -> type[WgmmaAttention]:
    name = f"matrix_{groups}" if is_whole else f"rows_{TILE_ROWS * groups}"
    return type(f"Attention{name}", (WgmmaAttention,), {
        "__module__": __name__, "name": f"attention.wgmma.{name}", "groups": groups,
        "is_whole": is_whole, "__doc__": f"{groups} warpgroups, whole matrices: {is_whole}.",
    })


globals().update({
    cls.__name__: cls for cls in (
        _tactic(1, False), _tactic(2, False), _tactic(3, False), _tactic(2, True), _tactic(3, True)
    )
})
