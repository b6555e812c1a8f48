"""Quantize and dequantize layers by oneDNN's reorder, which changes the layout in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from torch2rt import expression as ex
from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type
from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.onednn import Arg, Attributes, DataType, MemoryDesc, scale_arg
from torch2rt.backends.cpu.quantized import integer_refusal, without_rounding
from torch2rt.backends.cpu.steps import Source, StepBuilder
from torch2rt.backends.cpu.tactics.pointwise_onednn import expression_of, whole_expression
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights

MAX_RANK = 6


class ScaleReorder(Tactic):
    """A pointwise layer that is one factor, to or from 8 bits, as one reorder."""

    name: ClassVar[str] = "pointwise.onednn.scale"
    kinds: ClassVar[tuple[str, ...]] = ("pointwise",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """One operand times a literal, rounded and clamped to all of 8 bits or stored as float."""
        output = spec.outputs[0]
        if len(spec.inputs) != 1 or spec.inputs[0].shape != output.shape:
            return Refusal("not one operand of the result's shape")
        for tensor in (*spec.inputs, output):
            if data_type(tensor.dtype) is None or not 0 < tensor.rank <= MAX_RANK:
                return Refusal(f"oneDNN reorders no {tensor}")
        reason = integer_refusal(whole_expression(spec), [spec.inputs[0].dtype], output.dtype)
        if reason is None and factor_of(spec) is None:
            reason = Refusal(f"{whole_expression(spec).text} is more than a factor")
        return reason

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Every pair of layouts."""
        found = spatial_layouts(spec.outputs[0].rank)
        return [LayoutChoice((source,), (target,)) for source in found for target in found]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the reorder."""
        builder = StepBuilder(spec, weights)
        source, target = builder.input(0), builder.output(0)
        factor = factor_of(spec)
        assert factor is not None
        try:
            desc = onednn.reorder(source.desc, target.desc, attributes=Attributes(
                scales={Arg.src: 0}
            ))
        except onednn.OneDNNError as error:
            raise Unprepared(str(error)) from error
        value = np.array([factor], np.float32)
        scale = builder.literal(
            ("scale", repr(factor)), value, MemoryDesc.plain((1,), DataType.f32)
        )
        memories: dict[int, Source] = {Arg.src: source, Arg.dst: target}
        builder.execute(desc, {**memories, scale_arg(Arg.src): scale})
        return builder.finish()


def factor_of(spec: LayerSpec) -> float | None:
    """The factor, None where the expression is another."""
    root = without_rounding(expression_of(spec), spec.outputs[0].dtype)
    match root:
        case ex.Apply("mul", (ex.Input(0) | ex.Apply("to_float32", (ex.Input(0),)),
                              ex.Constant(value))):
            return float(value)
        case ex.Apply("to_float32", (ex.Input(0),)):
            return 1.0
    return None
