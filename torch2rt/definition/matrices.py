"""Products, norms over rows, reductions and moves of a written network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch2rt import expression as ex
from torch2rt.definition.base import Base, Value
from torch2rt.errors import DefinitionError
from torch2rt.layers.attention import Attention
from torch2rt.layers.concat import Concat
from torch2rt.layers.layer_norm import LayerNorm
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.pad import Pad
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.reduce import Reduce
from torch2rt.layers.reshape import Reshape
from torch2rt.layers.slice import Slice
from torch2rt.layers.softmax import Softmax
from torch2rt.layers.sort import Sort
from torch2rt.layers.take import Take
from torch2rt.layers.transpose import Transpose
from torch2rt.network.dim import Dim, product
from torch2rt.network.tensor import Tensor


class MatrixLayers(Base):
    """Axes may be negative, counting from the last."""

    def add_matmul(
        self, a: Value, b: Value, *, transpose_a: bool = False, transpose_b: bool = False,
        name: str | None = None,
    ) -> Tensor:
        """The product of matrices; leading axes broadcast."""
        return self._one(Matmul(transpose_a, transpose_b), a, b, name=name)

    def add_linear(
        self, x: Tensor, weight: Value, bias: Value = None, name: str | None = None
    ) -> Tensor:
        """Rows x [..., k] times weight [n, k] transposed, plus bias [n]."""
        result = self.add_matmul(x, weight, transpose_b=True, name=name)
        if bias is None:
            return result
        kind = Pointwise(ex.apply("add", ex.Input(0), ex.Input(1)), result.dtype)
        return self._one(kind, result, self.add_constant(bias, f"{result.name}.bias"))

    def add_attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None,
        is_causal: bool = False, mask: Value = None, name: str | None = None,
    ) -> Tensor:
        """softmax(q k^T * scale + mask) v of [..., rows, features]; scale 1/sqrt(features)."""
        size = q.shape[-1]
        if scale is None and not isinstance(size, int):
            raise DefinitionError(layer=name or "attention", reason="its scale is not known")
        chosen = scale if scale is not None else 1 / math.sqrt(int(size))
        kind = Attention(chosen, is_causal, mask is not None)
        return self._one(kind, q, k, v, *(() if mask is None else (mask,)), name=name)

    def add_softmax(self, x: Tensor, axis: int = -1, name: str | None = None) -> Tensor:
        """Softmax over an axis."""
        return self._one(Softmax(_axis(axis, x)), x, name=name)

    def add_layer_norm(
        self, x: Tensor, weight: Value = None, bias: Value = None, *, axis_count: int = 1,
        eps: float = 1e-5, name: str | None = None,
    ) -> Tensor:
        """Rows of the last ``axis_count`` axes to mean 0 and variance 1, then weight and bias."""
        extra = [value for value in (weight, bias) if value is not None]
        kind = LayerNorm(
            axis_count, eps, has_weight=weight is not None, has_bias=bias is not None
        )
        return self._one(kind, x, *extra, name=name)

    def add_reduce(
        self, x: Tensor, mode: str, axes: Sequence[int], *, keepdim: bool = False,
        name: str | None = None,
    ) -> Tensor:
        """The "sum", "mean", "max", "min" or "prod" over axes."""
        wanted = tuple(sorted(_axis(axis, x) for axis in axes))
        return self._one(Reduce(mode, wanted, keepdim), x, name=name)

    def add_top_k(
        self, x: Tensor, count: int, axis: int = -1, *, largest: bool = True,
        name: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The ``count`` largest or smallest values along an axis, and where they stood."""
        layer = self.add_layer(Sort(_axis(axis, x), largest, count), x, name=name)
        values, indices = layer.outputs
        return values, indices

    def add_gather(
        self, table: Value, index: Value, axis: int = 0, name: str | None = None
    ) -> Tensor:
        """Slices of a table by integers: an embedding for axis 0 of [v, d]."""
        tensor = self.add_constant(table, "table")
        return self._one(Take(_axis(axis, tensor)), tensor, index, name=name)

    def add_concat(self, tensors: Sequence[Value], axis: int, name: str | None = None) -> Tensor:
        """Tensors behind each other along an axis."""
        first = self.add_constant(tensors[0])
        return self._one(Concat(_axis(axis, first)), first, *tensors[1:], name=name)

    def add_reshape(
        self, x: Tensor, shape: Sequence[int | str], name: str | None = None
    ) -> Tensor:
        """The same elements in another shape; one size may be -1, names are open sizes."""
        return self._one(Reshape(tuple(self._dim(size) for size in shape)), x, name=name)

    def add_flatten(self, x: Tensor, first_axis: int = 1, name: str | None = None) -> Tensor:
        """All axes from ``first_axis`` on as one."""
        kept = x.shape[: _axis(first_axis, x)]
        return self._one(Reshape((*kept, product(x.shape[len(kept) :]))), x, name=name)

    def add_transpose(
        self, x: Tensor, permutation: Sequence[int], name: str | None = None
    ) -> Tensor:
        """Axes in another order: axis i of the result is ``permutation[i]`` of x."""
        return self._one(Transpose(tuple(_axis(axis, x) for axis in permutation)), x, name=name)

    def add_slice(
        self, x: Tensor, axis: int, start: Dim, size: Dim, step: int = 1, name: str | None = None
    ) -> Tensor:
        """``size`` elements along an axis, from ``start`` on, every ``step``-th."""
        at = _axis(axis, x)
        starts = tuple(start if i == at else 0 for i in range(x.rank))
        sizes = tuple(size if i == at else dim for i, dim in enumerate(x.shape))
        steps = tuple(step if i == at else 1 for i in range(x.rank))
        return self._one(Slice(starts, sizes, steps), x, name=name)

    def add_pad(
        self, x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0,
        name: str | None = None,
    ) -> Tensor:
        """Elements of one value before and after, one count per axis."""
        return self._one(Pad(tuple(before), tuple(after), value=value), x, name=name)


def _axis(axis: int, x: Tensor) -> int:
    if not -x.rank <= axis < x.rank:
        raise DefinitionError(layer=x.name, reason=f"{x.type} has no axis {axis}")
    return axis % x.rank
