"""What our convolution kernels are specialised for: sizes, steps and operands as plain numbers.

Every tensor has the axes n, c, d, h, w: a convolution over one or two axes has size 1 in the
others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Three = tuple[int, int, int]

# Tensors that reach further need 64-bit offsets.
MAX_SPAN = 2**31 - 2**16
# Channels that one thread handles at once, at most.
MAX_VECTOR = 8


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor: its C++ type, and elements from one index to the next along n, c, d, h, w.

    A stride is 0 where the tensor is repeated (a bias along everything but c) or has one index.
    """

    type: str
    itemsize_bytes: int
    strides: tuple[int, int, int, int, int]

    @property
    def vector(self) -> int:
        """Channels that may be accessed at once: a power of two, 1 if they are not contiguous."""
        if self.strides[1] != 1:
            return 1
        width = MAX_VECTOR
        while any(stride % width for axis, stride in enumerate(self.strides) if axis != 1):
            width //= 2
        return width


@dataclass(frozen=True)
class ConvolutionShape:
    """One convolution. ``expression`` is C++ over ``i0`` (the sum) and ``i1``.. (``extras``)."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    image: Three
    result: Three
    kernel: Three
    stride: Three
    before: Three
    dilation: Three
    x: Operand
    out: Operand
    extras: tuple[Operand, ...]
    expression: str

    @property
    def group_in(self) -> int:
        """Input channels of a group."""
        return self.in_channels // self.groups

    @property
    def group_out(self) -> int:
        """Output channels of a group."""
        return self.out_channels // self.groups

    @property
    def taps(self) -> int:
        """Positions of the window."""
        return math.prod(self.kernel)

    @property
    def index(self) -> str:
        """C++ type that holds offsets into every operand."""
        sizes_in = (self.batch, self.in_channels, *self.image)
        sizes_out = (self.batch, self.out_channels, *self.result)
        spans = [_span(sizes_in, self.x)]
        spans += [_span(sizes_out, operand) for operand in (self.out, *self.extras)]
        return "int" if max(spans) < MAX_SPAN else "i64"


def _span(sizes: tuple[int, ...], operand: Operand) -> int:
    return sum(size * stride for size, stride in zip(sizes, operand.strides, strict=True))


def axis_constants(shape: ConvolutionShape) -> str:
    """Sizes and steps per axis as C++ constants: ``IMAGE_H``, ``STRIDE_W``, ``X_STRIDE_N``..."""
    values = {"CHANNELS": shape.in_channels, "FILTERS": shape.out_channels,
              "GROUPS": shape.groups, "GROUP_IN": shape.group_in, "GROUP_OUT": shape.group_out,
              "TAPS": shape.taps}
    for axis, letter in enumerate("DHW"):
        values |= {
            f"IMAGE_{letter}": shape.image[axis], f"RESULT_{letter}": shape.result[axis],
            f"KERNEL_{letter}": shape.kernel[axis], f"STRIDE_{letter}": shape.stride[axis],
            f"BEFORE_{letter}": shape.before[axis], f"DILATION_{letter}": shape.dilation[axis],
        }
    lines = [f"constexpr int {name} = {value};" for name, value in values.items()]
    lines += [
        f"constexpr Index X_STRIDE_{letter} = {stride};"
        for letter, stride in zip("NCDHW", shape.x.strides, strict=True)
    ]
    return "\n".join([f"typedef {shape.index} Index;", f"typedef {shape.x.type} In;",
                      f"typedef {shape.out.type} Result;", *lines, ""])
