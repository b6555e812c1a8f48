"""y = softmax(scale * q k^T + mask) v on Hopper's tensor cores, for short sequences.

q, k, v and y are [far, mid, rows, 64 features] of 16 bits with any strides that are multiples of 16
bytes. A tile is 64 queries of a matrix; a warpgroup computes its scores against a chunk of up to
208 keys at once, so that up to 208 keys need no running maximum: the largest score is known before
the first exponential. Shares are rounded to 16 bits in the registers that the second product reads
them from, and it begins while later shares are made. With more chunks, what there is of a row is
rescaled when its maximum grows. A row whose keys are all hidden gives zeros.

A block has one warp that copies and GROUPS warpgroups that multiply. A ring of stages holds chunks
of keys and values; a block takes TILES tiles of a matrix, in turn by its warpgroups, before it lets
go of its chunks, and meanwhile fetches those of the next matrix. Each warpgroup fetches its next
queries itself, and stores its result from where its queries were. Keys beyond the last are zeros
that the copy engine fills in, and hidden.

Grid: persistent. Bytes moved: q and y once; k and v once per part of TILES tiles.
Expected of ViT-B/16 at batch 64 (768 matrices of 197 x 197), per multiprocessor and matrix: memory
5400 clocks, tensor cores 3300 (four tiles of 64, the last one nearly empty), exponentials 3200; so
memory bounds it, 18 us, 22 with the first load and the last tile.
Of BERT-base at 32 x 384: tensor cores and exponentials 9200 clocks each, memory 8000: 28 us, where
warpgroups hide two thirds of each other's waits.
Limits: 64 features. Architectures: sm_90a alone. Source: PTX ISA, wgmma, mbarrier,
cp.async.bulk.tensor; FlashAttention-3 (Shah et al. 2024) for warpgroups that take turns.
"""

from __future__ import annotations

import math

from torch2rt.kernels.cuda.prelude import PRELUDE, c_type
from torch2rt.kernels.cuda.sm90_async import SM90_ASYNC
from torch2rt.kernels.cuda.sm90_attention_float8 import (
    CONVERT,
    CONVERTING_WARPS,
    CONVERTS,
    PUT_BYTES,
    PUT_SHORT,
    multiply_bytes,
)
from torch2rt.kernels.cuda.sm90_attention_form import (
    FEATURES,
    MASK_BYTES,
    ONES_BYTES,
    QUERY_BUFFERS,
    ROW_BYTES,
    SUMS,
    TILE_ROWS,
    AttentionForm,
)
from torch2rt.kernels.cuda.sm90_attention_softmax import SOFTMAX
from torch2rt.kernels.cuda.sm90_attention_walk import WALK
from torch2rt.network.dtype import DType

NAME = "t2r_attention"
_LOG2E = math.log2(math.e)


def attention_source(form: AttentionForm) -> str:
    """CUDA C++ of ``t2r_attention``; parameters: tensor maps of q, k, v and y, then the mask."""
    mask = form.mask
    few, many = form.registers
    far, mid, row, key = mask.strides if mask is not None else (0, 0, 0, 0)
    constants = {
        "ROWS": form.rows, "KEYS": form.keys, "MID": form.batch[1], "ITEMS": form.items,
        "SPLITS": form.splits, "TILES": form.tiles, "CHUNKS": form.chunks,
        "SCORES": form.scores, "VALUES": form.values, "GROUPS": form.groups,
        "STAGES": form.stages, "FEATURES": FEATURES, "SUMS": SUMS,
        "ONES_BYTES": ONES_BYTES, "ROW_BYTES": ROW_BYTES,
        "QUERY_BYTES": TILE_ROWS * form.row_bytes, "KEY_BYTES": form.scores * form.row_bytes,
        "QUERY_ROOM": form.query_room, "KEY_ROOM": form.key_room, "STAGE_BYTES": form.stage_bytes,
        "ARRIVING": form.key_room + (form.values * ROW_BYTES if form.is_float8 else 0),
        "ARRIVING_BYTES": form.values * form.row_bytes,
        "VALUE_BYTES": form.values * ROW_BYTES, "IS_CAUSAL": int(form.is_causal),
        "KEY_ROW_BYTES": form.row_bytes, "IS_FLOAT8": int(form.is_float8),
        "CAN_PASS": int(form.can_pass), "TAKES_TURNS": int(form.takes_turns),
        "QUERY_BUFFERS": QUERY_BUFFERS, "MASK_BYTES": MASK_BYTES,
        "VALUE_ARRIVALS": CONVERTING_WARPS if form.is_float8 else 1,
        "HAS_MASK": int(mask is not None),
        "IS_OF_KEYS": int(mask is not None and mask.is_of_keys), "FEW": few, "MANY": many,
        "HIDES": int(mask is not None and mask.dtype is DType.BOOL),
        "HAS_PAIRS": int(mask is not None and mask.has_pairs and form.keys % 2 == 0),
    }
    strides = {"MASK_FAR": far, "MASK_MID": mid, "MASK_ROW": row, "MASK_KEY": key}
    lines = [f"constexpr int {name} = {value};" for name, value in constants.items()]
    lines += [f"constexpr i64 {name} = {value};" for name, value in strides.items()]
    half, out = c_type(form.half), c_type(form.result)
    mask_type = "u8" if mask is None or mask.dtype is DType.BOOL else c_type(mask.dtype)
    lines += [
        f"constexpr float SCALE = {form.scale * _LOG2E!r}f, LOG2E = {_LOG2E!r}f;",
        f"typedef {half} Half;", f"typedef {out} Out;", f"typedef {mask_type} Mask;",
        f"T2R_DEVICE float finished(float x) {{ return {form.epilogue}; }}",
    ]
    kernel = _KERNEL.replace("@BLOCKS", str(form.blocks)).replace("@THREADS", str(form.threads))
    kernel = kernel.replace("@CONVERT", CONVERTS if form.is_float8 else "")
    parameter = ",\n    const Mask* mask" if mask is not None else ""
    put = PUT_BYTES if form.result is DType.FLOAT8_E4M3 else _PUT
    return "\n".join([
        PRELUDE, *lines, "#ifndef T2R_EMULATED", SM90_ASYNC, _COPIES, PUT_SHORT, "#endif",
        _products(half, form.scores, form.is_float8), SOFTMAX, WALK, put, _ATTEND,
        CONVERT if form.is_float8 else "", kernel
        .replace("@PARAMETER", parameter)
        .replace("@MASK", "mask" if mask is not None else "(const Mask*)0"),
    ])


def _products(half: str, scores: int, is_float8: bool) -> str:
    """C++ of the two products, each over 16 of its terms, and of what orders them."""
    shape = f"k16.f32.{half}.{half}"

    def registers(count: int, first: int = 0) -> str:
        return ", ".join(f"%{first + i}" for i in range(count))

    def outputs(count: int) -> str:
        return ", ".join(f'"+f"(d[{i}])' for i in range(count))

    s, v = scores // 2, SUMS // 2
    keys = f"""
#ifdef T2R_EMULATED
T2R_DEVICE void multiply_keys(float (&d)[SCORES / 2], u64 a, u64 b, int adds) {{
    t2r_emulated::multiply_rows<Half>(d, a, b, adds);
}}
#else
// d [64, SCORES] (+)= a b^T: 16 features of queries and keys, rows of both in shared memory.
T2R_DEVICE void multiply_keys(float (&d)[SCORES / 2], u64 a, u64 b, int adds) {{
    asm volatile(
        "{{ .reg .pred p; setp.ne.b32 p, %{s + 2}, 0; "
        "wgmma.mma_async.sync.aligned.m64n{scores}{shape} "
        "{{{registers(s)}}}, %{s}, %{s + 1}, p, 1, 1, 0, 0; }}"
        : {outputs(s)} : "l"(a), "l"(b), "r"(adds));
}}
#endif
"""
    return (multiply_bytes(scores) if is_float8 else keys) + f"""
#ifdef T2R_EMULATED
T2R_DEVICE void multiply_values(float (&d)[SUMS / 2], const u32* a, u64 b, int adds) {{
    t2r_emulated::multiply_columns<Half>(d, a, b, adds);
}}
#else
// d [64, SUMS] (+)= a b: shares of 16 keys from registers, rows of values as they lie, and ones.
T2R_DEVICE void multiply_values(float (&d)[SUMS / 2], const u32* a, u64 b, int adds) {{
    asm volatile(
        "{{ .reg .pred p; setp.ne.b32 p, %{v + 5}, 0; "
        "wgmma.mma_async.sync.aligned.m64n{SUMS}{shape} "
        "{{{registers(v)}}}, {{{registers(4, v)}}}, %{v + 4}, p, 1, 1, 1; }}"
        : {outputs(v)}
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds));
}}
#endif
"""


_COPIES = r"""
T2R_DEVICE void load_matrix(
    u32 to, const TensorMap* map, u32 barrier, int row, int mid, int far
) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];"
                 :: "r"(to), "l"(map), "r"(barrier), "r"(0), "r"(row), "r"(mid), "r"(far)
                 : "memory");
}
T2R_DEVICE void store_matrix(const TensorMap* map, u32 from, int row, int mid, int far) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], "
                 "[%1];"
                 :: "l"(map), "r"(from), "r"(0), "r"(row), "r"(mid), "r"(far) : "memory");
}
T2R_DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}
T2R_DEVICE void barriers_are_made() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
T2R_DEVICE void put_word(u32 at, u32 word) {
    asm volatile("st.shared.b32 [%0], %1;" :: "r"(at), "r"(word) : "memory");
}
T2R_DEVICE void take_floats(float (&values)[2], u32 at) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(values[0]), "=f"(values[1]) : "r"(at));
}
// What this thread has written is seen by the copy engine after the next barrier.
T2R_DEVICE void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
template <int COUNT> T2R_DEVICE void hold(float (&d)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i]) :: "memory");
}
template <int COUNT> T2R_DEVICE void registers_down_to() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(COUNT));
}
template <int COUNT> T2R_DEVICE void registers_up_to() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(COUNT));
}
T2R_DEVICE float power_of_two(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}
"""

# Two neighbours of a row of the result, of which a lane has those at 2 * (lane % 4) of each eight.
_PUT = r"""
T2R_DEVICE void put_pair(u32 staging, int row, int eight, int pair, float low, float high) {
    put_word(staging + row * 128 + ((eight ^ (row & 7)) << 4) + pair * 4, pack2<Out>(low, high));
}
"""

_ATTEND = r"""
// What a thread has of two rows of the result, and what their shares are scaled by. Behind the
// features come sums of the shares, which tensor cores make with a matrix of ones.
struct State { float sums[SUMS / 2], highest[2]; };

// Where swizzled rows of queries or keys lie.
T2R_DEVICE u64 describe_keys(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | ((u64)1 << 16) | ((u64)(8 * KEY_ROW_BYTES >> 4) << 32)
         | ((u64)(KEY_ROW_BYTES == 128 ? 1 : 2) << 62);
}
// Begin the scores of a step.
T2R_DEVICE void begin_scores(float (&scores)[SCORES / 2], u32 queries, u32 keys) {
    hold(scores);
    sums_begin();
#pragma unroll
    for (int piece = 0; piece < KEY_ROW_BYTES / 32; piece++)
        multiply_keys(scores, describe_keys(queries) + 2 * piece, describe_keys(keys) + 2 * piece,
                      piece);
    sums_commit();
}

// Rows of values from the 16th, 32nd and so on, with ones further right. All that changes from step
// to step is in the low half: the rows' address, and how far from there the ones lie.
T2R_DEVICE u32 low_of_values(u32 address, u32 ones) {
    return (address & 0x3ffff) >> 4 | ((ones - address) >> 4) << 16;
}
T2R_DEVICE u64 describe_values(u32 low, int step) {
    constexpr u32 MOVE = 16 * ROW_BYTES >> 4;
    const u32 moved = low + step * (MOVE - (MOVE << 16));
    return moved | ((u64)(8 * ROW_BYTES >> 4) << 32) | ((u64)1 << 62);
}
// A warpgroup's own.
struct Worker {
    Ring ring;
    u32 queries, queries_full;
    int group, warp;
    const TensorMap *q_map, *y_map;
    const Mask* mask;
};
// Warps of one part of a multiprocessor share its unit for exponentials. Where they take turns, one
// has it for itself, and the others do meanwhile what needs none; at once, they would all wait for
// it, and then for tensor cores.
T2R_DEVICE int turn_of(int warp, int group) { return 1 + GROUPS + warp * GROUPS + group; }
T2R_DEVICE void wait_for_turn(const Worker& worker) {
    if (TAKES_TURNS) named_sync(turn_of(worker.warp, worker.group), 64);
}
T2R_DEVICE void give_turn(const Worker& worker) {
    const int next = worker.group + 1 < GROUPS ? worker.group + 1 : 0;
    if (TAKES_TURNS) named_arrive(turn_of(worker.warp, next), 64);
}
// Turns of each warpgroup of this block.
T2R_DEVICE int count_turns() {
    const int items = (ITEMS - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    return (items * TILES + GROUPS - 1) / GROUPS * CHUNKS;
}

// Shares of a chunk, and what they take of the values. The sums of the first half run while the
// shares of the second are made. A warp without rows multiplies whatever its registers hold.
T2R_DEVICE void take_values(
    const Worker& worker, State& state, const float (&scores)[SCORES / 2], u32 values,
    const float (&shift)[2], bool adds, bool has_rows
) {
    constexpr int STEPS = VALUES / 16, HALF = (STEPS + 1) / 2;
    u32 shares[4 * STEPS];
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        if (step % HALF) continue;
        const int end = step + HALF < STEPS ? step + HALF : STEPS;
        if (has_rows) {
#pragma unroll
            for (int i = 4 * step; i < 4 * end; i++) {
                if (2 * i >= SCORES / 2) {
                    shares[i] = 0;
                    continue;
                }
                const float low = power_of_two(scores[2 * i] * UNIT - shift[i & 1]);
                const float high = power_of_two(scores[2 * i + 1] * UNIT - shift[i & 1]);
                shares[i] = pack2<Half>(low, high);
            }
        }
        if (end == STEPS) give_turn(worker);
        sums_begin();
#pragma unroll
        for (int done = step; done < end; done++)
            multiply_values(state.sums, shares + 4 * done, describe_values(values, done),
                            done > 0 || adds);
    }
    sums_commit();
}

T2R_DEVICE void load_queries(const Worker& worker, int buffer, const Tile& tile) {
    const u32 full = worker.queries_full + 8 * buffer;
    barrier_expect(full, QUERY_BYTES);
    load_matrix(worker.queries + buffer * QUERY_ROOM, worker.q_map, full, tile.row, tile.mid,
                tile.far);
}

// Where the queries of a tile were, the result goes, and from there to memory, warp by warp. The
// tile before has left meanwhile: queries take its place.
T2R_DEVICE void finish(const Worker& worker, const State& state, const Step& step, bool has_rows) {
    const int warp = worker.warp, lane = threadIdx.x % 32;
    const u32 staging = worker.queries + step.buffer * QUERY_ROOM + warp * (QUERY_ROOM / 4);
    if (lane == 0) stores_have_read();
    named_sync(1 + worker.group, 128);  // and nobody reads queries any more
    if (threadIdx.x % 128 == 0 && step.third.item < ITEMS)
        load_queries(worker, step.buffer > 0 ? step.buffer - 1 : QUERY_BUFFERS - 1, step.third);
    if (!has_rows) return;
#pragma unroll
    for (int part = 0; part < 2; part++) {
        const float total = state.sums[FEATURES / 2 + 2 * part];
        const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
#pragma unroll
        for (int j = 0; j < FEATURES / 8; j++) {
            const int at = 4 * j + 2 * part;
            put_pair(staging, lane / 4 + 8 * part, j, lane % 4, finished(state.sums[at] * inverse),
                     finished(state.sums[at + 1] * inverse));
        }
    }
    publish();
    __syncwarp();
    if (lane == 0) {
        store_matrix(worker.y_map, staging, step.tile.row + 16 * warp, step.tile.mid,
                     step.tile.far);
        stores_commit();
    }
}
T2R_DEVICE void wait_for_scores(const Worker& worker, const Step& step, bool is_first) {
    if (is_first) barrier_wait(worker.queries_full + 8 * step.buffer, step.parity);
    barrier_wait(worker.ring.keys_full + 8 * step.slot.stage, step.slot.parity);
}

// The chunk of a step: whether its scores are the even or the odd ones tells, if there are two.
constexpr bool IS_KNOWN = CHUNKS == 1 || (CHUNKS == 2 && !IS_CAUSAL);
template <int WHICH> T2R_DEVICE int chunk_of(const Step& step) {
    return IS_KNOWN ? CHUNKS * WHICH / 2 : step.chunk;
}

// What shares of two rows are scaled by: their largest scores, or a little less where sums were
// made before. Those are rescaled when scores have grown so far that shares would exceed 2^SLACK.
template <bool IS_FIRST> T2R_DEVICE void find_shift(
    State& state, const float (&scores)[SCORES / 2], float (&shift)[2], bool adds
) {
    constexpr float SLACK = 8.0f;
    float largest[2];
    bool has_grown = false;
#pragma unroll
    for (int part = 0; part < 2; part++) {
        largest[part] = largest_of(scores, part) * UNIT;
        has_grown = has_grown || largest[part] > state.highest[part] + SLACK;
    }
    if (IS_FIRST || __any_sync(0xffffffffu, has_grown)) {
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const float old = state.highest[part], higher = fmaxf(old, largest[part]);
            state.highest[part] = higher;
            if (IS_FIRST || !adds) continue;
            const float shrink = power_of_two(old - (higher == HIDDEN ? 0.0f : higher));
#pragma unroll
            for (int i = 0; i < SUMS / 4; i++)
                state.sums[i / 2 * 4 + i % 2 + 2 * part] *= shrink;
        }
    }
    for (int part = 0; part < 2; part++)
        shift[part] = state.highest[part] == HIDDEN ? 0.0f : state.highest[part];
}

// A step, whose scores are there; meanwhile those of the next one are made.
template <int WHICH> T2R_DEVICE void take_step(
    const Worker& worker, State& state, float (&scores)[SCORES / 2], float (&others)[SCORES / 2],
    Step& now
) {
    const Ring& ring = worker.ring;
    const Step step = now;
    const int warp = worker.warp, lane = threadIdx.x % 32, column = lane % 4 * 2;
    const int row = step.tile.row + warp * 16 + lane / 4, chunk = chunk_of<WHICH>(step);
    const bool ends = chunk + 1 == step.chunks();
    if (ends) {
        now = next_after(step);
    } else {
        now.chunk++;
        now.passed = 0;
        advance(now.slot);
    }
    // Chunks that are passed by lie before the next one: it comes when this one has been let go.
    const bool goes_on = now.tile.item < ITEMS, is_ahead = goes_on && (!CAN_PASS || !now.passed);
    if (is_ahead) wait_for_scores(worker, now, ends);
    begin_scores(others, worker.queries + (is_ahead ? now : step).buffer * QUERY_ROOM,
                 keys_at(ring, is_ahead ? now.slot : step.slot));

    if (chunk == 0) state.highest[0] = state.highest[1] = HIDDEN;
    // Where all warps have rows, this keeps exponentials behind the wait for their turn.
    const bool has_rows = warp >= step.tile.warp && step.tile.row + 16 * warp < ROWS;
    float shift[2] = {0.0f, 0.0f};
    if (has_rows) {
        if (HAS_MASK && IS_OF_KEYS)
            apply_key_mask(scores, ring.masks + step.slot.stage * MASK_BYTES, column);
        else if (HAS_MASK)
            apply_mask(scores, worker.mask + step.tile.mid * MASK_MID + step.tile.far * MASK_FAR,
                       row, chunk * SCORES + column);
        hide(scores, row, step.tile.row, chunk, column);
        find_shift<CHUNKS == 1 || (IS_KNOWN && WHICH == 0)>(state, scores, shift, chunk > 0);
    }
    hold(state.sums);
    barrier_wait(ring.values_full + 8 * step.slot.stage, step.slot.parity);
    const u32 values = keys_at(ring, step.slot) + KEY_ROOM, ones = ring.base + STAGES * STAGE_BYTES;
    wait_for_turn(worker);
    take_values(worker, state, scores, low_of_values(values, ones), shift, chunk > 0, has_rows);
    sums_wait<0>();
    hold(others);
    hold(state.sums);
    if (step.is_last()) let_go(ring, step.slot.stage);
    if (!ends) return;
    finish(worker, state, step, has_rows);
    if (!CAN_PASS) return;
    pass_by(ring, now);
    if (goes_on && !is_ahead) {
        wait_for_scores(worker, now, true);
        begin_scores(others, worker.queries + now.buffer * QUERY_ROOM, keys_at(ring, now.slot));
        sums_wait<0>();
        hold(others);
    }
}

T2R_DEVICE void attend(const Worker& worker) {
    Step step = first_step(worker.group);
    if (threadIdx.x % 128 == 0) {
        if (step.tile.item < ITEMS) load_queries(worker, 0, step.tile);
        if (step.second.item < ITEMS) load_queries(worker, 1, step.second);
    }
    __syncwarp();
    pass_by(worker.ring, step);
    int turns = count_turns();
    if (worker.group == GROUPS - 1) give_turn(worker);
    float even[SCORES / 2], odd[SCORES / 2];
    State state;
    const bool has_tiles = step.tile.item < ITEMS;
    if (has_tiles) wait_for_scores(worker, step, true);
    begin_scores(even, worker.queries, keys_at(worker.ring, step.slot));
    sums_wait<0>();
    hold(even);
    while (has_tiles) {
        take_step<0>(worker, state, even, odd, step);
        turns--;
        if (step.tile.item >= ITEMS) break;
        take_step<1>(worker, state, odd, even, step);
        turns--;
        if (step.tile.item >= ITEMS) break;
    }
#pragma unroll 1
    for (int i = 0; TAKES_TURNS && i < turns; i++) {
        wait_for_turn(worker);
        give_turn(worker);
    }
    if (threadIdx.x % 32 == 0) stores_are_done();
}
"""

_KERNEL = r"""
extern "C" __global__ void __launch_bounds__(@THREADS, @BLOCKS) t2r_attention(
    const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
    const __grid_constant__ TensorMap v_map, const __grid_constant__ TensorMap y_map@PARAMETER
) {
    extern __shared__ u8 raw[];
    const u32 base = (shared_address(raw) + 1023) & ~1023u;
    const u32 ones = base + STAGES * STAGE_BYTES, queries = ones + ONES_BYTES;
    const u32 masks = queries + QUERY_BUFFERS * GROUPS * QUERY_ROOM;
    const u32 full = masks + STAGES * MASK_BYTES, queries_full = full + 32 * STAGES;
    const Ring ring = {base, masks, full, full + 8 * STAGES, full + 16 * STAGES,
                       full + 24 * STAGES};
    const int group = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(ring.keys_full + 8 * i, HAS_MASK && IS_OF_KEYS ? 2 : 1);
            barrier_init(ring.values_full + 8 * i, VALUE_ARRIVALS);
            barrier_init(ring.bytes_full + 8 * i, 1);
            barrier_init(ring.empty + 8 * i, 4 * GROUPS);  // warps
        }
        for (int i = 0; i < QUERY_BUFFERS * GROUPS; i++) barrier_init(queries_full + 8 * i, 1);
        barriers_are_made();
    }
    for (int i = threadIdx.x; i < ONES_BYTES / 4; i += @THREADS)
        put_word(ones + 4 * i, pack2<Half>(1.0f, 1.0f));
    publish();
    __syncthreads();
    t2r_wait();
    if (group == 0) {
        registers_down_to<FEW>();
        if (threadIdx.x < 32) fill(ring, &k_map, &v_map, @MASK);
@CONVERT    } else {
        registers_up_to<MANY>();
        // So the compiler sees that all lanes have the same numbers, and take the same branches.
        const int mine = __shfl_sync(0xffffffffu, group - 1, 0);
        const int warp = __shfl_sync(0xffffffffu, threadIdx.x % 128 / 32, 0);
        attend({ring, queries + mine * (QUERY_BUFFERS * QUERY_ROOM),
                queries_full + mine * (QUERY_BUFFERS * 8), mine, warp, &q_map, &y_map, @MASK});
    }
}
"""
