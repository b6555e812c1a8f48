"""y = epilogue(a b) of few rows, whose time is that of reading b once.

a [m, k] has up to 32 rows, b [n, k] dense rows at multiples of 16 bytes, of one type of 16 or 8
bits, or b of int8 beside halves, which becomes halves in registers (exactly).

A warp multiplies tiles of 8 rows of b by all of a on the tensor cores (mma). Which products of k a
lane holds is free as long as both factors agree, so that each takes 16 bytes in a row of b, as they
lie: 64 bytes of 8 rows at a time, nothing goes through shared memory. The warps of a block share
its tiles along k, 64 bytes each in turn, and meet in shared memory for the epilogue. Loads are
AHEAD steps in front, the first of them before the kernel ahead has ended: b is constant.

Grid: a block per TILES tiles. Bytes moved: b once; a, from the caches, once per block.
Architectures: sm_80 and later, float8 sm_89. Source: PTX, mma.m16n8k16 and m16n8k32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch2rt.kernels.cuda.mma import MMA
from torch2rt.kernels.cuda.prelude import PRELUDE, c_type
from torch2rt.network.dtype import DType

NAME = "t2r_few_rows"
TILE_COLUMNS = 8
TILE_ROWS = 16
MOST_ROWS = 32
AHEAD = 4
_LANES_ALONG_K = 4
_LOAD_BYTES = 16


@dataclass(frozen=True, slots=True)
class FewRowsForm:
    """What a source is for. ``row_tiles`` of 16 rows; blocks of ``tiles`` tiles of 8 columns.

    ``extras``: kind ("scalar", "column" or "matrix") and dtype of the epilogue's operands.
    ``expression``: C++ of the epilogue in ``i0`` (float; int for int8 operands), ``i1`` and so on.
    """

    a_dtype: DType
    b_dtype: DType
    out_dtype: DType
    row_tiles: int
    tiles: int
    warps: int
    extras: tuple[tuple[str, DType], ...]
    expression: str

    @property
    def columns(self) -> int:
        """Columns of a block."""
        return TILE_COLUMNS * self.tiles

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps


def few_rows_source(form: FewRowsForm) -> str:
    """CUDA C++ of ``t2r_few_rows``.

    Parameters: addresses of a, b and y; m, n, k; pitches of a, b and y in elements; per epilogue
    operand its address and, of a matrix, its pitch.
    """
    is_stored = form.a_dtype is not form.b_dtype
    constants = {
        "CHUNK": _LOAD_BYTES // form.b_dtype.itemsize_bytes, "ROW_TILES": form.row_tiles,
        "TILES": form.tiles, "WARPS": form.warps, "AHEAD": AHEAD,
        # Of 16 bytes of a row of b: products on the tensor cores.
        "PRODUCTS": 4 if is_stored else 2,
    }
    types = {
        "A": c_type(form.a_dtype), "B": c_type(form.b_dtype), "Y": c_type(form.out_dtype),
        "Sum": "i32" if form.a_dtype is DType.INT8 else "float",
    }
    names = [f"i{i}" for i in range(1, len(form.extras) + 1)]
    parameters = ", ".join(["Sum i0", *(f"float {name}" for name in names)])
    return "\n".join([
        PRELUDE, MMA, *(f"constexpr int {name} = {value};" for name, value in constants.items()),
        *(f"typedef {type} {name};" for name, type in types.items()),
        f"T2R_DEVICE auto epilogue({parameters}) {{ return {form.expression}; }}",
        _STORED_FACTORS if is_stored else _SAME_FACTORS, _kernel(form.extras),
    ])


def step_count(k: int, itemsize_bytes: int) -> int:
    """Steps along k of a warp that does all of them."""
    return -(-k * itemsize_bytes // (_LANES_ALONG_K * _LOAD_BYTES))


def _kernel(extras: Sequence[tuple[str, DType]]) -> str:
    """The kernel, with its epilogue's operands written out."""
    parameters, arguments = "", ""
    for i, (kind, dtype) in enumerate(extras, 1):
        parameters += f", const {c_type(dtype)}* e{i}" + f", int e{i}_pitch" * (kind == "matrix")
        place = {"scalar": "0", "column": "column", "matrix": f"(i64)row * e{i}_pitch + column"}
        arguments += f", to_float(e{i}[{place[kind]}])"
    return _KERNEL.replace("@PARAMETERS@", parameters).replace("@OPERANDS@", arguments)


_SAME_FACTORS = r"""
// What the tensor cores take of 16 bytes of a row of b.
T2R_DEVICE void factors(u32 (&b)[PRODUCTS][2], const u32 (&words)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) b[i / 2][i % 2] = words[i];
}
"""

_STORED_FACTORS = r"""
// Four bytes of a word as two pairs of A.
#ifndef T2R_EMULATED
T2R_DEVICE void halves(u32 (&pairs)[2], u32 word, f16) {
    // As the last bits of 1024 + 128 + x, which is then subtracted.
    const u32 shifted = word ^ 0x80808080u;
    pairs[0] = __byte_perm(shifted, 0x64646464u, 0x4140);
    pairs[1] = __byte_perm(shifted, 0x64646464u, 0x4342);
#pragma unroll
    for (int i = 0; i < 2; i++)
        asm("sub.f16x2 %0, %0, %1;" : "+r"(pairs[i]) : "r"(0x64806480u));
}
#endif
template <class T> T2R_DEVICE void halves(u32 (&pairs)[2], u32 word, T) {
#pragma unroll
    for (int i = 0; i < 2; i++)
        pairs[i] = pack2<T>(to_float((i8)(word >> 16 * i)), to_float((i8)(word >> (16 * i + 8))));
}

// What the tensor cores take of 16 bytes of a row of b.
T2R_DEVICE void factors(u32 (&b)[PRODUCTS][2], const u32 (&words)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) halves(b[i], words[i], A());
}
"""

_KERNEL = r"""
constexpr int ROWS = 16 * ROW_TILES, COLUMNS = 8 * TILES;
typedef Loaded<B, CHUNK> Piece;

// A lane's pieces of AHEAD steps from ``step`` on, of rows 8 apart; zeros outside of b.
struct Rows { const B* b; int left, k, pitch, part; };
T2R_DEVICE void fetch(Piece (&pieces)[AHEAD][TILES], const Rows& rows, int step) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
        const int k = ((step + i * WARPS) * 4 + rows.part) * CHUNK;
#pragma unroll
        for (int j = 0; j < TILES; j++)
            pieces[i][j] = load_if<B, CHUNK>(
                k < rows.k && 8 * j < rows.left, rows.b + (i64)(8 * j) * rows.pitch + k);
    }
}

T2R_DEVICE Y stored(float value) { return from_float<Y>(value); }
T2R_DEVICE i8 stored(i8 value) { return value; }

extern "C" __global__ void __launch_bounds__(32 * WARPS) t2r_few_rows(
    const A* a, const B* b, Y* y, int m, int n, int k, int a_pitch, int b_pitch,
    int y_pitch@PARAMETERS@
) {
    __shared__ Sum parts[WARPS][ROWS][COLUMNS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, place = lane / 4, part = lane % 4;
    const int first = blockIdx.x * COLUMNS, mine = first + place;
    const Rows columns_of_b = {b + (i64)mine * b_pitch, n - mine, k, b_pitch, part};
    Piece ahead[AHEAD][TILES];
    fetch(ahead, columns_of_b, warp);
    t2r_wait();
    Sum sums[ROW_TILES][TILES][4] = {};
    for (int step = warp; step * 4 * CHUNK < k; step += WARPS * AHEAD) {
        Piece pieces[AHEAD][TILES];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int j = 0; j < TILES; j++) pieces[i][j] = ahead[i][j];
        fetch(ahead, columns_of_b, step + WARPS * AHEAD);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int inner = ((step + i * WARPS) * 4 + part) * CHUNK;
            u32 rows[2 * ROW_TILES][2 * PRODUCTS];
#pragma unroll
            for (int r = 0; r < 2 * ROW_TILES; r++) {
                const int row = place + 8 * r;
                const Loaded<A, CHUNK> loaded =
                    load_if<A, CHUNK>(row < m && inner < k, a + (i64)row * a_pitch + inner);
                memcpy(rows[r], loaded.raw, sizeof(rows[r]));
            }
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                u32 words[4], columns[PRODUCTS][2];
                memcpy(words, pieces[i][j].raw, sizeof(words));
                factors(columns, words);
#pragma unroll
                for (int r = 0; r < ROW_TILES; r++)
#pragma unroll
                    for (int p = 0; p < PRODUCTS; p++) {
                        const u32 left[4] = {rows[2 * r][2 * p], rows[2 * r + 1][2 * p],
                                             rows[2 * r][2 * p + 1], rows[2 * r + 1][2 * p + 1]};
                        t2r_mma<A>(sums[r][j], left, columns[p]);
                    }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++)
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                parts[warp][16 * r + place + i / 2 * 8][8 * j + 2 * part + i % 2] = sums[r][j][i];
    __syncthreads();
    for (int index = threadIdx.x; index < m * COLUMNS; index += 32 * WARPS) {
        const int row = index / COLUMNS, column = first + index % COLUMNS;
        if (column >= n) continue;
        Sum sum = 0;
#pragma unroll
        for (int i = 0; i < WARPS; i++) sum += parts[i][row][index % COLUMNS];
        y[(i64)row * y_pitch + column] = stored(epilogue(sum@OPERANDS@));
    }
}
"""
