"""A primitive with its layer's epilogue: bias, post-ops, and further steps for what is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
    PrimitiveDesc,
    Sum,
    post_op_arg,
)
from torch2rt.backends.cpu.post_ops import Links
from torch2rt.backends.cpu.steps import Operand, Source, StepBuilder
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Refusal, Unprepared
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
    bias has that axis alone unless ``has_wide_bias``. Where the primitive sees other dims than the
    layer's, ``output`` describes the output and ``describe`` an epilogue input by its index.
    """

    make: MakePrimitive
    operands: FindOperands
    channel_axis: int | None = None
    has_wide_bias: bool = False
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
        self.root = without_root_cast(root, self.spec.outputs[0].dtype)
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
        bias, post_links = self._split_bias(links)
        post_ops, operands = self.expressions.post_ops(post_links)
        desc = self._make(bias, target.desc, Attributes(post_ops))
        if desc is None:
            self.builder.reset(done)
            self.expressions = self._expressions(self.leaves)
            return False
        memories = {**operands, **self.fusion.operands(desc), Arg.dst: target}
        if bias is not None:
            memories[Arg.bias] = bias
        if is_whole:
            self._offer_in_place(bias, post_links, memories)
        self.builder.execute(desc, memories)
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
        self, bias: Source | None, dst: MemoryDesc, attributes: Attributes
    ) -> PrimitiveDesc | None:
        try:
            desc = self.fusion.make(bias.desc if bias is not None else None, dst, attributes)
        except onednn.OneDNNError:
            return None
        return desc if is_usable(desc, math.prod(dst.dims)) else None

    def _split_bias(self, links: Links) -> tuple[Source | None, Links]:
        """The bias if the chain starts by adding a constant that varies along channels alone."""
        axis = self.fusion.channel_axis
        if axis is None or not links or links[0].algorithm is not Algorithm.add:
            return None, links
        operand = links[0].operand
        if not isinstance(operand, ex.Input):
            return None, links
        index = self._epilogue_indices()[operand.index]
        shape = self.leaves[operand.index].desc.dims
        channels = self.target.desc.dims[axis]
        others = [size for position, size in enumerate(shape) if position != axis]
        is_bias = shape[axis] == channels and all(size == 1 for size in others)
        if not is_bias or self.spec.constants[index] is None:
            return None, links
        dims = shape if self.fusion.has_wide_bias else (channels,)
        return self.builder.constant(index, MemoryDesc.plain(dims, DataType.f32)), links[1:]

    def _offer_in_place(
        self, bias: Source | None, links: Links, memories: Mapping[int, Source]
    ) -> None:
        """Prepare a variant that adds into a residual's own memory, where there is one."""
        found = self._residual(links)
        if found is None:
            return
        position, index, scale = found
        before, _ = self.expressions.post_ops(links[:position])
        after, _ = self.expressions.post_ops(links[position + 1 :])
        attributes = Attributes([*before, Sum(scale), *after])
        desc = self._make(bias, self.target.desc, attributes)
        if desc is None:
            return
        kept = {**memories, **self.fusion.operands(desc)}
        kept.pop(post_op_arg(position))
        step = self.builder.primitive_step(desc, kept)
        self.builder.may_overwrite = (index,)
        self.builder.in_place = (*self.builder.steps, step)

    def _residual(self, links: Links) -> tuple[int, int, float] | None:
        """(link, input, scale) of the only addition of a tensor like the output."""
        if not self.fusion.can_sum:
            return None
        for position, link in enumerate(links):
            if link.algorithm is not Algorithm.add or not isinstance(link.operand, ex.Input):
                continue
            index = self._epilogue_indices()[link.operand.index]
            uses = sum(item == link.operand for item in ex.walk(self.root))
            is_alike = lie_alike(self.spec.inputs[index], self.spec.outputs[0])
            if is_alike and uses == 1 and self.spec.constants[index] is None:
                return position, index, 1.0
        return None


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
    missing = missing_op(spec.epilogue, is_double=False)
    return Refusal(f"neither oneDNN nor numpy has {missing}") if missing is not None else None
