"""Reformats by numpy: row-major and channels-last tensors of any dtype."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from torch2rt.backends.cpu.descriptors import lies_as_plain
from torch2rt.backends.cpu.numpy_expression import store, widening
from torch2rt.backends.cpu.steps import ArrayOperand, StepBuilder
from torch2rt.backends.cpu.tactics.reformat_onednn import keeps_bytes, own_layouts
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.network.dtype import Array, DType


class NumpyCopy(Tactic):
    """One numpy copy; bytes are copied where nothing changes."""

    name: ClassVar[str] = "reformat.numpy.copy"
    kinds: ClassVar[tuple[str, ...]] = ("reformat",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """No blocked layouts; float8 only where it is not converted."""
        dtypes = {spec.inputs[0].dtype, spec.outputs[0].dtype}
        if DType.FLOAT8_E4M3 in dtypes and len(dtypes) > 1:
            return Refusal("numpy has no float8")
        if keeps_bytes(spec):
            return None
        if any(_is_blocked(tensor) for tensor in (*spec.inputs, *spec.outputs)):
            return Refusal("numpy copies no blocked layouts")
        return None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Those that the reformat is for."""
        return own_layouts(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Find the views to copy between."""
        builder = StepBuilder(spec, weights)
        source, target = builder.array_input(0), builder.array_output(0)
        if isinstance(source, ArrayOperand) and not keeps_bytes(spec):
            source = ArrayOperand(source.place, _memory_spec(spec.inputs[0]))
            target = ArrayOperand(target.place, _memory_spec(spec.outputs[0]))
        elif isinstance(source, ArrayOperand):
            flat = TensorSpec((spec.inputs[0].element_count,), spec.inputs[0].dtype)
            if _is_blocked(spec.inputs[0]):
                flat = TensorSpec(
                    (spec.inputs[0].size_bytes // flat.dtype.itemsize_bytes,), flat.dtype
                )
            source, target = ArrayOperand(source.place, flat), ArrayOperand(target.place, flat)
        widen = widening(spec.inputs[0].dtype)
        copy = partial(_copy, spec.inputs[0], spec.outputs[0], keeps_bytes(spec), widen)
        builder.call(copy, target, source)
        return builder.finish()


def _is_blocked(spec: TensorSpec) -> bool:
    return spec.layout.block > 1 and not lies_as_plain(spec)


def _memory_spec(spec: TensorSpec) -> TensorSpec:
    """The row-major spec of the bytes of a row-major or channels-last tensor."""
    if spec.layout is Layout.CHANNELS_LAST and not lies_as_plain(spec):
        return TensorSpec((spec.shape[0], *spec.shape[2:], spec.shape[1]), spec.dtype)
    return TensorSpec(spec.shape, spec.dtype)


def _logical(array: Array, spec: TensorSpec) -> Array:
    """The array of `_memory_spec` with the axes of the tensor."""
    if spec.layout is Layout.CHANNELS_LAST and not lies_as_plain(spec):
        rank = spec.rank
        return array.transpose(0, rank - 1, *range(1, rank - 1))
    return array


def _copy(
    source_spec: TensorSpec, target_spec: TensorSpec, is_flat: bool, widen: Any,
    out: Array, source: Array,
) -> None:
    if not is_flat:
        out, source = _logical(out, target_spec), _logical(source, source_spec)
    if source_spec.dtype is target_spec.dtype:
        out[...] = source
        return
    store(out, widen(source) if widen is not None else source, target_spec.dtype)
