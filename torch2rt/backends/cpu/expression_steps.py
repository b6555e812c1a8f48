"""Expressions as oneDNN steps: one primitive with post-ops per chain, temporaries in between."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch2rt import expression as ex
from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.numpy_steps import store_by_numpy
from torch2rt.backends.cpu.onednn import (
    Algorithm,
    Arg,
    Attributes,
    Binary,
    Eltwise,
    MemoryDesc,
    PostOp,
    PrimitiveDesc,
    post_op_arg,
)
from torch2rt.backends.cpu.post_ops import Chain, Link, Links, chain_to
from torch2rt.backends.cpu.steps import Source, StepBuilder
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.network.dtype import DType

# oneDNN's own limit on post-ops of one primitive.
MAX_POST_OPS = 32
# The reference implementations are thousands of times slower: refused above this many elements.
MAX_REFERENCE_ELEMENTS = 2048

_TIMES_ONE = Link(Algorithm.mul, operand=ex.Constant(1.0))


def without_root_cast(root: ex.Expression, dtype: DType) -> ex.Expression:
    """The expression without a conversion to the dtype it is stored in anyway."""
    while isinstance(root, ex.Apply) and root.op == f"to_{dtype.value}":
        root = root.arguments[0]
    return root


def is_usable(desc: PrimitiveDesc, element_count: int) -> bool:
    """Whether the implementation is generated code, or the work is small."""
    return element_count <= MAX_REFERENCE_ELEMENTS or not desc.implementation.startswith("ref")


@dataclass
class ExpressionSteps:
    """Adds the steps that compute expressions of ``leaves`` (all of one rank) to a builder.

    ``layout_of(dims)`` describes an f32 temporary of these dims; ``booleans`` are the leaves that
    hold bools. What oneDNN has no primitive for is computed by numpy.
    """

    builder: StepBuilder
    leaves: Mapping[int, Source]
    layout_of: Callable[[tuple[int, ...]], MemoryDesc]
    booleans: frozenset[int] = frozenset()
    _values: dict[ex.Expression, Source] = field(default_factory=dict)

    def store(self, root: ex.Expression, target: Source) -> None:
        """Compute ``root`` into ``target``. Raises Unprepared for ops that nobody has."""
        done, computed = self.builder.mark(), dict(self._values)
        try:
            self._compute_shared(root)
            dims = target.desc.dims
            chain = chain_to(root, lambda node: self._is_ready(node, dims))
            if isinstance(chain, Refusal):
                raise Unprepared(chain.reason)
            self._store_chain(chain, target)
        except Unprepared:
            self.builder.reset(done)
            self._values = computed
            store_by_numpy(self.builder, self.leaves, self.booleans, root, target)

    def operand(self, node: ex.Expression) -> Source:
        """Where the value of ``node`` lies, computed now if it is not a leaf."""
        if isinstance(node, ex.Constant):
            return self.builder.scalar(float(node.value), self._rank)
        if isinstance(node, ex.Input):
            return self.leaves[node.index]
        if node not in self._values:
            target = self.builder.temporary(self.layout_of(self.dims_of(node)))
            self.store(node, target)
            self._values[node] = target
        return self._values[node]

    def post_ops(
        self, links: Links, first: int = 0
    ) -> tuple[list[PostOp], dict[int, Source]]:
        """The post-ops of links, and the memories they take by argument.

        ``first`` is the place of the first link in the chain.
        """
        post_ops: list[PostOp] = []
        operands: dict[int, Source] = {}
        for index, link in enumerate(links, start=first):
            if link.operand is None:
                post_ops.append(Eltwise(link.algorithm, link.alpha, link.beta))
                continue
            source = self.operand(link.operand)
            post_ops.append(Binary(link.algorithm, source.desc))
            operands[post_op_arg(index)] = source
        return post_ops, operands

    def dims_of(self, node: ex.Expression) -> tuple[int, ...]:
        """The shape the leaves of a node broadcast to."""
        shapes = [
            self.leaves[item.index].desc.dims
            for item in ex.walk(node) if isinstance(item, ex.Input)
        ]
        return tuple(max(sizes) for sizes in zip(*shapes, strict=True)) or (1,) * self._rank

    @property
    def _rank(self) -> int:
        return max((len(source.desc.dims) for source in self.leaves.values()), default=1)

    def _compute_shared(self, root: ex.Expression) -> None:
        """Give every op that is used more than once a temporary, the innermost first."""
        uses: Counter[ex.Expression] = Counter(
            argument
            for node in set(ex.walk(root))
            for argument in node.arguments
            if isinstance(argument, ex.Apply)
        )
        for node in ex.walk(root):
            is_shared = uses[node] > 1 and node not in self._values
            if is_shared and node != root and _reads_input(node):
                self.operand(node)

    def _is_ready(self, node: ex.Expression, dims: tuple[int, ...]) -> bool:
        if node in self._values:
            return self._values[node].desc.dims == dims
        return isinstance(node, ex.Input) and self.leaves[node.index].desc.dims == dims

    def _store_chain(self, chain: Chain, target: Source) -> None:
        source = self.operand(chain.start)
        links = chain.links
        is_copy = not links or (links[0].operand is None and self._differs(source, target))
        if is_copy:
            # Element-wise primitives do not convert; multiplying by one does, and keeps NaN.
            links = (_TIMES_ONE, *links)
        if len(links) <= MAX_POST_OPS and self._execute(source, links, target):
            return
        # What eltwise refuses for a dtype may work as a post-op, which computes in f32.
        widened = (_TIMES_ONE, *links)
        if len(widened) <= MAX_POST_OPS and self._execute(source, widened, target):
            return
        for position, link in enumerate(links):
            is_last = position == len(links) - 1
            step_target = target if is_last else self.builder.temporary(
                self.layout_of(target.desc.dims)
            )
            if not self._execute(source, (link,), step_target):
                raise Unprepared(f"oneDNN has no fast {link.algorithm.name} for {source.desc}")
            source = step_target

    @staticmethod
    def _differs(source: Source, target: Source) -> bool:
        return source.desc != target.desc

    def _execute(self, source: Source, links: Links, target: Source) -> bool:
        """Add one primitive that applies all links; False where there is no fast one."""
        first, rest = links[0], links[1:]
        post_ops, operands = self.post_ops(rest)
        operands |= {Arg.src: source, Arg.dst: target}
        attributes = Attributes(post_ops)
        try:
            if first.operand is None:
                desc = onednn.eltwise(
                    first.algorithm, source.desc, target.desc,
                    alpha=first.alpha, beta=first.beta, attributes=attributes,
                )
            else:
                other = self.operand(first.operand)
                operands[Arg.src_1] = other
                desc = onednn.binary(
                    first.algorithm, source.desc, other.desc, target.desc, attributes=attributes
                )
        except onednn.OneDNNError:
            return False
        if not is_usable(desc, math.prod(target.desc.dims)):
            return False
        self.builder.execute(desc, operands)
        return True


def _reads_input(node: ex.Expression) -> bool:
    return any(isinstance(item, ex.Input) for item in ex.walk(node))


def fusable_part(root: ex.Expression) -> Chain:
    """The longest chain from i0 such that the rest of the expression reads i0 through it alone."""
    best = Chain(ex.Input(0))
    for node in dict.fromkeys(ex.walk(root)):
        chain = chain_to(node, lambda item: item == ex.Input(0))
        if isinstance(chain, Refusal) or len(chain.links) <= len(best.links):
            continue
        if _operands_read_accumulator(chain.links):
            continue
        if ex.Input(0) not in set(ex.walk(replaced(root, node, ex.Input(-1)))):
            best = chain
    return best


def _operands_read_accumulator(links: Links) -> bool:
    return any(
        ex.Input(0) in set(ex.walk(link.operand)) for link in links if link.operand is not None
    )


def replaced(
    root: ex.Expression, old: ex.Expression, new: ex.Expression
) -> ex.Expression:
    """The expression with every occurrence of a sub-expression replaced."""
    if root == old:
        return new
    if isinstance(root, ex.Apply):
        arguments = tuple(replaced(argument, old, new) for argument in root.arguments)
        return replace(root, arguments=arguments)
    return root
