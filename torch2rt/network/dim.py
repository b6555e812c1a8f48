"""Sizes of tensor axes: plain integers, or integer expressions over the inputs' symbols.

A `SymbolicDim` is a polynomial with integer coefficients over atoms; an atom is a symbol such as
``s0`` or a call such as ``floordiv(s0+1,2)``. The normal form is unique, so two dims are equal
exactly when their text is. Text is Python syntax and is parsed without being executed.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TypeAlias

Dim: TypeAlias = "int | SymbolicDim"
Monomial: TypeAlias = "tuple[Atom, ...]"

_CALLS: dict[str, Callable[[int, int], int]] = {
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "max": max,
    "min": min,
}


@dataclass(frozen=True)
class Atom:
    """A symbol (no arguments) or a call of one of floordiv, mod, max, min."""

    name: str
    arguments: tuple[Dim, ...] = ()

    @cached_property
    def text(self) -> str:
        """Python syntax."""
        if not self.arguments:
            return self.name
        return f"{self.name}({','.join(str(argument) for argument in self.arguments)})"

    def value(self, symbols: Mapping[str, int]) -> int:
        """The integer it stands for; KeyError names a symbol without a value."""
        if not self.arguments:
            return symbols[self.name]
        left, right = (substitute(argument, symbols) for argument in self.arguments)
        return _CALLS[self.name](left, right)


@dataclass(frozen=True)
class SymbolicDim:
    """A polynomial: monomials (sorted atoms) with non-zero integer coefficients."""

    terms: tuple[tuple[Monomial, int], ...]

    @cached_property
    def _text(self) -> str:
        parts = []
        for monomial, coefficient in self.terms:
            factors = [atom.text for atom in monomial]
            if coefficient != 1 or not factors:
                factors.insert(0, str(coefficient))
            parts.append("*".join(factors))
        return "+".join(parts).replace("+-", "-")

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __int__(self) -> int:
        raise TypeError(f"size {self} has no value: its symbols are not bound")

    def __add__(self, other: Dim) -> Dim:
        return _normal([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other

    def __mul__(self, other: Dim) -> Dim:
        return _normal(
            [
                (tuple(sorted((*m1, *m2), key=lambda atom: atom.text)), c1 * c2)
                for m1, c1 in self.terms
                for m2, c2 in _terms(other)
            ]
        )

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return _call("mod", self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return _call("mod", other, self)


def symbol(name: str) -> SymbolicDim:
    """The dim that is just this symbol."""
    return SymbolicDim((((Atom(name),), 1),))


def floordiv(left: Dim, right: Dim) -> Dim:
    """Left // right, exact where every coefficient divides."""
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    if left == right:
        return 1
    if isinstance(right, int):
        if all(coefficient % right == 0 for _, coefficient in _terms(left)):
            return _normal([(monomial, c // right) for monomial, c in _terms(left)])
    elif (quotient := _divided(left, right)) is not None:
        return quotient
    return _call("floordiv", left, right)


def _divided(left: Dim, right: SymbolicDim) -> Dim | None:
    """The exact quotient by a single monomial, or None."""
    if len(right.terms) != 1:
        return None
    divisor, divisor_coefficient = right.terms[0]
    quotient = []
    for monomial, coefficient in _terms(left):
        remaining = list(monomial)
        for atom in divisor:
            if atom not in remaining:
                return None
            remaining.remove(atom)
        if coefficient % divisor_coefficient:
            return None
        quotient.append((tuple(remaining), coefficient // divisor_coefficient))
    return _normal(quotient)


def maximum(left: Dim, right: Dim) -> Dim:
    """The larger of two dims."""
    return left if left == right else _call("max", left, right)


def minimum(left: Dim, right: Dim) -> Dim:
    """The smaller of two dims."""
    return left if left == right else _call("min", left, right)


def product(dims: tuple[Dim, ...]) -> Dim:
    """The product of all dims, 1 for none."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


def is_static(*dims: Dim) -> bool:
    """Whether all dims are plain integers."""
    return all(isinstance(dim, int) for dim in dims)


def is_symbol(dim: Dim) -> bool:
    """Whether a dim is one symbol and nothing else."""
    return not isinstance(dim, int) and str(dim).isidentifier()


def substitute(dim: Dim, symbols: Mapping[str, int]) -> int:
    """The integer a dim stands for.

    Example: ``substitute(parse_dim("2*s0+1"), {"s0": 3})`` is 7. KeyError names a missing symbol.
    """
    if isinstance(dim, int):
        return dim
    return sum(
        coefficient * reduce(operator.mul, (atom.value(symbols) for atom in monomial), 1)
        for monomial, coefficient in dim.terms
    )


def symbols_of(dim: Dim) -> set[str]:
    """Names of the symbols a dim depends on."""
    if isinstance(dim, int):
        return set()
    names: set[str] = set()
    for monomial, _ in dim.terms:
        for atom in monomial:
            if atom.arguments:
                names |= set().union(*(symbols_of(argument) for argument in atom.arguments))
            else:
                names.add(atom.name)
    return names


def parse_dim(text: str) -> Dim:
    """Read a dim from its text; ValueError says what is wrong. Nothing is executed."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"not a dim: {text[:80]!r}") from error
    return _from_ast(tree, text)


_OPERATORS: dict[type[ast.operator], Callable[[Dim, Dim], Dim]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def _from_ast(tree: ast.expr, text: str) -> Dim:
    match tree:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -1 * _from_ast(operand, text)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_from_ast(left, text), _from_ast(right, text))
        case ast.Call(func=ast.Name(id=name), args=[left, right], keywords=[]) if name in _CALLS:
            divisor = _from_ast(right, text)
            if divisor != 0 or name not in ("floordiv", "mod"):
                return call(name, _from_ast(left, text), divisor)
    raise ValueError(f"not a dim: {text[:80]!r}")


def call(name: str, left: Dim, right: Dim) -> Dim:
    """floordiv, mod, max or min of two dims, by name."""
    return floordiv(left, right) if name == "floordiv" else _call(name, left, right)


def _call(name: str, left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        return _CALLS[name](left, right)
    return _normal([((Atom(name, (left, right)),), 1)])


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, SymbolicDim):
        return dim.terms
    return (((), dim),) if dim else ()


def _normal(terms: list[tuple[Monomial, int]]) -> Dim:
    """Sum up equal monomials; an int when nothing symbolic remains."""
    sums: dict[tuple[str, ...], tuple[Monomial, int]] = {}
    for monomial, coefficient in terms:
        key = tuple(atom.text for atom in monomial)
        sums[key] = (monomial, sums[key][1] + coefficient if key in sums else coefficient)
    kept = {key: term for key, term in sums.items() if term[1]}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()][1]
    ordered = sorted(kept, key=lambda key: (-len(key), key))
    return SymbolicDim(tuple(kept[key] for key in ordered))
