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
    const int here_x = min({tile_x}, {size_x} - first_x);
    const int here_y = min({tile_y}, {size_y} - first_y);
    t2r_launch_dependents();
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
        """C++ that fills a tile along x."""
        vector = self._vector(operand, 2, 1)
        stride = operand.strides[1]
        value = f"""            const Vec<{operand.type}, {vector}> v =
                load_vec<{operand.type}, {vector}>"""
        start = f"x{number} + first_y * {stride} + first_x"
        fill = f"""#pragma unroll
            for (int j = 0; j < {vector}; j++)"""
        if self._is_flat(operand, 2, 1):
            size = self.sizes[2]
            return f"""#pragma unroll 4
        for (int e = threadIdx.x * {vector}; e < here_y * {size}; e += {THREADS * vector}) {{
{value}({start} + e);
{fill} tile{number}[(u32)(e + j) / {size}][(u32)(e + j) % {size}] = v[j];
        }}
"""
        columns = self.tile[2] // vector
        if item_bytes(operand) == 2 and vector > 1:
            fill = f"""#pragma unroll
            for (int j = 0; j < {vector}; j += 2) {{
                const Vec<{operand.type}, 2> pair = {{v[j], v[j + 1]}};
                store_vec<{operand.type}, 2>(&tile{number}[row][column + j], pair);
            }}"""
        else:
            fill += f" tile{number}[row][column + j] = v[j];"
        return f"""#pragma unroll 8
        for (int item = threadIdx.x; item < {columns * self.tile[1]}; item += {THREADS}) {{
            const int row = item / {columns}, column = item % {columns} * {vector};
            if (row >= here_y || column >= here_x) continue;
{value}({start} + row * {stride} + column);
{fill}
        }}
"""

    def _store(self) -> str:
        """C++ that computes and stores along y."""
        output, stride = self.output, self.output.strides[2]
        vector = self._vector(output, 1, 2)
        start = f"y + first_x * {stride} + first_y"
        if self._is_flat(output, 1, 2):
            size = self.sizes[1]
            value = self._value(f"(int)((u32)(e + j) % {size})", f"(int)((u32)(e + j) / {size})")
            return f"""#pragma unroll 2
    for (int e = threadIdx.x * {vector}; e < here_x * {size}; e += {THREADS * vector}) {{
        constexpr int j = 0;
        (void)j;
{store_vector(output, vector, value, f"{start} + e")}    }}
"""
        columns = self.tile[1] // vector
        value = self._value("row + j", "column")
        return f"""#pragma unroll 2
    for (int item = threadIdx.x; item < {columns * self.tile[2]}; item += {THREADS}) {{
        const int column = item / {columns}, row = item % {columns} * {vector};
        if (row >= here_y || column >= here_x) continue;
        constexpr int j = 0;
        (void)j;
{store_vector(output, vector, value, f"{start} + column * {stride} + row")}    }}
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
