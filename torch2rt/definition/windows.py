"""Layers of a written network that look at windows of images, and their norms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torch2rt.definition.base import Base, Value, pair
from torch2rt.errors import DefinitionError
from torch2rt.layers.adaptive_pool import AdaptivePool
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.layers.group_norm import GroupNorm
from torch2rt.layers.pool import Pool
from torch2rt.layers.resize import Resize
from torch2rt.network.dim import Dim, floordiv
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import Tensor

Sizes = int | Sequence[int]


class WindowLayers(Base):
    """Images are [n, c, *spatial]. Stride, padding and the like: one number, or one per axis."""

    def add_convolution(
        self, x: Tensor, weight: Value, bias: Value = None, *, stride: Sizes = 1,
        padding: Sizes = 0, dilation: Sizes = 1, groups: int = 1, name: str | None = None,
    ) -> Tensor:
        """Convolution with weight [k, c/groups, *kernel] and bias [k]."""
        spatial = x.rank - 2
        pads = pair(padding, spatial)
        kind = Convolution(pair(stride, spatial), pads, pads, pair(dilation, spatial), groups)
        return self._with_bias(self._one(kind, x, weight, name=name), bias)

    def add_deconvolution(
        self, x: Tensor, weight: Value, bias: Value = None, *, stride: Sizes = 1,
        padding: Sizes = 0, output_padding: Sizes = 0, dilation: Sizes = 1, groups: int = 1,
        name: str | None = None,
    ) -> Tensor:
        """Transposed convolution with weight [c, k/groups, *kernel] and bias [k]."""
        spatial = x.rank - 2
        before = pair(padding, spatial)
        after = tuple(
            p - extra for p, extra in zip(before, pair(output_padding, spatial), strict=True)
        )
        kind = Deconvolution(
            pair(stride, spatial), before, after, pair(dilation, spatial), groups
        )
        return self._with_bias(self._one(kind, x, weight, name=name), bias)

    def add_pooling(
        self, x: Tensor, mode: str, kernel: Sizes, *, stride: Sizes | None = None,
        padding: Sizes = 0, count_padding: bool = True, name: str | None = None,
    ) -> Tensor:
        """The "max" or "mean" of each window; ``stride``: that of the kernel unless given."""
        spatial = x.rank - 2
        pads = pair(padding, spatial)
        kind = Pool(
            mode, pair(kernel, spatial), pair(kernel if stride is None else stride, spatial), pads,
            pads, (1,) * spatial, count_padding and mode == "mean",
        )
        return self._one(kind, x, name=name)

    def add_adaptive_pooling(
        self, x: Tensor, mode: str, size: Sizes = 1, name: str | None = None
    ) -> Tensor:
        """The "max" or "mean" of as many windows as ``size`` says."""
        return self._one(AdaptivePool(mode, pair(size, x.rank - 2)), x, name=name)

    def add_batch_norm(
        self, x: Tensor, mean: Value, variance: Value, weight: Value = 1.0, bias: Value = 0.0,
        eps: float = 1e-5, name: str | None = None,
    ) -> Tensor:
        """(x - mean) / sqrt(variance + eps) * weight + bias per channel, with numbers given."""
        given = (self._numbers(value) for value in (mean, variance, weight, bias))
        mean_of, variance_of, weight_of, bias_of = given
        scale = weight_of / np.sqrt(variance_of + eps)
        shape = (-1,) + (1,) * (x.rank - 2)
        shift = bias_of - mean_of * scale
        return self._expression(
            "add(mul(i0,i1),i2)", x,
            np.broadcast_to(scale, shift.shape).reshape(shape).astype(np.float32),
            shift.reshape(shape).astype(np.float32), name=name or "batch_norm",
        )

    def add_group_norm(
        self, x: Tensor, groups: int, weight: Value = None, bias: Value = None,
        eps: float = 1e-5, name: str | None = None,
    ) -> Tensor:
        """Each group of channels of each image to mean 0 and variance 1, then weight and bias."""
        extra = [value for value in (weight, bias) if value is not None]
        kind = GroupNorm(groups, eps, weight is not None, bias is not None)
        return self._one(kind, x, *extra, name=name)

    def add_resize(
        self, x: Tensor, mode: str, *, sizes: Sequence[Dim] | None = None, scale: int = 2,
        align_corners: bool = False, name: str | None = None,
    ) -> Tensor:
        """Images at other ``sizes``, or ``scale`` times as large; mode as `Resize` has them."""
        spatial = x.rank - 2
        wanted = tuple(sizes) if sizes is not None else tuple(d * scale for d in x.shape[2:])
        kind = Resize(mode, wanted, (None,) * spatial, align_corners)
        return self._one(kind, x, name=name)

    def add_space_to_depth(self, x: Tensor, block: int, name: str | None = None) -> Tensor:
        """[n, c, h, w] -> [n, c block block, h/block, w/block], as `pixel_unshuffle` orders it."""
        from torch2rt.layers.reshape import Reshape
        from torch2rt.layers.transpose import Transpose

        n, c, h, w = x.shape
        rows, columns = floordiv(h, block), floordiv(w, block)
        split = self._one(Reshape((n, c, rows, block, columns, block)), x)
        turned = self._one(Transpose((0, 1, 3, 5, 2, 4)), split)
        return self._one(Reshape((n, c * block * block, rows, columns)), turned, name=name)

    def _with_bias(self, x: Tensor, bias: Value) -> Tensor:
        if bias is None:
            return x
        is_double = x.dtype is DType.FLOAT64
        values = self._numbers(bias).astype(np.float64 if is_double else np.float32)
        shaped = values.reshape((-1,) + (1,) * (x.rank - 2))
        return self._expression("add(i0,i1)", x, self.add_constant(shaped, f"{x.name}.bias"))

    def _expression(self, text: str, *inputs: Value, name: str | None = None) -> Tensor:
        from torch2rt import expression as ex
        from torch2rt.layers.pointwise import Pointwise

        kind = Pointwise(ex.parse_expression(text), inputs[0].dtype)
        return self._one(kind, *inputs, name=name)

    def _numbers(self, value: Value) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """A weight that must be known now."""
        if isinstance(value, Tensor):
            raise DefinitionError(layer=value.name, reason="this weight must be numbers")
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        return np.asarray(array, np.float64)
