"""A primitive with its layer's epilogue: bias, post-ops, and further steps for what is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch2rt import expression as ex
from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type, describe_broadcast, lie_alike
from torch2rt.backends.cpu.expression_steps import (
    MAX_POST_OPS,
    ExpressionSteps,
    fusable_part,
    is_usable,
    replaced,
    without_root_cast,
)
from torch2rt.backends.cpu.numpy_expression import missing_op
from torch2rt.backends.cpu.onednn import (
    Algorithm,
    Arg,
    Attributes,
    DataType,
    MemoryDesc,
    PostOp,
    PrimitiveDesc,
    Sum,
)
from torch2rt.backends.cpu.post_ops import Link, Links
from torch2rt.backends.cpu.quantized import (
    WEIGHT_SCALE,
    Start,
    integer_refusal,
    is_quantized,
    scale_memory,
    take_start,
    times_factor,
    with_stored_residuals,
    without_rounding,
)
from torch2rt.backends.cpu.steps import Operand, Source, StepBuilder
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.network.dtype import DType

# (bias or None, destination, attributes) -> primitive descriptor
MakePrimitive = Callable[["MemoryDesc | None", MemoryDesc, Attributes], PrimitiveDesc]
# The memories of a primitive besides bias, destination and post-ops, once it is chosen.
FindOperands = Callable[[PrimitiveDesc], Mapping[int, Source]]

_ACCUMULATOR = -1  # the index that stands for a stored accumulator among the leaves


@dataclass(frozen=True, slots=True)
class Fusion:
    """How to make a primitive that takes an epilogue.

    ``channel_axis`` is the axis of the output along which a bias varies, None without bias; the
    bias has that axis alone unless ``has_wide_bias``. ``weight_scale_mask`` has a bit for every
    axis of the weights along which the output channels vary. Where the primitive sees other dims
    than the layer's, ``output`` describes the output and ``describe`` an epilogue input by its
    index.
    """

    make: MakePrimitive
    operands: FindOperands
    channel_axis: int | None = None
    has_wide_bias: bool = False
    weight_scale_mask: int = 1
    can_sum: bool = True
    describe: Callable[[int], MemoryDesc] | None = None
    output: MemoryDesc | None = None


def add_fused(builder: StepBuilder, fusion: Fusion) -> None:
    """Add the steps of one primitive and the epilogue of the builder's layer.

    Raises Unprepared where no fast implementation exists or the epilogue has no oneDNN form.
    """
    _Fuser(builder, fusion).run()


class _Fuser:
    def __init__(self, builder: StepBuilder, fusion: Fusion) -> None:
        self.builder = builder
        self.fusion = fusion
        self.spec = builder.spec
        self.target = builder.output(0, fusion.output)
        root = self.spec.epilogue if self.spec.epilogue is not None else ex.Input(0)
        dtype = self.spec.outputs[0].dtype
        self.root = without_rounding(without_root_cast(root, dtype), dtype)
        self.leaves: dict[int, Source] = {
            position: builder.input(index, self._describe(index))
            for position, index in self._epilogue_indices().items()
        }
        self.expressions = self._expressions(self.leaves)

    def run(self) -> None:
        """Fuse as much as an implementation takes, the rest follows in further steps."""
        chain = fusable_part(self.root)
        for count in (*reversed(range(len(chain.nodes))), -1):
            node = chain.nodes[count] if count >= 0 else ex.Input(0)
            links = chain.links[: chain.ends[count]] if count >= 0 else ()
            if len(links) <= MAX_POST_OPS and self._run_fused(node, links):
                return
        raise Unprepared("oneDNN has no fast implementation")

    def _expressions(self, leaves: Mapping[int, Source]) -> ExpressionSteps:
        booleans = frozenset(
            position for position, index in self._epilogue_indices().items()
            if self.spec.inputs[index].dtype is DType.BOOL
        )
        return ExpressionSteps(self.builder, leaves, self._temporary_like, booleans)

    def _epilogue_indices(self) -> dict[int, int]:
        first = self.spec.main_count
        return {position + 1: index for position, index in
                enumerate(range(first, len(self.spec.inputs)))}

    def _describe(self, index: int) -> MemoryDesc:
        if self.fusion.describe is not None:
            return self.fusion.describe(index)
        return describe_broadcast(self.spec.inputs[index], max(self.spec.outputs[0].rank, 1))

    def _temporary_like(self, dims: tuple[int, ...]) -> MemoryDesc:
        """An f32 tensor of these dims, laid out as the output where it has its shape."""
        if dims != self.target.desc.dims:
            return MemoryDesc.plain(dims, DataType.f32)
        return as_f32(self.target.desc)

    def _run_fused(self, node: ex.Expression, links: Links) -> bool:
        """Try with ``links`` as post-ops; ``node`` is the value they give."""
        rest = replaced(self.root, node, ex.Input(_ACCUMULATOR))
        is_whole = rest == ex.Input(_ACCUMULATOR)
        target = self.target if is_whole else self._accumulator(rest)
        done = self.builder.mark()
        if is_quantized(self.spec):
            links = with_stored_residuals(links)
        start, post_links = self._start(links)
        post_ops, operands = self.expressions.post_ops(post_links)
        made = self._make(start, post_ops, target)
        if made is None:
            self.builder.reset(done)
            self.expressions = self._expressions(self.leaves)
            return False
        desc, memories = made
        if is_whole:
            self._offer_in_place(links)
        self.builder.execute(desc, {**operands, **memories})
        if not is_whole:
            leaves = {**self.leaves, _ACCUMULATOR: target}
            self._expressions(leaves).store(rest, self.target)
        return True

    def _accumulator(self, rest: ex.Expression) -> Operand:
        """Where to keep the accumulator until the rest of the expression is applied."""
        uses = sum(item == ex.Input(_ACCUMULATOR) for item in ex.walk(rest))
        if uses == 1 and self.target.desc.data_type is DataType.f32:
            return self.target
        return self.builder.temporary(as_f32(self.target.desc))

    def _make(
        self, start: Start, post_ops: Sequence[PostOp], target: Operand
    ) -> tuple[PrimitiveDesc, dict[int, Source]] | None:
        """The primitive and its memories, those of post-ops left out; None if none is fast."""
        scales: dict[int, int] = {}
        if start.has_scale:
            scales[Arg.weights] = self.fusion.weight_scale_mask if start.scale is not None else 0
        bias = None
        if start.bias is not None:
            channels = self._channels
            dims = channels if self.fusion.has_wide_bias else (max(channels),)
            index = self._epilogue_indices()[start.bias]
            bias = times_factor(self.builder, index, start.bias_factor, dims)
        try:
            desc = self.fusion.make(
                bias.desc if bias is not None else None, target.desc,
                Attributes(post_ops, scales=scales),
            )
        except onednn.OneDNNError:
            return None
        if not is_usable(desc, math.prod(target.desc.dims)):
            return None
        memories: dict[int, Source] = {**self.fusion.operands(desc), Arg.dst: target}
        if bias is not None:
            memories[Arg.bias] = bias
        if start.has_scale:
            scale = None if start.scale is None else self._epilogue_indices()[start.scale]
            memories[WEIGHT_SCALE] = scale_memory(self.builder, start, scale)
        return desc, memories

    def _start(self, links: Links) -> tuple[Start, Links]:
        """Scale and bias at the front of the chain; of floats, the bias if it comes first."""
        constants = self._per_channel()
        if is_quantized(self.spec):
            return take_start(links, constants)
        match links:
            case (Link(Algorithm.add, operand=ex.Input(index)), *_) if index in constants:
                return Start(bias=index), links[1:]
        return Start(), links

    @property
    def _channels(self) -> tuple[int, ...]:
        """The dims of a tensor with one number per output channel."""
        axis = self.fusion.channel_axis
        dims = self.target.desc.dims
        return tuple(size if index == axis else 1 for index, size in enumerate(dims))

    def _per_channel(self) -> set[int]:
        """The leaves that are constants with one number per output channel."""
        if self.fusion.channel_axis is None:
            return set()
        return {
            position for position, index in self._epilogue_indices().items()
            if self.spec.constants[index] is not None
            and self.leaves[position].desc.dims == self._channels
            and (self.spec.inputs[index].dtype is DType.FLOAT32 or not is_quantized(self.spec))
        }

    def _offer_in_place(self, links: Links) -> None:
        """Prepare a variant that adds into a residual's own memory, where there is one."""
        found = self._residual(links)
        if found is None:
            return
        first, last, index, scale = found
        start, rest = self._start(links[:first])
        before, operands = self.expressions.post_ops(rest)
        after, others = self.expressions.post_ops(links[last:], len(before) + 1)
        stored = data_type(self.spec.inputs[index].dtype)
        assert stored is not None
        sum_ = Sum(scale) if stored is self.target.desc.data_type else Sum(scale, 0, stored)
        made = self._make(start, [*before, sum_, *after], self.target)
        if made is None:
            return
        desc, memories = made
        step = self.builder.primitive_step(desc, {**operands, **others, **memories})
        self.builder.may_overwrite = (index,)
        self.builder.in_place = (*self.builder.steps, step)

    def _residual(self, links: Links) -> tuple[int, int, int, float] | None:
        """(first link, link behind, input, scale) of the only addition of a tensor like the output.

        A stored residual has a link before it and one behind it that undo each other.
        """
        if not self.fusion.can_sum:
            return None
        for position, link in enumerate(links):
            if link.algorithm is not Algorithm.add or not isinstance(link.operand, ex.Input):
                continue
            index = self._epilogue_indices()[link.operand.index]
            uses = sum(item == link.operand for item in ex.walk(self.root))
            is_alike = self._lies_as_output(self.spec.inputs[index])
            if not is_alike or uses != 1 or self.spec.constants[index] is not None:
                continue
            if self.spec.inputs[index].dtype not in EIGHT_BITS:
                return position, position + 1, index, 1.0
            scale = _scale_around(links, position)
            return (position, position + 1, index, 1.0) if scale is None else (
                position - 1, position + 2, index, scale
            )
        return None

    def _lies_as_output(self, tensor: TensorSpec) -> bool:
        """Whether a tensor's bytes are where the output's are, one for one."""
        output = self.spec.outputs[0]
        if tensor.dtype in EIGHT_BITS and output.dtype in EIGHT_BITS:
            tensor = replace(tensor, dtype=output.dtype)  # a sum reads either
        return lie_alike(tensor, output)


def _scale_around(links: Links, position: int) -> float | None:
    """The c that the link before divides by and the one behind multiplies by, else None."""
    if not 0 < position < len(links) - 1:
        return None
    before, behind = links[position - 1], links[position + 1]
    are_linear = before.algorithm is behind.algorithm is Algorithm.linear
    if not are_linear or before.beta or behind.beta or before.alpha != 1 / behind.alpha:
        return None
    return behind.alpha


def as_f32(desc: MemoryDesc) -> MemoryDesc:
    """The same shape and layout in f32."""
    if desc.data_type is DataType.f32:
        return desc
    if desc.is_plain:
        return MemoryDesc.plain(desc.dims, DataType.f32, desc.strides)
    return MemoryDesc.tagged(desc.dims, DataType.f32, desc.tag)


def epilogue_layouts(spec: LayerSpec, output: Layout) -> tuple[Layout, ...]:
    """Layouts of the epilogue's inputs for an output layout.

    A tensor with all the output's axes takes its layout; constants and others are row-major.
    """
    rank = spec.outputs[0].rank
    layouts = []
    for index in range(spec.main_count, len(spec.inputs)):
        is_tensor = spec.constants[index] is None and spec.inputs[index].rank == rank
        layouts.append(output if is_tensor else Layout.PLAIN)
    return tuple(layouts)


def choice(spec: LayerSpec, inputs: tuple[Layout, ...], output: Layout) -> LayoutChoice:
    """A choice of layouts for the main inputs and the output, the epilogue following the output."""
    return LayoutChoice((*inputs, *epilogue_layouts(spec, output)), (output,))


def epilogue_refusal(spec: LayerSpec) -> Refusal | None:
    """Why the epilogue can be neither post-ops nor further steps, or None."""
    if spec.epilogue is None:
        return None
    for tensor in spec.inputs[spec.main_count :]:
        if data_type(tensor.dtype) is None:
            return Refusal(f"oneDNN reads no {tensor.dtype.value} in an epilogue")
    first = DType.INT32 if is_quantized(spec) else DType.FLOAT32
    dtypes = (first, *(tensor.dtype for tensor in spec.inputs[spec.main_count :]))
    reason = integer_refusal(spec.epilogue, dtypes, spec.outputs[0].dtype)
    if reason is not None:
        return reason
    missing = missing_op(spec.epilogue, is_double=False)
    return Refusal(f"neither oneDNN nor numpy has {missing}") if missing is not None else None
