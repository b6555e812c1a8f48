"""An expression whose operands lie in another layout than its result, such as NCHW to NHWC.

Idea: axes are batch, y and x. *Tiled* inputs are contiguous along x, the output along y. A block
reads a tile of every tiled input along x into shared memory, and computes and stores along y.
Other inputs (per-channel scales, operands that lie like the output) are read when it stores.
A tile as wide as the tensor whose rows lie side by side is one flat run: with 3 channels the
elements of several pixels are still read and written in vectors.
Grid: x tiles, then y tiles, then batch. Bytes moved: every operand once.
Limits: fewer than 2^31 elements. Architectures: any.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch2rt.kernels.cuda.pointwise import Operand, evaluate_function, store_vector, widen
from torch2rt.kernels.cuda.prelude import PRELUDE

NAME = "t2r_pointwise_transpose"
THREADS = 256
_ITEM_BYTES = {"double": 8, "i64": 8, "float": 4, "i32": 4, "f16": 2, "bf16": 2, "i16": 2}


def item_bytes(operand: Operand) -> int:
    """Bytes of a stored element."""
    return _ITEM_BYTES.get(operand.type, 1)


@dataclass(frozen=True, slots=True)
class TransposeKernel:
    """What one kernel is made for. Sizes, tile and strides are along (batch, y, x)."""

    expression: str
    inputs: tuple[Operand, ...]
    is_tiled: tuple[bool, ...]
    output: Operand
    sizes: tuple[int, int, int]
    tile: tuple[int, int, int]  # of batch: 1

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks."""
        batch, y, x = self.sizes
        return (-(-x // self.tile[2]) * -(-y // self.tile[1]) * batch, 1, 1)

    @property
    def source(self) -> str:
        """``void t2r_pointwise_transpose(x0, x1, ..., y)``."""
        _, size_y, size_x = self.sizes
        _, tile_y, tile_x = self.tile
        numbered = list(enumerate(self.inputs))
        parameters = "".join(f"const {x.type}* x{i}, " for i, x in numbered)
        bases = "".join(
            f"    {name} += batch * {operand.strides[0]}u;\n"
            for name, operand in [*((f"x{i}", x) for i, x in numbered), ("y", self.output)]
            if operand.strides[0]
        )
        tiled = [(i, x) for i, x in numbered if self.is_tiled[i]]
        return f"""{PRELUDE}
{evaluate_function(self.expression, self.inputs, self.output)}
extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    {parameters}{self.output.type}* y
) {{
{"".join(self._declare(i, x) for i, x in tiled)}
    const u32 tiles_x = {-(-size_x // tile_x)}, tiles_y = {-(-size_y // tile_y)};
    const int first_x = (int)(blockIdx.x % tiles_x) * {tile_x};
    const int first_y = (int)(blockIdx.x / tiles_x % tiles_y) * {tile_y};
    const u32 batch = blockIdx.x / tiles_x / tiles_y;
    const u32 here_x = min({tile_x}, {size_x} - first_x);
    const u32 here_y = min({tile_y}, {size_y} - first_y);
    t2r_wait();
{bases}{"".join(self._load(i, x) for i, x in tiled)}    __syncthreads();
{self._store()}}}
"""

    def _declare(self, number: int, operand: Operand) -> str:
        """The tile; rows are an odd number of words apart, against conflicts."""
        pitch = self.tile[2] + max(1, 4 // item_bytes(operand))
        return (
            f"    __shared__ __align__(16) {operand.type} tile{number}[{self.tile[1]}][{pitch}];\n"
        )

    def _is_flat(self, operand: Operand, along: int, across: int) -> bool:
        """Whether the elements of a tile are one run."""
        length = self.sizes[along]
        return length <= self.tile[along] and operand.strides[across] == length

    def _vector(self, operand: Operand, along: int, across: int) -> int:
        """Elements read or written together: as many as keep all of them aligned."""
        if self._is_flat(operand, along, across):
            numbers = [self.sizes[along] * self.sizes[across],
                       self.sizes[along] * self.tile[across]]
        else:
            numbers = [self.sizes[along], self.tile[along], operand.strides[across]]
        vector = 16 // item_bytes(operand)
        while any(number % vector for number in (*numbers, operand.strides[0])):
            vector //= 2
        return vector

    def _load(self, number: int, operand: Operand) -> str:
        """C++ that fills a tile along x: all loads first, then what goes to shared memory."""
        vector = self._vector(operand, 2, 1)
        stride, vec = operand.strides[1], f"Vec<{operand.type}, {vector}>"
        if self._is_flat(operand, 2, 1):
            size = self.sizes[2]
            items = _ceil_divide(self.tile[1] * size, vector)
            position, is_inside, offset = "", f"item * {vector} < here_y * {size}", (
                f"item * {vector}"
            )
            fill = f"""const u32 e = item * {vector} + j;
                tile{number}[e / {size}][e % {size}] = v{number}[round][j];"""
            step = 1
        else:
            columns = self.tile[2] // vector
            items = columns * self.tile[1]
            position = f"const u32 row = item / {columns}, column = item % {columns} * {vector};"
            is_inside, offset = "row < here_y && column < here_x", f"row * {stride} + column"
            step = 2 if item_bytes(operand) == 2 and vector > 1 else 1
            piece = f"v{number}[round][j]"
            fill = f"tile{number}[row][column + j] = {piece};" if step == 1 else (
                f"const Vec<{operand.type}, 2> pair = {{{piece}, v{number}[round][j + 1]}};\n"
                f"                store_vec<{operand.type}, 2>"
                f"(&tile{number}[row][column + j], pair);"
            )
        return f"""    {vec} v{number}[{_ceil_divide(items, THREADS)}];
{_rounds(items)}        {position}
        if ({is_inside}) v{number}[round] = load_vec<{operand.type}, {vector}>(
            x{number} + (u32)(first_y * {stride} + first_x + {offset}));
    }}
{_rounds(items)}        {position}
        if ({is_inside}) {{
#pragma unroll
            for (int j = 0; j < {vector}; j += {step}) {{
                {fill}
            }}
        }}
    }}
"""

    def _store(self) -> str:
        """C++ that computes and stores along y."""
        output, stride = self.output, self.output.strides[2]
        vector = self._vector(output, 1, 2)
        if self._is_flat(output, 1, 2):
            size = self.sizes[1]
            items = _ceil_divide(self.tile[2] * size, vector)
            position, is_inside, offset = "", f"item * {vector} < here_x * {size}", (
                f"item * {vector}"
            )
            element = f"(item * {vector} + j)"
            value = self._value(f"({element} % {size}u)", f"({element} / {size}u)")
        else:
            columns = self.tile[1] // vector
            items = columns * self.tile[2]
            position = f"const u32 column = item / {columns}, row = item % {columns} * {vector};"
            is_inside, offset = "row < here_y && column < here_x", f"column * {stride} + row"
            value = self._value("(row + j)", "column")
        # One 32-bit offset: sums of pointers keep the compiler from storing vectors.
        address = f"y + (u32)(first_x * {stride} + first_y + {offset})"
        store = store_vector(output, vector, value, address)
        return f"""{_rounds(items)}        {position}
        if ({is_inside}) {{
            constexpr int j = 0;
            (void)j;
{store}        }}
    }}
"""

    def _value(self, row: str, column: str) -> str:
        """The expression at an element of the tile."""
        values = []
        for i, x in enumerate(self.inputs):
            if self.is_tiled[i]:
                stored = f"tile{i}[{row}][{column}]"
            else:
                _, along_y, along_x = x.strides
                terms = [
                    f"(first_{axis} + {place}) * {step}"
                    for axis, place, step in (("y", row, along_y), ("x", column, along_x)) if step
                ]
                stored = f"x{i}[{' + '.join(terms) or '0'}]"
            values.append(widen(x, stored))
        return f"evaluate({', '.join(values)})"


def _rounds(items: int) -> str:
    """The head of a loop over ``item``, all threads together."""
    rounds = _ceil_divide(items, THREADS)
    guard = "" if items % THREADS == 0 else f"\n        if (item >= {items}) continue;"
    return f"""#pragma unroll
    for (int round = 0; round < {rounds}; round++) {{
        const u32 item = threadIdx.x + round * {THREADS};{guard}
"""


def _ceil_divide(count: int, by: int) -> int:
    return -(-count // by)
