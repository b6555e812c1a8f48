"""Attention by our Triton kernel, one tactic per tile, through tensor maps or pointers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.device import FLOAT8_CAPABILITY, current_device
from torch2rt.backends.cuda.launch import KernelPrepared, Out, Place
from torch2rt.backends.cuda.triton import tiles
from torch2rt.backends.cuda.triton.kernel import Value, triton_kernel
from torch2rt.backends.cuda.triton.operands import (
    MAX_OFFSET,
    TRITON_FLOATS,
    TRITON_TYPES,
    Axis,
    fold,
    make_program,
    max_offset,
)
from torch2rt.backends.cuda.triton.print_triton import refusal_reason
from torch2rt.backends.cuda.triton.tensor_map import Matrix
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.attention import Attention
from torch2rt.network.dtype import DType

_MAX_FEATURES = 256
_MAX_MATRICES = 65535
_MASK_TYPES = {DType.BOOL: "i8", **TRITON_FLOATS}


@dataclass(frozen=True)
class Heads:
    """Attention of ``batch`` matrices; strides over far, mid, near and rows (mask: and keys)."""

    batch: tuple[int, int, int]
    rows: int
    keys: int
    e: int
    d: int
    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    mask: tuple[int, ...]
    y: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Operand:
    """Shape and strides with the heads before the rows."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, spec: TensorSpec, heads_last: bool) -> Operand:
        """An operand as the kind's formula means it."""
        order = list(range(spec.rank))
        if heads_last:
            order[-3], order[-2] = order[-2], order[-3]
        return cls(
            tuple(spec.shape[i] for i in order), tuple(spec.strides[i] for i in order)
        )

    def over(self, batch: Sequence[int], group: int) -> tuple[int, ...]:
        """Strides over the batch, to which it broadcasts; ``group``: heads of q per head."""
        own = self.shape[:-2]
        missing = len(batch) - len(own)
        strides = [0] * missing
        strides += [s if n > 1 else 0 for s, n in zip(self.strides, own, strict=False)]
        if group == 1:
            return tuple(strides)
        return (*strides[:-1], strides[-1], 0)


class TritonAttention(Tactic):
    """One tile of the kernel."""

    kinds: ClassVar[tuple[str, ...]] = ("attention",)
    block_m: ClassVar[int]
    block_n: ClassVar[int]
    warps: ClassVar[int]
    stages: ClassVar[int]
    is_mapped: ClassVar[bool]
    # Among the tiles, the most useful first.
    place: ClassVar[int]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Strides are arguments; tensor maps want multiples of 16 bytes."""
        heads = find_heads(spec)
        if isinstance(heads, Refusal):
            return False
        return not self.is_mapped or map_refusal(spec, heads, takes_groups=True) is None

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats, float8 with an epilogue, at most 256 features, a batch of three axes at most."""
        heads = find_heads(spec)
        if isinstance(heads, Refusal):
            return heads
        if self.block_m > 64 and heads.rows <= 64:
            return Refusal("smaller tiles have fewer empty rows")
        if spec.inputs[0].dtype is DType.FLOAT32 and (self.block_m, self.block_n) != (64, 64):
            return Refusal("float32 products are slow in any tile: one is enough")
        if self.block_m * max(_padded_features(spec, heads)) > 128 * 128:
            return Refusal("the tile needs too many registers")
        refusal = map_refusal(spec, heads, takes_groups=True)
        takes_maps = current_device().capability >= (9, 0) and refusal is None
        if self.is_mapped and not takes_maps:
            return Refusal("operands that cannot be mapped")
        if not self.is_mapped and takes_maps and self.place >= tiles.POINTERS_BESIDE_MAPS:
            return Refusal("tensor maps are faster")
        return None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile, bind."""
        heads = find_heads(spec)
        if isinstance(heads, Refusal):
            raise Unprepared(heads.reason)
        kind = attention_kind(spec)
        e, d = _padded_features(spec, heads)
        mask_dtype = spec.inputs[3].dtype if kind.has_mask else None
        types = [
            *self._operand_types(spec.inputs[0].dtype, e, d),
            ("mask", f"*{_MASK_TYPES[mask_dtype]}" if mask_dtype else "constexpr"),
            ("y", f"*{TRITON_TYPES[spec.outputs[0].dtype]}"),
        ]
        constants: dict[str, Value] = {
            "SCALE": kind.scale * math.log2(math.e),
            "MASK": "none" if not mask_dtype else "bool" if mask_dtype is DType.BOOL else "float",
            "IS_CAUSAL": kind.is_causal, "BLOCK_M": self.block_m, "BLOCK_N": self.block_n,
            "E": e, "D": d, "IS_EVEN_E": e == heads.e, "IS_EVEN_D": d == heads.d,
            "IS_MAPPED": self.is_mapped, "PRECISION": "ieee",
            "OVERLAPS": current_device().capability >= (9, 0),
        }
        program, numbers = make_program(
            spec, "attention", "attention", types, _numbers(heads), constants, self.warps,
            self.stages,
        )
        compiled = triton_kernel(weights, program)
        lengths = (heads.rows, heads.keys, heads.keys)
        features = (heads.e, heads.e, heads.d)
        arguments = [
            _matrix(operand(spec, weights, i), batch, strides, lengths[i], features[i])
            if self.is_mapped else operand(spec, weights, i)
            for i, (batch, strides) in enumerate(_map_batches(heads))
        ]
        arguments += [operand(spec, weights, 3)] if kind.has_mask else []
        grid = (math.ceil(heads.rows / self.block_m), math.prod(heads.batch), 1)
        launch = compiled.launch(
            grid, [*arguments, Out(0), *numbers], current_device().capability >= (9, 0)
        )
        return KernelPrepared([launch])

    def _operand_types(self, dtype: DType, e: int, d: int) -> list[tuple[str, str]]:
        """Parameters q, k and v, and their types."""
        element = TRITON_TYPES[dtype]
        sizes = {"q": (self.block_m, e), "k": (self.block_n, e), "v": (self.block_n, d)}
        if not self.is_mapped:
            return [(name, f"*{element}") for name in sizes]
        return [
            (name, f"tensordesc<{element}[1, 1, {rows}, {size}]>")
            for name, (rows, size) in sizes.items()
        ]


def _map_batches(heads: Heads) -> list[tuple[tuple[int, int], tuple[int, int, int]]]:
    """Of the maps of q, k and v, sizes of far and mid, and strides over far, mid and rows.

    Heads of queries that share keys, near, are one axis with mid; see `map_refusal`.
    """
    far, mid, near = heads.batch
    operands = [((far, mid), (x[0], x[1], x[3])) for x in (heads.q, heads.k, heads.v)]
    if near > 1:
        operands[0] = ((far, mid * near), (heads.q[0], heads.q[2], heads.q[3]))
    return operands


def _matrix(
    place: Place, batch: tuple[int, int], strides: tuple[int, int, int], rows: int, features: int
) -> Matrix:
    """The map of an operand; an axis of size 1 has any stride but 0."""
    far, mid, row = strides
    steps = (far or row or 16, mid or row or 16, row or 16, 1)
    return Matrix(place, (*batch, rows, features), steps)


def _numbers(heads: Heads) -> dict[str, int]:
    numbers = {
        "rows": heads.rows, "keys": heads.keys, "e": heads.e, "d": heads.d,
        "mid_size": heads.batch[1], "near_size": heads.batch[2],
    }
    axes = ("far", "mid", "near", "row", "key")
    for name, strides in (
        ("q", heads.q), ("k", heads.k), ("v", heads.v), ("mask", heads.mask), ("y", heads.y),
    ):
        numbers |= {f"{name}_{axis}": s for axis, s in zip(axes, strides, strict=False)}
    return numbers


def attention_kind(spec: LayerSpec) -> Attention:
    """The layer's kind."""
    assert isinstance(spec.kind, Attention)
    return spec.kind


def find_heads(spec: LayerSpec) -> Heads | Refusal:
    """What the kernel is told of a layer."""
    kind = attention_kind(spec)
    refusal = _refusal(spec)
    if refusal is not None:
        return refusal
    q, k, v = (
        Operand.of(x, last)
        for x, last in zip(spec.inputs[:3], kind.inputs_heads_last, strict=True)
    )
    y = Operand.of(spec.outputs[0], kind.output_heads_last)
    batch = list(y.shape[:-2])
    group = batch[-1] // k.shape[-3] if kind.is_grouped else 1
    if kind.is_grouped and k.shape[-3] != v.shape[-3]:
        return Refusal("different numbers of heads of key and value")
    over_q, over_y = (_split_heads(x.over(batch, 1), group) for x in (q, y))
    over_k, over_v = (x.over(batch, group) for x in (k, v))
    over_mask: tuple[int, ...] = (0,) * len(over_q)
    mask_inner = (0, 0)
    if kind.has_mask:
        own, missing = spec.inputs[3], len(batch) + 2 - spec.inputs[3].rank
        strides = [s if n > 1 else 0 for s, n in zip(own.strides, own.shape, strict=True)]
        all_strides = [0] * missing + strides
        over_mask = _split_heads(tuple(all_strides[:-2]), group)
        mask_inner = all_strides[-2], all_strides[-1]
    if group > 1:
        batch[-1:] = [batch[-1] // group, group]
    per_axis = zip(over_q, over_k, over_v, over_mask, over_y, strict=True)
    folded = fold([Axis(size, strides) for size, strides in zip(batch, per_axis, strict=True)])
    if len(folded) > 3:
        return Refusal(f"{len(folded)} axes of the batch that cannot be seen as three")
    # Far, then mid; near is left to heads of queries that share keys, and to a third axis.
    none = Axis(1, (0,) * 5)
    axes = [none] * ((2 if group == 1 else 3) - len(folded)) + folded
    far, mid, near = axes if len(axes) == 3 else (*axes, none)
    over = [(far.strides[i], mid.strides[i], near.strides[i]) for i in range(5)]
    return Heads(
        (far.size, mid.size, near.size), q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1],
        (*over[0], q.strides[-2]), (*over[1], k.strides[-2]), (*over[2], v.strides[-2]),
        (*over[3], *mask_inner), (*over[4], y.strides[-2]),
    )


def _split_heads(strides: tuple[int, ...], group: int) -> tuple[int, ...]:
    """Strides where the last axis, of heads, is seen as [heads / group, group]."""
    return strides if group == 1 else (*strides[:-1], strides[-1] * group, strides[-1])


def _refusal(spec: LayerSpec) -> Refusal | None:
    kind = attention_kind(spec)
    q, k, v = spec.inputs[:3]
    refusal = _dtype_refusal(spec)
    if refusal is not None:
        return refusal
    if kind.has_mask and spec.inputs[3].dtype not in _MASK_TYPES:
        return Refusal(f"a mask of {spec.inputs[3].dtype.value}")
    if max(q.shape[-1], v.shape[-1]) > _MAX_FEATURES:
        return Refusal(f"more than {_MAX_FEATURES} features")
    if math.prod(spec.outputs[0].shape[:-2]) > _MAX_MATRICES:
        return Refusal(f"more than {_MAX_MATRICES} matrices")
    if any(max_offset(x) > MAX_OFFSET for x in (*spec.inputs, *spec.outputs)):
        return Refusal("a tensor of 2^31 elements or more")
    if any(x.strides[-1] != 1 and x.shape[-1] > 1 for x in (q, k, v, spec.outputs[0])):
        return Refusal("features that are not dense")
    return None


def _dtype_refusal(spec: LayerSpec) -> Refusal | None:
    """Operands of one float as they are, or of float8 with an epilogue of one operand."""
    out, dtype = spec.outputs[0].dtype, spec.inputs[0].dtype
    dtypes = {tensor.dtype for tensor in spec.inputs[:3]}
    if dtype is not DType.FLOAT8_E4M3:
        dtypes.add(out)
        if spec.epilogue is not None:
            return Refusal("an epilogue")
    elif current_device().capability < FLOAT8_CAPABILITY:
        return Refusal("products of float8 of before sm_89")
    if len(dtypes) > 1 or dtype not in (*TRITON_FLOATS, DType.FLOAT8_E4M3):
        return Refusal(f"operands of {', '.join(sorted(dtype.value for dtype in dtypes))}")
    if out not in (*TRITON_FLOATS, DType.FLOAT8_E4M3):
        return Refusal(f"a result in {out.value}")
    if spec.main_count < len(spec.inputs):
        return Refusal("an epilogue with operands")
    reason = refusal_reason(spec.epilogue, out)
    return Refusal(reason) if reason is not None else None


def map_refusal(spec: LayerSpec, heads: Heads, *, takes_groups: bool = False) -> Refusal | None:
    """Why the copy engine cannot feed this layer; ``takes_groups``: near may be more than 1."""
    item = spec.inputs[0].dtype.itemsize_bytes
    _, mid, near = heads.batch
    if near > 1 and not takes_groups:
        return Refusal("heads that share keys")
    if near > 1 and mid > 1 and heads.q[1] != heads.q[2] * near:
        return Refusal("heads of queries that are no one axis")
    for (batch, strides), size in zip(
        _map_batches(heads), (heads.e, heads.e, heads.d), strict=True
    ):
        is_broadcast = any(
            stride == 0 and count > 1 for stride, count in zip(strides, batch, strict=False)
        )
        if is_broadcast or size * item < 16 or any(s * item % 16 for s in strides):
            return Refusal("rows that are not at multiples of 16 bytes, or repeat")
    return None


def _padded_features(spec: LayerSpec, heads: Heads) -> tuple[int, int]:
    """Features of keys and of values as powers of two; a product needs 32 bytes, and 16."""
    least = max(16, 32 // spec.inputs[0].dtype.itemsize_bytes)
    return max(least, _power(heads.e)), max(16, _power(heads.d))


def _power(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


_TILES = ((64, 64, 4, 3), (64, 128, 4, 2), (128, 64, 8, 3), (128, 128, 8, 2))


def _tactic(place: int, is_mapped: bool) -> type[TritonAttention]:
    block_m, block_n, warps, stages = _TILES[place]
    reader = "tma" if is_mapped else "pointer"
    name = f"{reader}_{block_m}x{block_n}"
    return type(f"Attention{name}", (TritonAttention,), {
        "__module__": __name__, "__doc__": f"Tile {block_m}x{block_n} through {reader}s.",
        "name": f"attention.triton.{name}", "block_m": block_m, "block_n": block_n,
        "warps": warps, "stages": stages, "is_mapped": is_mapped, "place": place,
    })


globals().update({
    cls.__name__: cls for cls in (
        _tactic(place, is_mapped) for is_mapped in (True, False) for place in range(len(_TILES))
    )
})
