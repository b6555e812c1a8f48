"""Numbers computed from sizes that are no sizes themselves, such as ``length ** -0.5``.

They become float64 tensors without axes, which promote beside other tensors as Python numbers do.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch2rt import expression as ex
from torch2rt.layers.pointwise_rules import Operand, Operands
from torch2rt.layers.rules import Unsupported
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering

_OPS: dict[Callable[..., object], str] = {
    operator.add: "add", operator.sub: "sub", operator.mul: "mul", operator.truediv: "div",
    operator.pow: "pow", operator.neg: "neg", math.sqrt: "sqrt", float: "to_float64",
}
_OPS_BY_NAME = {"sym_float": "to_float64", "_sym_sqrt": "sqrt", "sym_sqrt": "sqrt"}


def lower_number(
    lowering: Lowering, target: Callable[..., object], operands: Sequence[Operand]
) -> Tensor:
    """The tensor of a Python operator on numbers; Unsupported names an operator not known."""
    name = getattr(target, "__name__", str(target))
    op = _OPS.get(target, _OPS_BY_NAME.get(name))
    if op is None:
        raise Unsupported(f"{name} of sizes is not known")
    values = Operands(lowering)
    terms = [values.read(operand, DType.FLOAT64) for operand in operands]
    return values.add_layer(ex.apply(op, *terms), DType.FLOAT64)
