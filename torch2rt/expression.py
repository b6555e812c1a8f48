"""Scalar expressions: what a pointwise layer computes, and what an epilogue does to a result.

An expression is a tree of `Input`, `Constant` and `Apply`. Chains of pointwise layers become one
expression; an expression that follows a convolution, matmul, norm or reduction becomes its
epilogue, where ``i0`` is the accumulator. Every target prints expressions through the one table
`OPS`: torch and numpy here, oneDNN post-ops, CUDA and the others in their backends.

Text form, e.g. ``relu(add(mul(i0,0.5),i1))``, is parsed by `parse_expression`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType
from torch2rt.network.torch_cast import to_dtype

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

Scalar: TypeAlias = "float | int | bool"
TorchValue: TypeAlias = "TorchTensor | Scalar"


@dataclass(frozen=True)
class Input:
    """The i-th operand."""

    index: int

    @property
    def text(self) -> str:
        """``i0``, ``i1``, ..."""
        return f"i{self.index}"

    arguments: tuple[Expression, ...] = ()


@dataclass(frozen=True, eq=False)
class Constant:
    """A literal. Equal to another one of the same type and value only: 1, 1.0 and True differ."""

    value: Scalar

    @property
    def text(self) -> str:
        """A Python literal; ``inf``, ``-inf`` and ``nan`` are allowed."""
        return repr(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    arguments: tuple[Expression, ...] = ()


@dataclass(frozen=True)
class Apply:
    """An op of the table applied to its arguments."""

    op: str
    arguments: tuple[Expression, ...]

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ValueError(f"unknown pointwise op {self.op!r}")
        if len(self.arguments) != OPS[self.op].arity:
            raise ValueError(f"{self.op} takes {OPS[self.op].arity} arguments")

    @cached_property
    def text(self) -> str:
        """``op(argument,...)``."""
        return f"{self.op}({','.join(argument.text for argument in self.arguments)})"

    @cached_property
    def _hash(self) -> int:
        return hash(self.text)

    def __hash__(self) -> int:
        return self._hash


Expression: TypeAlias = "Input | Constant | Apply"
TorchOp: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class PointwiseOp:
    """One op: arity, its torch function (the oracle), its numpy function where numpy has one."""

    arity: int
    torch_function: TorchOp
    numpy_function: Callable[..., Any] | None = None


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return torch.where(_tensor(condition).bool(), yes, no)


def _tensor(value: Any) -> Any:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value)


def _unary(name: str) -> TorchOp:
    return lambda x: getattr(torch, name)(_tensor(x))


def _truncdiv(x: Any, y: Any) -> Any:
    return torch.div(_like(x, y), _like(y, x), rounding_mode="trunc")


def _functional(name: str, *fixed: Any, **named: Any) -> TorchOp:
    return lambda x, *rest: getattr(torch.nn.functional, name)(_tensor(x), *rest, *fixed, **named)


def _binary(name: str) -> TorchOp:
    def apply(x: Any, y: Any) -> Any:
        function = getattr(torch, name)
        if not isinstance(x, torch.Tensor) and not isinstance(y, torch.Tensor):
            return function(_tensor(x), _tensor(y))
        return function(_like(x, y), _like(y, x))

    return apply


def _like(value: Any, other: Any) -> Any:
    """A scalar beside a tensor becomes a tensor of the dtype torch promotes the two to."""
    if isinstance(value, torch.Tensor):
        return value
    return torch.tensor(value, dtype=torch.result_type(other, value), device=other.device)


def _np_sigmoid(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _np_elu(x: Any, alpha: Any) -> Any:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _clamp(x: Any, low: Any, high: Any) -> Any:
    x = _tensor(x)
    bounds = (_like(bound, x).to(x.dtype) for bound in (low, high))
    return torch.minimum(torch.maximum(x, next(bounds)), next(bounds))


def _elu(x: Any, alpha: Any) -> Any:
    x = _tensor(x)
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def _np_softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


OPS: dict[str, PointwiseOp] = {
    "add": PointwiseOp(2, _binary("add"), np.add),
    "sub": PointwiseOp(2, _binary("sub"), np.subtract),
    "mul": PointwiseOp(2, _binary("mul"), np.multiply),
    "div": PointwiseOp(2, _binary("true_divide"), np.true_divide),
    "floordiv": PointwiseOp(2, _binary("floor_divide"), np.floor_divide),
    "truncdiv": PointwiseOp(2, _truncdiv),
    "remainder": PointwiseOp(2, _binary("remainder"), np.remainder),
    "fmod": PointwiseOp(2, _binary("fmod"), np.fmod),
    "pow": PointwiseOp(2, _binary("pow"), np.power),
    "atan2": PointwiseOp(2, _binary("atan2"), np.arctan2),
    "max": PointwiseOp(2, _binary("maximum"), np.maximum),
    "min": PointwiseOp(2, _binary("minimum"), np.minimum),
    "eq": PointwiseOp(2, _binary("eq"), np.equal),
    "ne": PointwiseOp(2, _binary("ne"), np.not_equal),
    "lt": PointwiseOp(2, _binary("lt"), np.less),
    "le": PointwiseOp(2, _binary("le"), np.less_equal),
    "gt": PointwiseOp(2, _binary("gt"), np.greater),
    "ge": PointwiseOp(2, _binary("ge"), np.greater_equal),
    "logical_and": PointwiseOp(2, _binary("logical_and"), np.logical_and),
    "logical_or": PointwiseOp(2, _binary("logical_or"), np.logical_or),
    "logical_xor": PointwiseOp(2, _binary("logical_xor"), np.logical_xor),
    "bitwise_and": PointwiseOp(2, _binary("bitwise_and"), np.bitwise_and),
    "bitwise_or": PointwiseOp(2, _binary("bitwise_or"), np.bitwise_or),
    "bitwise_xor": PointwiseOp(2, _binary("bitwise_xor"), np.bitwise_xor),
    "where": PointwiseOp(3, _where, np.where),
    "rsqrt": PointwiseOp(1, _unary("rsqrt"), lambda x: 1 / np.sqrt(x)),
    "reciprocal": PointwiseOp(1, _unary("reciprocal"), lambda x: 1 / x),
    "erf": PointwiseOp(1, _unary("erf")),
    "relu": PointwiseOp(1, _unary("relu"), lambda x: np.maximum(x, 0)),
    "sigmoid": PointwiseOp(1, _unary("sigmoid"), _np_sigmoid),
    "gelu": PointwiseOp(1, _functional("gelu")),
    "gelu_tanh": PointwiseOp(1, _functional("gelu", approximate="tanh")),
    "silu": PointwiseOp(1, _functional("silu"), lambda x: x * _np_sigmoid(x)),
    "mish": PointwiseOp(1, _functional("mish"), lambda x: x * np.tanh(_np_softplus(x))),
    "softplus": PointwiseOp(1, _functional("softplus"), _np_softplus),
    "hardswish": PointwiseOp(1, _functional("hardswish")),
    "hardsigmoid": PointwiseOp(1, _functional("hardsigmoid")),
    "leaky_relu": PointwiseOp(
        2, _functional("leaky_relu"), lambda x, slope: np.where(x > 0, x, x * slope)
    ),
    "elu": PointwiseOp(2, _elu, _np_elu),
    "clamp": PointwiseOp(
        3, _clamp, lambda x, low, high: np.minimum(np.maximum(x, low), high)
    ),
}


# Unary ops that torch and numpy call by the same name or by these two.
_UNARY = {
    "abs": "abs", "neg": "negative", "sign": "sign", "floor": "floor", "ceil": "ceil",
    "round": "rint", "trunc": "trunc", "isnan": "isnan", "isinf": "isinf", "exp": "exp",
    "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2", "log10": "log10",
    "log1p": "log1p", "sqrt": "sqrt", "square": "square", "sin": "sin", "cos": "cos",
    "tan": "tan", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "sinh": "sinh",
    "cosh": "cosh", "tanh": "tanh", "asinh": "arcsinh", "acosh": "arccosh",
    "atanh": "arctanh", "logical_not": "logical_not", "bitwise_not": "bitwise_not",
}
OPS.update(
    (name, PointwiseOp(1, _unary(name), getattr(np, numpy_name)))
    for name, numpy_name in _UNARY.items()
)


def _np_gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


def _register(name: str, numpy_function: Callable[..., Any]) -> None:
    OPS[name] = PointwiseOp(OPS[name].arity, OPS[name].torch_function, numpy_function)


_register("gelu_tanh", _np_gelu_tanh)
_register("hardsigmoid", lambda x: np.clip(x + 3, 0, 6) / 6)
_register("hardswish", lambda x: x * np.clip(x + 3, 0, 6) / 6)


def _register_casts() -> None:
    for dtype in DType:
        name = dtype.value
        numpy_cast = None
        if not dtype.is_stored_as_bits:
            numpy_cast = lambda x, n=name: np.asarray(x).astype(n)  # noqa: E731
        OPS[f"to_{name}"] = PointwiseOp(1, lambda x, d=dtype: to_dtype(_tensor(x), d), numpy_cast)


_register_casts()


def apply(op: str, *arguments: Expression | Scalar) -> Expression:
    """Build ``op(arguments)``; numbers become constants. Unknown op or wrong arity: ValueError."""
    return Apply(
        op,
        tuple(
            argument if isinstance(argument, Input | Constant | Apply) else Constant(argument)
            for argument in arguments
        ),
    )


def cast(dtype: DType, argument: Expression) -> Expression:
    """Conversion of a value to a dtype, as ``tensor.to(dtype)``."""
    return Apply(f"to_{dtype.value}", (argument,))


def walk(expression: Expression) -> Iterator[Expression]:
    """All nodes, arguments before the nodes that use them."""
    for argument in expression.arguments:
        yield from walk(argument)
    yield expression


def arity(expression: Expression) -> int:
    """One more than the largest input index, 0 without inputs."""
    return max((n.index + 1 for n in walk(expression) if isinstance(n, Input)), default=0)


def size(expression: Expression) -> int:
    """Number of nodes."""
    return sum(1 for _ in walk(expression))


def substitute_inputs(
    expression: Expression, replacements: Mapping[int, Expression]
) -> Expression:
    """The expression with inputs replaced by expressions; inputs not named stay."""
    match expression:
        case Input(index=index):
            return replacements.get(index, expression)
        case Apply(op=op, arguments=arguments):
            return Apply(op, tuple(substitute_inputs(a, replacements) for a in arguments))
    return expression


def shift_inputs(expression: Expression, first: int, by: int) -> Expression:
    """Inputs ``first`` and later renumbered by ``by``."""
    return substitute_inputs(
        expression,
        {index: Input(index + by) for index in range(first, arity(expression))},
    )


def evaluate_torch(expression: Expression, inputs: Sequence[TorchTensor]) -> TorchTensor:
    """The value in torch: the oracle. Inputs broadcast as torch tensors do."""
    values: dict[Expression, Any] = {}

    def value(node: Expression) -> Any:
        match node:
            case Input(index=index):
                return inputs[index]
            case Constant(value=constant):
                return constant
        if node not in values:
            arguments = [value(argument) for argument in node.arguments]
            values[node] = OPS[node.op].torch_function(*arguments)
        return values[node]

    result: TorchTensor = _tensor(value(expression))
    return result


def has_numpy(expression: Expression) -> bool:
    """Whether every op has a numpy function."""
    return all(
        OPS[node.op].numpy_function is not None
        for node in walk(expression)
        if isinstance(node, Apply)
    )


def evaluate_numpy(expression: Expression, inputs: Sequence[Any]) -> Any:
    """The value in numpy; only when `has_numpy`."""
    match expression:
        case Input(index=index):
            return inputs[index]
        case Constant(value=constant):
            return constant
    function = OPS[expression.op].numpy_function
    if function is None:
        raise ValueError(f"numpy has no {expression.op}")
    return function(*(evaluate_numpy(argument, inputs) for argument in expression.arguments))


_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z_0-9]*|-?(?:inf|nan|[0-9.][0-9.e+-]*)|[(),])")
_LITERALS: dict[str, Scalar] = {"True": True, "False": False, "inf": math.inf, "nan": math.nan}
_MAX_DEPTH = 200


def parse_expression(text: str) -> Expression:
    """Read an expression from its text; ValueError says what is wrong. Nothing is executed."""
    tokens: list[str] = []
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"not an expression at {text[position : position + 20]!r}")
        tokens.append(match.group(1))
        position = match.end()
    expression, rest = _parse(tokens, 0, 0)
    if rest != len(tokens):
        raise ValueError(f"not an expression: {text[:80]!r} goes on after its end")
    return expression


def _parse(tokens: list[str], position: int, depth: int) -> tuple[Expression, int]:
    if position >= len(tokens) or depth > _MAX_DEPTH:
        raise ValueError("not an expression: ends too early or nests too deeply")
    token = tokens[position]
    if position + 1 < len(tokens) and tokens[position + 1] == "(":
        arguments = []
        position += 2
        while True:
            argument, position = _parse(tokens, position, depth + 1)
            arguments.append(argument)
            separator = tokens[position] if position < len(tokens) else "end"
            position += 1
            if separator == ")":
                return Apply(token, tuple(arguments)), position
            if separator != ",":
                raise ValueError(f"not an expression: {separator!r} where , or ) is expected")
    return _parse_leaf(token), position + 1


def _parse_leaf(token: str) -> Expression:
    if re.fullmatch(r"i\d{1,6}", token):
        return Input(int(token[1:]))
    if token in _LITERALS:
        return Constant(_LITERALS[token])
    try:
        return Constant(int(token) if re.fullmatch(r"-?\d+", token) else float(token))
    except ValueError as error:
        raise ValueError(f"not an expression: {token!r}") from error
