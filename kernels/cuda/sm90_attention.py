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
from torch2rt.kernels.cuda.sm90_attention_form import (
    FEATURES,
    REGISTERS,
    ROW_BYTES,
    TILE_ROWS,
    AttentionForm,
)
from torch2rt.network.dtype import DType

NAME = "t2r_attention"
_LOG2E = math.log2(math.e)


def attention_source(form: AttentionForm) -> str:
    """CUDA C++ of ``t2r_attention``; parameters: tensor maps of q, k, v and y, then the mask."""
    mask = form.mask
    few, many = REGISTERS[form.groups]
    far, mid, row, key = mask.strides if mask is not None else (0, 0, 0, 0)
    constants = {
        "ROWS": form.rows, "KEYS": form.keys, "MID": form.batch[1], "ITEMS": form.items,
        "SPLITS": form.splits, "TILES": form.tiles, "CHUNKS": form.chunks,
        "CHUNK": form.values, "SCORES": form.scores, "GROUPS": form.groups,
        "STAGES": form.stages, "FEATURES": FEATURES, "ROW_BYTES": ROW_BYTES,
        "QUERY_BYTES": TILE_ROWS * ROW_BYTES, "KEY_BYTES": form.scores * ROW_BYTES,
        "VALUE_BYTES": form.values * ROW_BYTES, "IS_CAUSAL": int(form.is_causal),
        "HAS_MASK": int(mask is not None), "FEW": few, "MANY": many,
        "HIDES": int(mask is not None and mask.dtype is DType.BOOL),
        "HAS_PAIRS": int(mask is not None and mask.has_pairs and form.keys % 2 == 0),
    }
    strides = {"MASK_FAR": far, "MASK_MID": mid, "MASK_ROW": row, "MASK_KEY": key}
    lines = [f"constexpr int {name} = {value};" for name, value in constants.items()]
    lines += [f"constexpr i64 {name} = {value};" for name, value in strides.items()]
    half = c_type(form.dtype)
    mask_type = "u8" if mask is None or mask.dtype is DType.BOOL else c_type(mask.dtype)
    lines += [
        f"constexpr float SCALE = {form.scale * _LOG2E!r}f, LOG2E = {_LOG2E!r}f;",
        f"typedef {half} Half;", f"typedef {mask_type} Mask;",
    ]
    kernel = _KERNEL.replace("@BLOCKS", str(form.blocks)).replace("@THREADS", str(form.threads))
    parameter = ",\n    const Mask* mask" if mask is not None else ""
    return "\n".join([
        PRELUDE, *lines, "#ifndef T2R_EMULATED", SM90_ASYNC, _COPIES, "#endif",
        _products(half, form.scores), _SOFTMAX, _ATTEND, kernel
        .replace("@PARAMETER", parameter)
        .replace("@MASK", "mask" if mask is not None else "(const Mask*)0"),
    ])


def _products(half: str, scores: int) -> str:
    """C++ of the two products, each over 16 of its terms, and of what orders them."""
    shape = f"k16.f32.{half}.{half}"

    def registers(count: int, first: int = 0) -> str:
        return ", ".join(f"%{first + i}" for i in range(count))

    def outputs(count: int) -> str:
        return ", ".join(f'"+f"(d[{i}])' for i in range(count))

    s, v = scores // 2, FEATURES // 2
    return f"""
#ifdef T2R_EMULATED
T2R_DEVICE void multiply_keys(float (&d)[SCORES / 2], u64 a, u64 b, int adds) {{
    t2r_emulated::multiply_rows<Half>(d, a, b, adds);
}}
T2R_DEVICE void multiply_values(float (&d)[FEATURES / 2], const u32* a, u64 b, int adds) {{
    t2r_emulated::multiply_columns<Half>(d, a, b, adds);
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
// d [64, FEATURES] (+)= a b: shares of 16 keys from registers, rows of values as they lie.
T2R_DEVICE void multiply_values(float (&d)[FEATURES / 2], const u32* a, u64 b, int adds) {{
    asm volatile(
        "{{ .reg .pred p; setp.ne.b32 p, %{v + 5}, 0; "
        "wgmma.mma_async.sync.aligned.m64n{FEATURES}{shape} "
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

_SOFTMAX = r"""
#define HIDDEN (-t2r_infinity())
// What scores are multiplied by after the mask: a mask that is added needs them scaled before.
constexpr float UNIT = HAS_MASK && !HIDES ? 1.0f : SCALE;

T2R_DEVICE float mask_in_base_2(Mask value) {
    const float x = to_float(value), scaled = x * LOG2E;
    // The lowest float hides a key, but not where it hides all.
    return sizeof(Mask) > 1 && scaled == HIDDEN && x != HIDDEN ? -3.402823466e38f : scaled;
}
T2R_DEVICE float masked(float score, Mask value) {
    if (HIDES) return to_float(value) != 0.0f ? score : HIDDEN;
    return score * SCALE + mask_in_base_2(value);
}
// Scores of a thread: rows ``row`` and 8 further, of each eight keys from ``key`` on two.
T2R_DEVICE void apply_mask(float (&scores)[SCORES / 2], const Mask* mask, int row, int key) {
#pragma unroll
    for (int part = 0; part < 2; part++) {
        const int at = row + 8 * part;
        const Mask* const line = mask + (i64)(at < ROWS ? at : 0) * MASK_ROW;
#pragma unroll
        for (int j = 0; j < SCORES / 8; j++) {
            const int column = key + 8 * j;
            float* const pair = scores + 4 * j + 2 * part;
            Mask values[2];
            if (HAS_PAIRS) {
                const auto loaded = load_if<Mask, 2>(column < KEYS, line + column);
                memcpy(values, loaded.raw, sizeof(values));
            } else {
                for (int i = 0; i < 2; i++)
                    values[i] = column + i < KEYS ? line[(column + i) * MASK_KEY] : Mask();
            }
            pair[0] = masked(pair[0], values[0]);
            pair[1] = masked(pair[1], values[1]);
        }
    }
}
// Scores that do not count: of keys beyond the last, which lie in the last chunk, and of later keys
// than the query.
T2R_DEVICE void hide(float (&scores)[SCORES / 2], int row, int chunk, int column) {
    constexpr int LAST = KEYS - (CHUNKS - 1) * CHUNK;
    if (LAST < SCORES && chunk == CHUNKS - 1) {
#pragma unroll
        for (int i = 0; i < SCORES / 2; i++) {
            const int key = i / 4 * 8 + i % 2;
            if (key + 8 > LAST && key + column >= LAST) scores[i] = HIDDEN;
        }
    }
    const int key = chunk * CHUNK;
    if (IS_CAUSAL && key + SCORES > row - row % 64) {
        const int end = row + 1 - key - column;
#pragma unroll
        for (int i = 0; i < SCORES / 2; i++)
            if (i / 4 * 8 + i % 2 >= end + i / 2 % 2 * 8) scores[i] = HIDDEN;
    }
}
T2R_DEVICE float over_row(float x, bool is_sum) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, x, step);
        x = is_sum ? x + other : fmaxf(x, other);
    }
    return x;
}
T2R_DEVICE float largest_of(const float (&scores)[SCORES / 2], int part) {
    float found[2] = {HIDDEN, HIDDEN};  // two at a time: each waits for the one before
#pragma unroll
    for (int j = 0; j < SCORES / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) found[i] = fmaxf(found[i], scores[4 * j + 2 * part + i]);
    return over_row(fmaxf(found[0], found[1]), false);
}
"""

_ATTEND = r"""
// Tiles of a block, counted through all its items.
struct Tile { int item, row, mid, far; };
T2R_DEVICE Tile tile_of(int count) {
    const int item = blockIdx.x + count / TILES * gridDim.x, matrix = item / SPLITS;
    return {item, (item % SPLITS * TILES + count % TILES) * 64, matrix % MID, matrix / MID};
}
// This warpgroup's next tile that has rows.
T2R_DEVICE Tile next_tile(int& count) {
    Tile tile;
    do {
        count += GROUPS;
        tile = tile_of(count);
    } while (tile.row >= ROWS && tile.item < ITEMS);
    return tile;
}
T2R_DEVICE int chunks_of(int item) {
    if (!IS_CAUSAL) return CHUNKS;
    const int end = item % SPLITS * TILES * 64 + TILES * 64;
    return min(CHUNKS, ((end < ROWS ? end : ROWS) + CHUNK - 1) / CHUNK);
}

struct Ring { u32 base, keys_full, values_full, empty; };
struct Slot { int stage, parity; };
T2R_DEVICE void advance(Slot& slot) {
    if (++slot.stage == STAGES) { slot.stage = 0; slot.parity ^= 1; }
}
T2R_DEVICE void let_go(const Ring& ring, Slot slot) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(ring.empty + 8 * slot.stage);
}
// For who needs nothing of a chunk: it may not let go of it before it is there.
T2R_DEVICE void pass_by(const Ring& ring, Slot slot) {
    barrier_wait(ring.keys_full + 8 * slot.stage, slot.parity);
    barrier_wait(ring.values_full + 8 * slot.stage, slot.parity);
    let_go(ring, slot);
}

// One thread: keys and values of all items, chunk by chunk.
T2R_DEVICE void fill(const Ring& ring, const TensorMap* k_map, const TensorMap* v_map) {
    Slot slot = {0, 1};
    for (int item = blockIdx.x; item < ITEMS; item += gridDim.x) {
        const int matrix = item / SPLITS, mid = matrix % MID, far = matrix / MID;
        const int chunks = chunks_of(item);
        for (int chunk = 0; chunk < chunks; chunk++, advance(slot)) {
            const u32 at = ring.base + slot.stage * (KEY_BYTES + VALUE_BYTES);
            const u32 keys = ring.keys_full + 8 * slot.stage;
            const u32 values = ring.values_full + 8 * slot.stage;
            barrier_wait(ring.empty + 8 * slot.stage, slot.parity);
            barrier_expect(keys, KEY_BYTES);
            load_matrix(at, k_map, keys, chunk * CHUNK, mid, far);
            barrier_expect(values, VALUE_BYTES);
            load_matrix(at + KEY_BYTES, v_map, values, chunk * CHUNK, mid, far);
        }
    }
}

// What a thread has of two rows of the result, and of their softmax.
struct State { float sums[FEATURES / 2], highest[2], total[2]; };

// Shares of a chunk, and what they take of the values. The sums of the first half run while the
// shares of the second are made; earlier there would not be registers for both.
T2R_DEVICE void take_values(
    State& state, float (&scores)[SCORES / 2], u64 values, const float (&shift)[2], bool adds
) {
    constexpr int STEPS = CHUNK / 16, HALF = (STEPS + 1) / 2;
    u32 shares[4 * STEPS];
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
#pragma unroll
        for (int word = 0; word < 4; word++) {
            const int at = 8 * step + 2 * word, part = word & 1;
            if (at >= SCORES / 2) {
                shares[4 * step + word] = 0;
                continue;
            }
            const float low = power_of_two(scores[at] * UNIT - shift[part]);
            const float high = power_of_two(scores[at + 1] * UNIT - shift[part]);
            state.total[part] += low + high;
            shares[4 * step + word] = pack2<Half>(low, high);
        }
        if (step + 1 != HALF && step + 1 != STEPS) continue;
        const int begin = step < HALF ? 0 : HALF;
        if (begin == 0) hold(state.sums);
        sums_begin();
#pragma unroll
        for (int done = begin; done <= step; done++)
            multiply_values(state.sums, shares + 4 * done,
                            values + done * (16 * ROW_BYTES >> 4), done > 0 || adds);
        sums_commit();
    }
    sums_wait<0>();
    hold(state.sums);
}

// Add a chunk, whose scores are there, to the rows.
T2R_DEVICE void take_chunk(
    State& state, float (&scores)[SCORES / 2], const Mask* mask, int row, int column, int chunk,
    u32 values
) {
    if (HAS_MASK) apply_mask(scores, mask, row, chunk * CHUNK + column);
    hide(scores, row, chunk, column);
    float shift[2];
#pragma unroll
    for (int part = 0; part < 2; part++) {
        const float higher = fmaxf(state.highest[part], largest_of(scores, part));
        shift[part] = higher == HIDDEN ? 0.0f : higher * UNIT;
        if (CHUNKS > 1) {
            const float shrink = power_of_two(state.highest[part] * UNIT - shift[part]);
            state.total[part] *= shrink;
#pragma unroll
            for (int j = 0; j < FEATURES / 8; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) state.sums[4 * j + 2 * part + i] *= shrink;
        }
        state.highest[part] = higher;
    }
    take_values(state, scores, describe(values), shift, CHUNKS > 1);
}

// Where the queries of a tile were, the result goes, and from there to memory.
T2R_DEVICE void finish(const State& state, const TensorMap* map, u32 staging, int name, Tile tile) {
    const int thread = threadIdx.x % 128, lane = thread % 32;
    const int row = thread / 32 * 16 + lane / 4;
    named_sync(name, 128);  // nobody reads queries any more
#pragma unroll
    for (int part = 0; part < 2; part++) {
        const float total = over_row(state.total[part], true);
        const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
#pragma unroll
        for (int j = 0; j < FEATURES / 8; j++) {
            const int at = 4 * j + 2 * part;
            put_word(staging + (row + 8 * part) * ROW_BYTES + ((j ^ (row & 7)) << 4) + lane % 4 * 4,
                     pack2<Half>(state.sums[at] * inverse, state.sums[at + 1] * inverse));
        }
    }
    publish();
    named_sync(name, 128);
    if (thread == 0) {
        store_matrix(map, staging, tile.row, tile.mid, tile.far);
        stores_commit();
    }
}
"""

_KERNEL = r"""
extern "C" __global__ void __launch_bounds__(@THREADS, @BLOCKS) t2r_attention(
    const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
    const __grid_constant__ TensorMap v_map, const __grid_constant__ TensorMap y_map@PARAMETER
) {
    extern __shared__ u8 raw[];
    const u32 base = (shared_address(raw) + 1023) & ~1023u;
    const u32 all_queries = base + STAGES * (KEY_BYTES + VALUE_BYTES);
    const u32 keys_full = all_queries + 2 * GROUPS * QUERY_BYTES;
    const Ring ring = {base, keys_full, keys_full + 8 * STAGES, keys_full + 16 * STAGES};
    const u32 all_queries_full = keys_full + 24 * STAGES;
    const int group = threadIdx.x / 128, thread = threadIdx.x % 128;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(ring.keys_full + 8 * i, 1);
            barrier_init(ring.values_full + 8 * i, 1);
            barrier_init(ring.empty + 8 * i, 4 * GROUPS);  // warps
        }
        for (int i = 0; i < 2 * GROUPS; i++) barrier_init(all_queries_full + 8 * i, 1);
        barriers_are_made();
    }
    __syncthreads();
    t2r_wait();
    if (group == 0) {
        registers_down_to<FEW>();
        if (thread == 0) fill(ring, &k_map, &v_map);
        return;
    }
    registers_up_to<MANY>();
    const int mine = group - 1, lane = thread % 32;
    const u32 queries = all_queries + 2 * mine * QUERY_BYTES;
    const u32 queries_full = all_queries_full + 16 * mine;
    const int own_row = thread / 32 * 16 + lane / 4, column = lane % 4 * 2;
    int count = mine - GROUPS, buffer = 0, queries_parity = 0;
    Tile tile = next_tile(count);
    if (thread == 0 && tile.item < ITEMS) {
        barrier_expect(queries_full, QUERY_BYTES);
        load_matrix(queries, &q_map, queries_full, tile.row, tile.mid, tile.far);
    }
    Slot first = {0, 0};  // of the item's chunks
    for (int item = blockIdx.x; item < ITEMS; item += gridDim.x) {
        const int chunks = chunks_of(item);
        Slot slot = first;
        if (tile.item != item)
            for (int chunk = 0; chunk < chunks; chunk++, advance(slot)) pass_by(ring, slot);
        while (tile.item == item) {
            const Tile next = next_tile(count);
            const bool is_last = next.item != item;
            const u32 own = queries + buffer * QUERY_BYTES;
            const Mask* const own_mask = @MASK + tile.mid * MASK_MID + tile.far * MASK_FAR;
            State state;
#pragma unroll
            for (int i = 0; i < FEATURES / 2; i++) state.sums[i] = 0.0f;
            for (int part = 0; part < 2; part++) {
                state.highest[part] = HIDDEN;
                state.total[part] = 0.0f;
            }
            barrier_wait(queries_full + 8 * buffer, queries_parity);
            slot = first;
            for (int chunk = 0; chunk < chunks; chunk++, advance(slot)) {
                if (IS_CAUSAL && chunk * CHUNK > tile.row + 63) {
                    if (is_last) pass_by(ring, slot);
                    continue;
                }
                const u32 keys = ring.base + slot.stage * (KEY_BYTES + VALUE_BYTES);
                barrier_wait(ring.keys_full + 8 * slot.stage, slot.parity);
                float scores[SCORES / 2];
                hold(scores);
                sums_begin();
#pragma unroll
                for (int piece = 0; piece < 4; piece++)
                    multiply_keys(scores, describe(own) + 2 * piece, describe(keys) + 2 * piece,
                                  piece);
                sums_commit();
                if (chunk == 0 && thread == 0 && next.item < ITEMS) {
                    stores_have_read();
                    barrier_expect(queries_full + 8 * (buffer ^ 1), QUERY_BYTES);
                    load_matrix(queries + (buffer ^ 1) * QUERY_BYTES, &q_map,
                                queries_full + 8 * (buffer ^ 1), next.row, next.mid, next.far);
                }
                sums_wait<0>();
                hold(scores);
                barrier_wait(ring.values_full + 8 * slot.stage, slot.parity);
                take_chunk(state, scores, own_mask, tile.row + own_row, column, chunk,
                           keys + KEY_BYTES);
                if (is_last) let_go(ring, slot);
            }
            finish(state, &y_map, own, 1 + mine, tile);
            queries_parity ^= buffer;
            buffer ^= 1;
            tile = next;
        }
        for (int chunk = 0; chunk < chunks; chunk++) advance(first);
    }
    if (thread == 0) stores_are_done();
}
"""
