"""Random small networks for property tests, built through the network's own methods."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from torch2rt import expression as ex
from torch2rt.layers.concat import Concat
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.pad import Pad
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.reduce import Reduce
from torch2rt.layers.reshape import Reshape
from torch2rt.layers.slice import Slice
from torch2rt.layers.transpose import Transpose
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor, TensorType

F32 = DType.FLOAT32
_UNARY = ["relu", "sigmoid", "neg", "square", "tanh"]
_BINARY = ["add", "mul", "sub", "max"]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Three to a few dozen layers over [2, c, 4, 4] and views of it; one or two outputs."""
    network = Network()
    tensors = [network.add_input("x", TensorType((2, 4, 4, 4), F32))]
    for _ in range(draw(st.integers(3, 12))):
        tensors.append(draw(st.sampled_from(_STEPS))(draw, network, tensors))
    network.add_output("y", tensors[-1])
    if draw(st.booleans()):
        network.add_output("z", draw(st.sampled_from(tensors)))
    return network


def _pick(draw: st.DrawFn, tensors: list[Tensor], rank: int | None = None) -> Tensor:
    """A tensor, most often the last one, so that layers form chains."""
    fitting = [t for t in tensors if rank is None or t.rank == rank]
    return draw(st.sampled_from([*fitting[-4:], *fitting[-1:] * 8]))


def _constant(draw: st.DrawFn, network: Network, shape: tuple[int, ...]) -> Tensor:
    """Small multiples of a quarter, so that folding rounds nothing."""
    generator = np.random.default_rng(draw(st.integers(0, 7)))
    values = generator.integers(-6, 7, shape).astype(np.float32) / 4
    return network.add_constant("c", values)


def _pointwise(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    a = _pick(draw, tensors)
    same = [t for t in tensors if t.shape == a.shape]
    b = draw(st.sampled_from(same))
    if draw(st.booleans()):
        expression: ex.Expression = ex.apply(draw(st.sampled_from(_UNARY)), ex.Input(0))
        return network.add(Pointwise(expression, F32), [a]).output
    expression = ex.apply(draw(st.sampled_from(_BINARY)), ex.Input(0), ex.Input(1))
    return network.add(Pointwise(expression, F32), [a, b]).output


def _scale(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    a = _pick(draw, tensors)
    channels = a.shape[1] if a.rank == 4 else 1
    assert isinstance(channels, int)
    constants = [_constant(draw, network, (channels, *(1,) * (a.rank - 2))) for _ in range(2)]
    form = draw(st.sampled_from(["mul(i0,i1)", "add(i0,i2)", "add(mul(i0,i1),i2)", "mul(i0,0.5)"]))
    kind = Pointwise(ex.parse_expression(form), F32)
    return network.add(kind, [a, *constants]).output


def _convolve(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    x = _pick(draw, tensors, 4)
    channels = x.shape[1]
    assert isinstance(channels, int)
    groups = draw(st.sampled_from([g for g in (1, 2) if channels % g == 0]))
    kernel = draw(st.sampled_from([1, 3]))
    weight = _constant(draw, network, (4, channels // groups, kernel, kernel))
    both = (kernel // 2,) * 2
    kind = Convolution((1, 1), both, both, (1, 1), groups)
    return network.add(kind, [x, weight]).output


def _concat(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    a = _pick(draw, tensors)
    fitting = [
        t for t in tensors
        if t.rank == a.rank and t.shape[:1] == a.shape[:1] and t.shape[2:] == a.shape[2:]
    ]
    parts = draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=3))
    return network.add(Concat(1), parts).output if a.rank > 1 else a


def _slice(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    x = _pick(draw, tensors)
    starts, sizes = [], []
    for axis, size in enumerate(x.shape):
        assert isinstance(size, int)
        start = draw(st.integers(0, size - 1)) if axis == 1 else 0
        starts.append(start)
        sizes.append(draw(st.integers(1, size - start)) if axis == 1 else size)
    return network.add(Slice(tuple(starts), tuple(sizes), (1,) * x.rank), [x]).output


def _transpose(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    x = _pick(draw, tensors)
    return network.add(Transpose(tuple(draw(st.permutations(range(x.rank))))), [x]).output


def _reshape(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    x = _pick(draw, tensors)
    count = int(x.type.element_count)  # type: ignore[arg-type]
    shapes = [(count,), (2, count // 2), x.shape, (2, 1, -1), (1, *x.shape)]
    shape = draw(st.sampled_from([s for s in shapes if len(s) <= 4] if count % 2 == 0 else [(-1,)]))
    return network.add(Reshape(tuple(shape)), [x]).output


def _pad(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    x = _pick(draw, tensors, 4)
    before = draw(st.sampled_from([(0, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0)]))
    return network.add(Pad(before, before), [x]).output


def _reduce(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    x = _pick(draw, tensors, 4)
    return network.add(Reduce("mean", (x.rank - 1,), keepdim=True), [x]).output


def _convolve_and_scale(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    convolved = _convolve(draw, network, tensors)
    scaled = _scale(draw, network, [convolved])
    return _pointwise(draw, network, [scaled])


def _scale_and_convolve(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    scaled = _scale(draw, network, [_pick(draw, tensors, 4)])
    return _convolve(draw, network, [scaled])


def _siblings(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    x = _pick(draw, tensors, 4)
    parts = [_convolve(draw, network, [x]) for _ in range(2)]
    return network.add(Pointwise(ex.parse_expression("mul(i0,i1)"), F32), parts).output


def _slice_of_concat(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    return _slice(draw, network, [_concat(draw, network, tensors)])


def _twice_transposed(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    return _transpose(draw, network, [_transpose(draw, network, tensors)])


def _twice_reshaped(draw: st.DrawFn, network: Network, tensors: list[Tensor]) -> Tensor:
    return _reshape(draw, network, [_reshape(draw, network, tensors)])


_STEPS = [
    _pointwise, _scale, _convolve, _concat, _slice, _transpose, _reshape, _pad, _reduce,
    _convolve_and_scale, _scale_and_convolve, _siblings, _slice_of_concat, _twice_transposed,
    _twice_reshaped,
]
