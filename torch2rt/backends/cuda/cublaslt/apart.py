"""A product whose epilogue cuBLASLt lacks, in two steps: the product, then the rest in place.

gelu(a b + bias) with the exact gelu is an example. The product goes through memory once more, and
is rounded in between as eager rounds it; in exchange it runs at the library's speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch2rt import expression as ex
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.cublaslt.epilogue import find_epilogue
from torch2rt.backends.cuda.cublaslt.problem import find_gemm
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Call, Prepared, Refusal
from torch2rt.layers.pointwise import Pointwise


@dataclass(frozen=True)
class Apart:
    """A layer as a product and a pointwise layer that reads and writes the result.

    ``head_inputs`` and ``tail_inputs`` are the layer's inputs by their place in the two; input 0 of
    the tail is the result.
    """

    head: LayerSpec
    head_inputs: tuple[int, ...]
    tail: LayerSpec
    tail_inputs: tuple[int, ...]


def find_apart(spec: LayerSpec) -> Apart | Refusal:
    """The two steps of a layer, the product doing as much of its epilogue as it can."""
    if spec.epilogue is None or not isinstance(find_gemm(spec), Refusal):
        return Refusal("it needs no second step")
    node: ex.Expression | None = _step_down(spec.epilogue)
    while node is not None:
        head, head_inputs = _with_epilogue(spec, node)
        accepted = find_epilogue(head)
        if not isinstance(accepted, Refusal) and accepted.residual is None:
            return _cut(spec, node, head, head_inputs)
        node = _step_down(node)
    return Refusal("its epilogue reads the product in several places")


def _cut(
    spec: LayerSpec, node: ex.Expression, head: LayerSpec, head_inputs: tuple[int, ...]
) -> Apart | Refusal:
    if isinstance(gemm := find_gemm(head), Refusal):
        return gemm
    assert spec.epilogue is not None
    output = spec.outputs[0]
    tail = _replaced(spec.epilogue, node)
    used = sorted({
        part.index for part in ex.walk(tail) if isinstance(part, ex.Input) and part.index
    })
    numbers: dict[int, ex.Expression] = {0: ex.Input(0)}
    numbers |= {index: ex.Input(place) for place, index in enumerate(used, 1)}
    places = tuple(spec.main_count + index - 1 for index in used)
    kind = Pointwise(ex.substitute_inputs(tail, numbers), output.dtype)
    return Apart(head, head_inputs, replace(
        spec, kind=kind, epilogue=None, inputs=(output, *[spec.inputs[p] for p in places]),
        constants=(None, *[spec.constants[p] for p in places]),
    ), places)


def _with_epilogue(
    spec: LayerSpec, node: ex.Expression
) -> tuple[LayerSpec, tuple[int, ...]]:
    """The layer with this part of its epilogue alone, and the inputs that it keeps."""
    used = sorted({
        part.index for part in ex.walk(node) if isinstance(part, ex.Input) and part.index
    })
    numbers: dict[int, ex.Expression] = {0: ex.Input(0)}
    numbers |= {index: ex.Input(place) for place, index in enumerate(used, 1)}
    kept = (*range(spec.main_count), *[spec.main_count + index - 1 for index in used])
    epilogue = None if node == ex.Input(0) else ex.substitute_inputs(node, numbers)
    head = replace(
        spec, epilogue=epilogue, inputs=tuple(spec.inputs[i] for i in kept),
        constants=tuple(spec.constants[i] for i in kept),
    )
    return head, kept


def _step_down(node: ex.Expression) -> ex.Expression | None:
    """The one argument that reads the product; None if several different ones do, or none."""
    found = {
        argument for argument in node.arguments if ex.Input(0) in tuple(ex.walk(argument))
    }
    return found.pop() if len(found) == 1 else None


def _replaced(expression: ex.Expression, node: ex.Expression) -> ex.Expression:
    """The expression with ``node`` as its input 0."""
    if expression == node:
        return ex.Input(0)
    if not isinstance(expression, ex.Apply):
        return expression
    return ex.Apply(
        expression.op, tuple(_replaced(argument, node) for argument in expression.arguments)
    )


class ApartPrepared(Prepared):
    """The product, then the pointwise kernel over its result."""

    def __init__(self, apart: Apart, head: Prepared, tail: Prepared) -> None:
        self._apart = apart
        self._head = head
        self._tail = tail
        self.workspace_bytes = head.workspace_bytes

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """The calls of both."""
        first = [inputs[index] for index in self._apart.head_inputs]
        second = [outputs[0], *[inputs[index] for index in self._apart.tail_inputs]]
        return [
            *self._head.bind(first, outputs, workspace, stream),
            *self._tail.bind(second, outputs, 0, stream),
        ]
