"""y = epilogue(a b) on Hopper's tensor cores, the epilogue of one tile under the sums of another.

a [m, k] and b [n, k] have dense rows, any pitch that is a multiple of 16 bytes, and one type of 16
or 8 bits; sums are float (int32 of int8). Of a convolution the rows of a are the pixels of an
image with channels innermost, as the copy engine gathers them for one tap of the window after the
other (im2col), and those of b have every tap's channels padded to whole stages.

A block has three warpgroups. One thread of the first feeds a ring of stages through tensor maps.
The other two take tiles of 128 x BN in turn ("ping-pong"): while one multiplies (wgmma, both
operands from shared memory), the other applies the epilogue to its registers, stages the result and
stores it through a tensor map. An operand of the epilogue that lies as y does is fetched to where
the result is staged, before the tile's sums. Of one with a value per column, threads load theirs
before the sums and put them into shared memory after: read from the L2 in the epilogue, column by
column, they took longer than the rest of it. Two blocks form a cluster: they share the columns (or
the rows) of a pair of tiles, and each fetches half of what they share for both, which the L2 could
not feed otherwise.

Grid: two blocks per cluster, persistent. Bytes moved: a once per column of tiles and b once per
row of tiles, the shared one of them once per pair; y once.
Architectures: sm_90a alone. Source: PTX ISA, wgmma, mbarrier, cp.async.bulk.tensor.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.prelude import PRELUDE, c_type
from torch2rt.kernels.cuda.sm90_async import SM90_ASYNC, multiply_functions
from torch2rt.kernels.cuda.sm90_product_epilogue import PLACES, with_operands
from torch2rt.kernels.cuda.sm90_product_form import (
    AHEAD,
    BLOCK_M,
    REGISTERS,
    ProductForm,
    Taps,
)
from torch2rt.network.dtype import DType


def product_source(form: ProductForm) -> str:
    """CUDA C++ of ``t2r_product``.

    Parameters: tensor maps of a, b and y; m, n, steps along k and tiles; per epilogue operand its
    address and, of a matrix, its pitch in elements; of a staged one its map.
    """
    accumulator = "i32" if form.dtype is DType.INT8 else "float"
    constants = {
        "BN": form.block_n, "STAGES": form.stages, "SHARES_A": int(form.shares_a),
        "IS_EVEN": int(form.is_even), "HAS_PAIRS": int(form.has_pairs),
        "AHEAD": AHEAD[form.block_n], "ROW_BYTES": form.row_bytes,
        "A_BYTES": BLOCK_M * form.row_bytes, "B_BYTES": form.block_n * form.row_bytes,
        "BK": form.block_k,
        "STAGING_BYTES": form.staging_bytes, "STORE_COLUMNS": form.store_columns,
        "STORE_ROW_BYTES": form.store_row_bytes, "HALF_BYTES": form.half_bytes,
        "HAS_STAGED": int(form.has_staged), "COLUMN_OPERANDS": form.column_operands,
        "COLUMN_BYTES": form.column_bytes, "COLUMNS_OFFSET": form.columns_offset,
        **_tap_constants(form.taps),
    }
    lines = [f"constexpr int {name} = {value};" for name, value in constants.items()]
    half = "bf16" if form.out_dtype is DType.BFLOAT16 else "f16"
    types = [
        f"typedef {accumulator} Sum;", f"typedef {c_type(form.out_dtype)} Result;",
        f"typedef {half} Half;",
    ]
    return "\n".join([
        PRELUDE, *lines, *types, SM90_ASYNC, PLACES,
        multiply_functions("multiply", c_type(form.dtype), form.block_n), _epilogue(form),
        _kernel(form),
    ])


def _tap_constants(taps: Taps | None) -> dict[str, int]:
    """Constants of a window; of a product they are there, and not used."""
    found = taps or Taps((1, 1), (1, 1), (0, 0), (1, 1), (1, 1), 1)
    pairs = {
        "STRIDE": found.stride, "PADDING": found.padding, "DILATION": found.dilation,
        "PIXELS": found.pixels,
    }
    constants = {"HAS_TAPS": int(taps is not None), "KERNEL_W": found.kernel[1]}
    constants["CHANNEL_STEPS"] = found.channel_steps
    for name, (over_h, over_w) in pairs.items():
        constants |= {f"{name}_H": over_h, f"{name}_W": over_w}
    return constants


def _epilogue(form: ProductForm) -> str:
    names = [f"i{i + 1}" for i in range(len(form.operands))]
    parameters = ", ".join(["Sum i0", *(f"float {name}" for name in names)])
    return f"""
T2R_DEVICE auto epilogue({parameters}) {{ return {form.expression}; }}
"""


def _kernel(form: ProductForm) -> str:
    """The kernel, with its registers and the operands of the epilogue written out."""
    few, many = REGISTERS[form.blocks]
    numbers = {"BLOCKS": form.blocks, "FEW": few, "MANY": many}
    kernel: str = with_operands(_KERNEL, form.operands)
    for key, number in numbers.items():
        kernel = kernel.replace(f"@{key}@", str(number))
    return kernel


_KERNEL = r"""
// Tiles of a cluster in order: their first row and column for this block.
struct Place { int row, column; };
T2R_DEVICE Place place_of(int index, int m, int n, int rank) {
    if (SHARES_A) {
        const int pairs = (n + 2 * BN - 1) / (2 * BN);
        return {index / pairs * 128, (index % pairs * 2 + rank) * BN};
    }
    const int columns = (n + BN - 1) / BN;
    return {(index / columns * 2 + rank) * 128, index % columns * BN};
}

// An operand of the epilogue, to where the result will be staged; by the thread that stores.
T2R_DEVICE void fetch(const TensorMap& map, u32 staging, u32 barrier, Place place) {
    stores_have_read();
    barrier_expect(barrier, 2 * HALF_BYTES);
    for (int half = 0; half < 2; half++)
        for (int box = 0; box < BN / STORE_COLUMNS; box++)
            load_box(staging + half * HALF_BYTES + box * 64 * STORE_ROW_BYTES, &map, barrier,
                     place.column + box * STORE_COLUMNS, place.row + half * 64);
}

// A stage's rows of a: of a product, or the pixels of a tap.
struct Rows { int row, w, h, image; };
T2R_DEVICE Rows rows_of(int row) {
    if (!HAS_TAPS) return {row, 0, 0, 0};
    const int image = row / (PIXELS_H * PIXELS_W), rest = row % (PIXELS_H * PIXELS_W);
    return {row, rest % PIXELS_W * STRIDE_W - PADDING_W, rest / PIXELS_W * STRIDE_H - PADDING_H,
            image};
}
T2R_DEVICE void load_rows(u32 to, const TensorMap* map, u32 barrier, int step, Rows rows) {
    if (!HAS_TAPS) {
        if (SHARES_A) load_box_for_both(to, map, barrier, step * BK, rows.row);
        else load_box(to, map, barrier, step * BK, rows.row);
        return;
    }
    const int tap = step / CHANNEL_STEPS, c = step % CHANNEL_STEPS * BK;
    const int right = tap % KERNEL_W * DILATION_W, down = tap / KERNEL_W * DILATION_H;
    if (SHARES_A)
        load_pixels_for_both(to, map, barrier, c, rows.w, rows.h, rows.image, right, down);
    else
        load_pixels(to, map, barrier, c, rows.w, rows.h, rows.image, right, down);
}

// Half a tile of the result: the epilogue, the staging, the store. Rows of a warp lie 16 by 16.
T2R_DEVICE void finish(
    Sum (&d)[BN / 2], const TensorMap& y_map, u32 staging, u32 columns, int name, int thread,
    int row0, int column0, int m, int n@PASSED@
) {
    if (!HAS_STAGED) {
        if (thread == 0) stores_have_read();
        named_sync(name, 128);
    }
    const int lane = thread % 32, y_row = thread / 32 * 16 + lane / 4, y_column = lane % 4 * 2;
    const u32 corner = corner_in_store(staging, y_row, y_column);
    @SCALARS@
#pragma unroll
    for (int first = 0; first < BN / 8; first += AHEAD) {
        @ARRAYS@
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const int column = column0 + 8 * (first + j) + y_column;
            @COLUMNS@
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const int row = row0 + y_row + 8 * part;
                @READS@
            }
        }
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const int at = 4 * (first + j) + 2 * part;
                put(place_in_store(corner, first + j, part), epilogue(d[at]@REST0@),
                    epilogue(d[at + 1]@REST1@));
            }
        }
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    named_sync(name, 128);
    if (thread == 0) {
#pragma unroll
        for (int box = 0; box < BN / STORE_COLUMNS; box++)
            store_box(&y_map, staging + box * 64 * STORE_ROW_BYTES,
                      column0 + box * STORE_COLUMNS, row0);
        stores_commit();
    }
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, @BLOCKS@) t2r_product(
    const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap b_map,
    const __grid_constant__ TensorMap y_map, int m, int n, int steps, int tiles@PARAMETERS@
) {
    extern __shared__ __align__(1024) u8 raw[];
    const u32 base = shared_address(raw);
    if (base & 1023) asm volatile("trap;");  // stages would not lie where their maps swizzle them
    const u32 staging = base + STAGES * (A_BYTES + B_BYTES);
    const u32 full = staging + 2 * STAGING_BYTES, empty = full + 8 * STAGES;
    const u32 fetches = empty + 8 * STAGES;
    const int group = threadIdx.x / 128, thread = threadIdx.x % 128;
    const int rank = cluster_rank(), first = blockIdx.x / 2, clusters = gridDim.x / 2;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 8);  // four warps of each block
        }
        for (int i = 0; i < 2; i++) barrier_init(fetches + 8 * i, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_sync();
    t2r_wait();
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 @FEW@;");
        if (thread == 0) {
            int stage = 0, parity = 1;
            for (int index = first; index < tiles; index += clusters) {
                const Place place = place_of(index, m, n, rank);
                const Rows rows = rows_of(place.row + (SHARES_A ? rank * 64 : 0));
                for (int step = 0; step < steps; step++) {
                    const u32 a = base + stage * (A_BYTES + B_BYTES), b = a + A_BYTES;
                    const u32 barrier = full + 8 * stage;
                    barrier_wait(empty + 8 * stage, parity);
                    barrier_expect(barrier, A_BYTES + B_BYTES);
                    load_rows(SHARES_A ? a + rank * (A_BYTES / 2) : a, &a_map, barrier, step, rows);
                    if (SHARES_A) load_box(b, &b_map, barrier, step * BK, place.column);
                    else load_box_for_both(b + rank * (B_BYTES / 2), &b_map, barrier, step * BK,
                                           place.column + rank * (BN / 2));
                    if (++stage == STAGES) { stage = 0; parity ^= 1; }
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 @MANY@;");
        const int mine = group - 1, lane = thread % 32, warp = thread / 32;
        const u32 own_staging = staging + mine * STAGING_BYTES, fetched = fetches + 8 * mine;
        const u32 own_columns = full + COLUMNS_OFFSET + mine * COLUMN_BYTES;
        const int ORDER = 1, STORE = 3;
        // The first group multiplies first; who waits for its turn is let in by the other.
        if (mine == 1) named_arrive(ORDER, 256);
        int done = 0;  // steps of all tiles so far, those of the other group too
        int turn = 0, fetch_parity = 0;
        for (int index = first; index < tiles; index += clusters, turn ^= 1, done += steps) {
            if (turn != mine) continue;
            const Place place = place_of(index, m, n, rank);
            if (thread == 0) { @FETCHES@ }
            float loaded[COLUMN_OPERANDS + 1][OWN_COLUMNS];
            @LOADS@
            Sum upper[BN / 2], lower[BN / 2];
            named_sync(ORDER + mine, 256);
            int stage = done % STAGES, parity = done / STAGES & 1;
            int last = 0;
            for (int step = 0; step < steps; step++) {
                const u32 at = base + stage * (A_BYTES + B_BYTES);
                const u64 a = describe(at), b = describe(at + A_BYTES);
                barrier_wait(full + 8 * stage, parity);
                hold(upper);
                hold(lower);
                sums_begin();
#pragma unroll
                for (int piece = 0; piece < ROW_BYTES / 32; piece++) {  // two units of 16 bytes
                    multiply(upper, a + 2 * piece, b + 2 * piece, step | piece);
                    multiply(lower, a + 4 * ROW_BYTES + 2 * piece, b + 2 * piece, step | piece);
                }
                sums_commit();
                hold(upper);
                hold(lower);
                if (step > 0) {
                    sums_wait<1>();
                    if (lane < 2) barrier_arrive(empty + 8 * last, lane);
                }
                last = stage;
                if (++stage == STAGES) { stage = 0; parity ^= 1; }
            }
            named_arrive(ORDER + 1 - mine, 256);
            sums_wait<0>();
            hold(upper);
            hold(lower);
            if (lane < 2) barrier_arrive(empty + 8 * last, lane);

            if (COLUMN_OPERANDS > 0) {
#pragma unroll
                for (int i = 0; i < COLUMN_OPERANDS; i++)
                    put_columns(own_columns, i, loaded[i], thread);
                named_sync(STORE + mine, 128);
            }
            if (HAS_STAGED) {
                barrier_wait(fetched, fetch_parity);
                fetch_parity ^= 1;
            }
            finish(upper, y_map, own_staging, own_columns, STORE + mine, thread, place.row,
                   place.column, m, n@ARGUMENTS@);
            finish(lower, y_map, own_staging + (HAS_STAGED ? HALF_BYTES : 0), own_columns,
                   STORE + mine, thread, place.row + 64, place.column, m, n@ARGUMENTS@);
        }
        if (thread == 0) stores_are_done();
    }
    cluster_sync();
}
"""
