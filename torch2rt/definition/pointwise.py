"""Pointwise layers of a written network."""

from __future__ import annotations

from torch2rt import expression as ex
from torch2rt.definition.base import Base, Value
from torch2rt.errors import DefinitionError
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.shapes import promote
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import Tensor

_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not"}


class PointwiseLayers(Base):
    """Expressions, activations, sums and products."""

    def add_pointwise(self, expression: str, *inputs: Value, name: str | None = None) -> Tensor:
        """Any expression of the inputs ``i0``, ``i1``, ..., which broadcast.

        Example: ``network.add_pointwise("mul(i0,sigmoid(i1))", x, gate)``. The operations are
        those of `torch2rt.expression.OPS`. The result has the promoted dtype of the inputs, bool
        for comparisons, or that of an outermost cast such as ``to_int32``.
        """
        try:
            parsed = ex.parse_expression(expression)
        except ValueError as error:
            raise DefinitionError(layer=name or expression, reason=str(error)) from error
        tensors = [self.add_constant(value) for value in inputs]
        if not tensors:
            raise DefinitionError(layer=name or expression, reason="it has no input")
        dtype = promote(*(tensor.type for tensor in tensors))
        if isinstance(parsed, ex.Apply) and parsed.op in _COMPARISONS:
            dtype = DType.BOOL
        elif isinstance(parsed, ex.Apply) and parsed.op.startswith("to_"):
            dtype = self._dtype(parsed.op.removeprefix("to_"))
        return self._one(Pointwise(parsed, dtype), *tensors, name=name)

    def add_activation(self, x: Tensor, kind: str, name: str | None = None) -> Tensor:
        """An activation by name: relu, sigmoid, tanh, gelu, silu, hardswish, ..."""
        if kind not in ex.OPS or ex.OPS[kind].arity != 1:
            known = sorted(op for op, entry in ex.OPS.items() if entry.arity == 1)
            raise DefinitionError(
                layer=name or kind, reason=f"no activation {kind!r}; there are {', '.join(known)}"
            )
        return self.add_pointwise(f"{kind}(i0)", x, name=name or kind)

    def add_elementwise(
        self, left: Value, right: Value, op: str, name: str | None = None
    ) -> Tensor:
        """An operation of two: add, sub, mul, div, maximum, ... A number may stand on either side.

        Example: ``network.add_elementwise(x, 2.0, "mul")``.
        """
        operands = [value for value in (left, right) if not isinstance(value, int | float)]
        texts = iter(range(len(operands)))
        sides = ",".join(
            str(float(value)) if isinstance(value, int | float) else f"i{next(texts)}"
            for value in (left, right)
        )
        return self.add_pointwise(f"{op}({sides})", *operands, name=name or op)

    def add_cast(self, x: Tensor, dtype: str, name: str | None = None) -> Tensor:
        """The tensor as another dtype."""
        return self.add_pointwise(f"to_{self._dtype(dtype).value}(i0)", x, name=name or "cast")
