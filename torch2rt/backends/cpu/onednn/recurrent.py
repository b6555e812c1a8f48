"""Builders of recurrent layers, forward inference.

Shapes, with t steps, n batch, l layers, d directions (2 when bidirectional), g gates:
src (t, n, i); dst (t, n, o) or (t, n, 2 o) for bidirectional_concat; hidden and cell states
(l, d, n, o); weights_layer (l, d, i, g, o), weights_iter (l, d, o, g, o), bias (l, d, g', o).
Gate order: lstm i, f, c~, o (torch: i, f, g, o); gru update, reset, new (torch: r, z, n), and
lbr_gru is torch's gru, with g' = 4, the fourth bias being that of the hidden part of `new`.
"""

from dataclasses import dataclass

from torch2rt.backends.cpu.onednn.attributes import Attributes
from torch2rt.backends.cpu.onednn.constants import FORWARD_INFERENCE, Algorithm, Direction
from torch2rt.backends.cpu.onednn.create import create, pointer
from torch2rt.backends.cpu.onednn.memory import MemoryDesc
from torch2rt.backends.cpu.onednn.primitive import PrimitiveDesc

_FLAGS_NONE = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """Descriptors every recurrent layer has; None leaves a state out (zero in, dropped out).

    Arguments at execution: src, src_iter = Arg.src_1, weights_layer = Arg.weights, weights_iter =
    Arg.weights_1, bias, dst, dst_iter = Arg.dst_1; cell states Arg.src_2 and Arg.dst_2.
    """

    src: MemoryDesc
    weights_layer: MemoryDesc
    weights_iter: MemoryDesc
    bias: MemoryDesc | None
    dst: MemoryDesc
    src_iter: MemoryDesc | None = None
    dst_iter: MemoryDesc | None = None

    def shown(self) -> tuple[MemoryDesc | None, ...]:
        """The tensors that an error message shows."""
        return (self.src, self.weights_layer, self.weights_iter, self.dst)


def lstm(
    cell: Cell,
    direction: Direction,
    *,
    src_iter_c: MemoryDesc | None = None,
    dst_iter_c: MemoryDesc | None = None,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Long short-term memory without peepholes or projection."""
    arguments = [
        FORWARD_INFERENCE,
        direction,
        pointer(cell.src),
        pointer(cell.src_iter),
        pointer(src_iter_c),
        pointer(cell.weights_layer),
        pointer(cell.weights_iter),
        None,
        None,
        pointer(cell.bias),
        pointer(cell.dst),
        pointer(cell.dst_iter),
        pointer(dst_iter_c),
        _FLAGS_NONE,
    ]
    return create("lstm_forward", attributes, arguments, cell.shown())


def gru(cell: Cell, direction: Direction, *, attributes: Attributes | None = None) -> PrimitiveDesc:
    """Gated recurrent unit with the reset gate before the hidden product."""
    arguments = [FORWARD_INFERENCE, direction, *_states(cell), _FLAGS_NONE]
    return create("gru_forward", attributes, arguments, cell.shown())


def lbr_gru(
    cell: Cell, direction: Direction, *, attributes: Attributes | None = None
) -> PrimitiveDesc:
    """Gated recurrent unit with the reset gate after the hidden product, as torch's."""
    arguments = [FORWARD_INFERENCE, direction, *_states(cell), _FLAGS_NONE]
    return create("lbr_gru_forward", attributes, arguments, cell.shown())


def vanilla_rnn(
    cell: Cell,
    direction: Direction,
    activation: Algorithm,
    *,
    alpha: float = 0.0,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Elman network; `activation` is tanh, relu (negative slope alpha) or logistic."""
    arguments = [
        FORWARD_INFERENCE,
        activation,
        direction,
        *_states(cell),
        _FLAGS_NONE,
        alpha,
        0.0,
    ]
    return create("vanilla_rnn_forward", attributes, arguments, cell.shown())


def _states(cell: Cell) -> tuple[int | None, ...]:
    """The seven descriptors in the order of the C calls."""
    ordered = (
        cell.src,
        cell.src_iter,
        cell.weights_layer,
        cell.weights_iter,
        cell.bias,
        cell.dst,
        cell.dst_iter,
    )
    return tuple(pointer(desc) for desc in ordered)
