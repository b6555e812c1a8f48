"""Rules of tensor contractions: einsum, tensordot, bilinear, as matrix products.

Axes carry labels. Two operands are contracted at a time: labels that both have and that are needed
later are batch axes of the product, the others they share are its inner axis, and what only one
has are its rows or columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch2rt.layers.matmul import Matmul
from torch2rt.layers.reduce import reduce
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.layers.transpose import transpose
from torch2rt.network.dim import Dim, product
from torch2rt.network.tensor import Shape, Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering

Labels = tuple[str, ...]


@dataclass(frozen=True)
class _Term:
    """A tensor and the label of each of its axes."""

    tensor: Tensor
    labels: Labels

    def sizes(self, labels: Sequence[str]) -> Shape:
        """Sizes of these axes."""
        return tuple(self.tensor.shape[self.labels.index(label)] for label in labels)


@rule("aten.einsum.default")
def lower_einsum(
    lowering: Lowering, equation: str, tensors: Sequence[Tensor], path: Sequence[int] | None
) -> Tensor:
    """Any einsum without a repeated label in one operand."""
    inputs, output = _parse(equation, [tensor.rank for tensor in tensors])
    terms = [_Term(tensor, labels) for tensor, labels in zip(tensors, inputs, strict=True)]
    return _contract(lowering, terms, output)


@rule("aten.tensordot.default")
def lower_tensordot(
    lowering: Lowering, input: Tensor, other: Tensor, dims_self: Sequence[int],
    dims_other: Sequence[int],
) -> Tensor:
    """Sum over pairs of axes; the axes left follow in order."""
    left = [f"a{axis}" for axis in range(input.rank)]
    right = [f"b{axis}" for axis in range(other.rank)]
    for index, (mine, theirs) in enumerate(zip(dims_self, dims_other, strict=True)):
        left[normalize_axis(mine, input.rank)] = f"k{index}"
        right[normalize_axis(theirs, other.rank)] = f"k{index}"
    output = tuple(label for label in (*left, *right) if not label.startswith("k"))
    terms = [_Term(input, tuple(left)), _Term(other, tuple(right))]
    return _contract(lowering, terms, output)


@rule("aten.bilinear.default")
def lower_bilinear(
    lowering: Lowering, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """y[..., o] = sum over i, j of x1[..., i] w[o, i, j] x2[..., j], plus bias [o]."""
    batch = tuple(f"n{axis}" for axis in range(input1.rank - 1))
    terms = [
        _Term(input1, (*batch, "i")), _Term(weight, ("o", "i", "j")), _Term(input2, (*batch, "j"))
    ]
    result = _contract(lowering, terms, (*batch, "o"))
    return result if bias is None else lowering.pointwise("add", result, bias)


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """Labels of each operand and of the output; an ellipsis stands for ``.0``, ``.1``, ..."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    counts = [
        rank - len(text.replace("...", "")) if "..." in text else 0
        for text, rank in zip(texts, ranks, strict=True)
    ]
    dots = tuple(f".{index}" for index in range(max(counts)))
    inputs = [
        _labels(text, dots[len(dots) - count :])
        for text, count in zip(texts, counts, strict=True)
    ]
    for labels in inputs:
        if len(set(labels)) != len(labels):
            raise Unsupported(f"einsum {equation!r} takes a diagonal")
    if arrow:
        return inputs, _labels(right, dots)
    seen = [label for labels in inputs for label in labels if label not in dots]
    return inputs, (*dots, *sorted(label for label in set(seen) if seen.count(label) == 1))


def _labels(text: str, dots: Labels) -> Labels:
    before, ellipsis, after = text.partition("...")
    return (*before, *dots, *after) if ellipsis else tuple(before)


def _contract(lowering: Lowering, terms: Sequence[_Term], output: Labels) -> Tensor:
    """Contract the operands from left to right."""
    result, *rest = terms
    while rest:
        other, *rest = rest
        needed = {*output, *(label for term in rest for label in term.labels)}
        left = _summed(lowering, result, needed | set(other.labels))
        right = _summed(lowering, other, needed | set(result.labels))
        result = _product(lowering, left, right, needed)
    result = _summed(lowering, result, set(output))
    return transpose(lowering, result.tensor, [result.labels.index(label) for label in output])


def _summed(lowering: Lowering, term: _Term, needed: set[str]) -> _Term:
    """The term summed over the axes that nobody needs."""
    axes = tuple(axis for axis, label in enumerate(term.labels) if label not in needed)
    kept = tuple(label for label in term.labels if label in needed)
    return _Term(reduce(lowering, "sum", term.tensor, axes), kept)


def _product(lowering: Lowering, a: _Term, b: _Term, needed: set[str]) -> _Term:
    """The product of two terms, summed over the labels that both have and nobody needs."""
    shared = [label for label in a.labels if label in b.labels]
    batch = tuple(label for label in shared if label in needed)
    inner = tuple(label for label in shared if label not in needed)
    rows = tuple(label for label in a.labels if label not in shared)
    columns = tuple(label for label in b.labels if label not in shared)
    labels = (*batch, *rows, *columns)
    if not inner:
        factors = [_aligned(lowering, term, labels) for term in (a, b)]
        dtype = lowering.promoted(*factors)
        return _Term(lowering.pointwise("mul", *factors, dtype=dtype), labels)
    if not all(_same(x, y) for x, y in zip(a.sizes(inner), b.sizes(inner), strict=True)):
        raise Unsupported("einsum that broadcasts over a summed axis")
    left, transpose_a = _matrices(lowering, a, batch, rows, inner)
    right, is_inner_first = _matrices(lowering, b, batch, columns, inner)
    kind = Matmul(transpose_a, transpose_b=not is_inner_first)
    result = lowering.add(kind, left, right)
    shape = (*result.shape[: len(batch)], *a.sizes(rows), *b.sizes(columns))
    return _Term(lowering.reshape(result, shape), labels)


def _matrices(
    lowering: Lowering, term: _Term, batch: Labels, outer: Labels, inner: Labels
) -> tuple[Tensor, bool]:
    """The term as [*batch, outer, inner], or inner before outer where it is stored so."""
    is_inner_first = term.labels == (*batch, *inner, *outer)
    groups = (inner, outer) if is_inner_first else (outer, inner)
    order = (*batch, *groups[0], *groups[1])
    tensor = transpose(lowering, term.tensor, [term.labels.index(label) for label in order])
    sizes: list[Dim] = [product(term.sizes(group)) for group in groups]
    return lowering.reshape(tensor, (*term.sizes(batch), *sizes)), is_inner_first


def _aligned(lowering: Lowering, term: _Term, labels: Labels) -> Tensor:
    """The term with its axes in the order of ``labels`` and length 1 where it has none."""
    order = [term.labels.index(label) for label in labels if label in term.labels]
    tensor = transpose(lowering, term.tensor, order)
    shape = tuple(
        term.sizes([label])[0] if label in term.labels else 1 for label in labels
    )
    return lowering.reshape(tensor, shape)


def _same(left: Dim, right: Dim) -> bool:
    return left == right or not isinstance(left, int) or not isinstance(right, int)
