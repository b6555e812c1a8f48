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
    PUT_BYTES,
    PUT_SHORT,
    multiply_bytes,
)
from torch2rt.kernels.cuda.sm90_attention_form import (
    FEATURES,
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
    few, many = form.registers
    far, mid, row, key = mask.strides if mask is not None else (0, 0, 0, 0)
    constants = {
        "ROWS": form.rows, "KEYS": form.keys, "MID": form.batch[1], "ITEMS": form.items,
        "SPLITS": form.splits, "TILES": form.tiles, "CHUNKS": form.chunks,
        "SCORES": form.scores, "VALUES": form.values, "GROUPS": form.groups,
        "STAGES": form.stages, "FEATURES": FEATURES, "ROW_BYTES": ROW_BYTES,
        "QUERY_BYTES": TILE_ROWS * form.row_bytes, "KEY_BYTES": form.scores * form.row_bytes,
        "QUERY_ROOM": form.query_room, "KEY_ROOM": form.key_room, "STAGE_BYTES": form.stage_bytes,
        "VALUE_BYTES": form.values * ROW_BYTES, "IS_CAUSAL": int(form.is_causal),
        "KEY_ROW_BYTES": form.row_bytes, "IS_FLOAT8": int(form.is_float8),
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
    kernel = kernel.replace("@CONVERT", _CONVERTS if form.is_float8 else "")
    parameter = ",\n    const Mask* mask" if mask is not None else ""
    put = PUT_BYTES if form.result is DType.FLOAT8_E4M3 else _PUT
    return "\n".join([
        PRELUDE, *lines, "#ifndef T2R_EMULATED", SM90_ASYNC, _COPIES, PUT_SHORT, "#endif",
        _products(half, form.scores, form.is_float8), _SOFTMAX, put, _ATTEND,
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

    s, v = scores // 2, FEATURES // 2
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
T2R_DEVICE void multiply_values(float (&d)[FEATURES / 2], const u32* a, u64 b, int adds) {{
    t2r_emulated::multiply_columns<Half>(d, a, b, adds);
}}
#else
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

_SOFTMAX = r"""
#define HIDDEN (-t2r_infinity())
// What scores are multiplied by after the mask: a mask that is added needs them scaled before.
constexpr float UNIT = HAS_MASK && (IS_OF_KEYS || !HIDES) ? 1.0f : SCALE;

T2R_DEVICE bool is_shown(u8 value) { return value != 0; }
template <class T> T2R_DEVICE bool is_shown(T value) { return true; }
// What a value of the mask adds to a score in base 2.
T2R_DEVICE float in_base_2(Mask value) {
    if (HIDES) return is_shown(value) ? 0.0f : HIDDEN;
    const float x = to_float(value), scaled = x * LOG2E;
    // The lowest float hides a key, but not where it hides all.
    return scaled == HIDDEN && x != HIDDEN ? -3.402823466e38f : scaled;
}
T2R_DEVICE float masked(float score, Mask value) {
    if (HIDES) return is_shown(value) ? score : HIDDEN;
    return score * SCALE + in_base_2(value);
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
// The same of a mask that all rows share, as `spread_mask` leaves it; keys beyond the last too.
T2R_DEVICE void apply_key_mask(float (&scores)[SCORES / 2], u32 mask, int column) {
#pragma unroll
    for (int j = 0; j < SCORES / 8; j++) {
        float values[2];
        take_floats(values, mask + (8 * j + column) * 4);
#pragma unroll
        for (int i = 0; i < 4; i++)
            scores[4 * j + i] = scores[4 * j + i] * SCALE + values[i % 2];
    }
}
// Scores that do not count: of keys beyond the last, which lie in the last chunk, and of later keys
// than the query.
T2R_DEVICE void hide(float (&scores)[SCORES / 2], int row, int chunk, int column) {
    constexpr int LAST = KEYS - (CHUNKS - 1) * SCORES;
    if (LAST < SCORES && !IS_OF_KEYS && chunk == CHUNKS - 1) {
#pragma unroll
        for (int i = 0; i < SCORES / 2; i++) {
            const int key = i / 4 * 8 + i % 2;
            if (key + 8 > LAST && key + column >= LAST) scores[i] = HIDDEN;
        }
    }
    const int key = chunk * SCORES;
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

_WALK = r"""
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
// Chunks that queries before ``end`` see.
T2R_DEVICE int chunks_before(int end) {
    return IS_CAUSAL ? min(CHUNKS, ((end < ROWS ? end : ROWS) + SCORES - 1) / SCORES) : CHUNKS;
}
T2R_DEVICE int chunks_of(int item) { return chunks_before((item % SPLITS + 1) * TILES * 64); }

struct Ring { u32 base, masks, keys_full, values_full, empty; };
struct Slot { int stage, parity; };
T2R_DEVICE void advance(Slot& slot) {
    if (++slot.stage == STAGES) { slot.stage = 0; slot.parity ^= 1; }
}
T2R_DEVICE u32 keys_at(const Ring& ring, Slot slot) {
    return ring.base + slot.stage * (KEY_BYTES + VALUE_BYTES);
}
T2R_DEVICE void let_go(const Ring& ring, int stage) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(ring.empty + 8 * stage);
}

// A step of a warpgroup: a chunk of a tile. Between the step before and this one, ``passed`` chunks
// from ``passed_from`` on are of no use.
struct Step {
    Tile tile;
    int count, chunk, chunks, buffer, parity, passed;
    Slot first, slot, passed_from;
    bool is_last;  // no later tile of this warpgroup has these keys
};
T2R_DEVICE void settle(Step& step) {
    int count = step.count;
    step.is_last = next_tile(count).item != step.tile.item;
    step.chunks = chunks_before(step.tile.row + 64);
}
T2R_DEVICE Step first_step(int group) {
    Step step;
    step.count = group - GROUPS;
    step.tile = next_tile(step.count);
    step.chunk = step.buffer = step.parity = step.passed = 0;
    step.slot = step.passed_from = {0, 0};
    for (int item = blockIdx.x; item < ITEMS && item < step.tile.item; item += gridDim.x)
        step.passed += chunks_of(item);
    for (int i = 0; i < step.passed; i++) advance(step.slot);
    step.first = step.slot;
    settle(step);
    return step;
}
T2R_DEVICE Step after(const Step& step) {
    Step next = step;
    next.passed = 0;
    advance(next.slot);
    if (++next.chunk < step.chunks) return next;
    next.tile = next_tile(next.count);
    next.chunk = 0;
    if (++next.buffer == QUERY_BUFFERS) { next.buffer = 0; next.parity ^= 1; }
    if (step.is_last) {
        const int item = step.tile.item;
        next.passed_from = next.slot;
        next.passed = chunks_of(item) - step.chunks;
        for (int i = item + gridDim.x; i < ITEMS && i < next.tile.item; i += gridDim.x)
            next.passed += chunks_of(i);
        for (int i = 0; i < next.passed; i++) advance(next.slot);
        next.first = next.slot;
    } else {
        next.slot = step.first;
    }
    settle(next);
    return next;
}
// Nobody may let go of a chunk before it is there.
T2R_DEVICE void pass_by(const Ring& ring, const Step& step) {
    Slot slot = step.passed_from;
    for (int i = 0; i < step.passed; i++, advance(slot)) {
        barrier_wait(ring.keys_full + 8 * slot.stage, slot.parity);
        barrier_wait(ring.values_full + 8 * slot.stage, slot.parity);
        let_go(ring, slot.stage);
    }
}

// One thread: keys and values of all items, chunk by chunk.
T2R_DEVICE void fill(const Ring& ring, const TensorMap* k_map, const TensorMap* v_map) {
    Slot slot = {0, 1};
    for (int item = blockIdx.x; item < ITEMS; item += gridDim.x) {
        const int matrix = item / SPLITS, mid = matrix % MID, far = matrix / MID;
        const int chunks = chunks_of(item);
        for (int chunk = 0; chunk < chunks; chunk++, advance(slot)) {
            const u32 at = keys_at(ring, slot), keys = ring.keys_full + 8 * slot.stage;
            const u32 values = ring.values_full + 8 * slot.stage;
            barrier_wait(ring.empty + 8 * slot.stage, slot.parity);
            barrier_expect(keys, KEY_BYTES);
            load_matrix(at, k_map, keys, chunk * SCORES, mid, far);
            barrier_expect(values, VALUE_BYTES);
            load_matrix(at + KEY_BYTES, v_map, values, chunk * SCORES, mid, far);
        }
    }
}
// A warp: the masks of the same chunks, where all queries of a matrix share theirs.
T2R_DEVICE void spread_mask(const Ring& ring, const Mask* mask) {
    Slot slot = {0, 1};
    for (int item = blockIdx.x; item < ITEMS; item += gridDim.x) {
        const int matrix = item / SPLITS, mid = matrix % MID, far = matrix / MID;
        const Mask* const line = mask + mid * MASK_MID + far * MASK_FAR;
        const int chunks = chunks_of(item);
        for (int chunk = 0; chunk < chunks; chunk++, advance(slot)) {
            float values[(SCORES + 31) / 32];
#pragma unroll
            for (int i = 0; i < (SCORES + 31) / 32; i++) {
                const int key = chunk * SCORES + threadIdx.x % 32 + 32 * i;
                values[i] = key < KEYS ? in_base_2(line[key * MASK_KEY]) : HIDDEN;
            }
            barrier_wait(ring.empty + 8 * slot.stage, slot.parity);
            const u32 at = ring.masks + slot.stage * MASK_BYTES + threadIdx.x % 32 * 4;
#pragma unroll
            for (int i = 0; i < (SCORES + 31) / 32; i++)
                put_word(at + 128 * i, __float_as_uint(values[i]));
            __syncwarp();
            if (threadIdx.x % 32 == 0) barrier_arrive(ring.keys_full + 8 * slot.stage);
        }
    }
}
"""

_ATTEND = r"""
// What a thread has of two rows of the result, and of their softmax.
struct State { float sums[FEATURES / 2], highest[2], total[2]; };
T2R_DEVICE void start(State& state) {
    for (int part = 0; part < 2; part++) {
        state.highest[part] = HIDDEN;
        state.total[part] = 0.0f;
    }
}

// Begin the scores of a step.
T2R_DEVICE void begin_scores(float (&scores)[SCORES / 2], u32 queries, u32 keys) {
    hold(scores);
    sums_begin();
#pragma unroll
    for (int piece = 0; piece < 4; piece++)
        multiply_keys(scores, describe(queries) + 2 * piece, describe(keys) + 2 * piece, piece);
    sums_commit();
}

// Shares of a chunk, and what they take of the values. The sums of the first half run while the
// shares of the second are made.
T2R_DEVICE void take_values(
    State& state, const float (&scores)[SCORES / 2], u64 values, const float (&shift)[2], bool adds
) {
    constexpr int STEPS = VALUES / 16, HALF = (STEPS + 1) / 2;
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
        sums_begin();
#pragma unroll
        for (int done = begin; done <= step; done++)
            multiply_values(state.sums, shares + 4 * done,
                            values + done * (16 * ROW_BYTES >> 4), done > 0 || adds);
    }
    sums_commit();
}

// Where the queries of a tile were, the result goes, and from there to memory.
T2R_DEVICE void finish(
    const State& state, const TensorMap* map, u32 staging, int name, const Tile& tile
) {
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

// A warpgroup's own.
struct Worker {
    Ring ring;
    u32 queries, queries_full;
    int group;
    const TensorMap *q_map, *y_map;
    const Mask* mask;
};
T2R_DEVICE void load_queries(const Worker& worker, int buffer, const Tile& tile) {
    const u32 full = worker.queries_full + 8 * buffer;
    barrier_expect(full, QUERY_BYTES);
    load_matrix(worker.queries + buffer * QUERY_BYTES, worker.q_map, full, tile.row, tile.mid,
                tile.far);
}
T2R_DEVICE void wait_for_scores(const Worker& worker, const Step& step) {
    if (step.chunk == 0) barrier_wait(worker.queries_full + 8 * step.buffer, step.parity);
    barrier_wait(worker.ring.keys_full + 8 * step.slot.stage, step.slot.parity);
}

// A step, whose scores are there; meanwhile those of the next one are made.
T2R_DEVICE Step take_step(
    const Worker& worker, State& state, float (&scores)[SCORES / 2], float (&others)[SCORES / 2],
    const Step& step
) {
    const Ring& ring = worker.ring;
    const int thread = threadIdx.x % 128, lane = thread % 32, column = lane % 4 * 2;
    const int row = step.tile.row + thread / 32 * 16 + lane / 4;
    const Step next = after(step);
    const bool goes_on = next.tile.item < ITEMS;
    // Chunks that are passed by lie before the next one: it comes when this one has been let go.
    const bool is_ahead = goes_on && next.passed == 0;
    if (is_ahead) wait_for_scores(worker, next);
    begin_scores(others, worker.queries + (is_ahead ? next : step).buffer * QUERY_BYTES,
                 keys_at(ring, is_ahead ? next.slot : step.slot));

    if (step.chunk == 0) start(state);
    if (HAS_MASK && IS_OF_KEYS)
        apply_key_mask(scores, ring.masks + step.slot.stage * MASK_BYTES, column);
    else if (HAS_MASK)
        apply_mask(scores, worker.mask + step.tile.mid * MASK_MID + step.tile.far * MASK_FAR, row,
                   step.chunk * SCORES + column);
    hide(scores, row, step.chunk, column);
    float shift[2], shrink[2];
#pragma unroll
    for (int part = 0; part < 2; part++) {
        const float higher = fmaxf(state.highest[part], largest_of(scores, part));
        shift[part] = higher == HIDDEN ? 0.0f : higher * UNIT;
        shrink[part] = power_of_two(state.highest[part] * UNIT - shift[part]);
        state.highest[part] = higher;
    }
    sums_wait<1>();
    hold(state.sums);
    if (CHUNKS > 1) {
        if (step.chunk > 0 && step.is_last)
            let_go(ring, step.slot.stage > 0 ? step.slot.stage - 1 : STAGES - 1);
        for (int part = 0; part < 2; part++) state.total[part] *= shrink[part];
#pragma unroll
        for (int i = 0; i < FEATURES / 2; i++) state.sums[i] *= shrink[i / 2 % 2];
    }
    barrier_wait(ring.values_full + 8 * step.slot.stage, step.slot.parity);
    take_values(state, scores, describe(keys_at(ring, step.slot) + KEY_BYTES), shift,
                step.chunk > 0);
    if (step.chunk == 0 && thread == 0) {
        int count = step.count;
        next_tile(count);
        const Tile second = next_tile(count);
        if (second.item < ITEMS) {
            stores_have_read();
            load_queries(worker, step.buffer > 0 ? step.buffer - 1 : QUERY_BUFFERS - 1, second);
        }
    }
    if (step.chunk + 1 < step.chunks) {
        sums_wait<1>();
        hold(others);
        return next;
    }
    sums_wait<0>();
    hold(others);
    hold(state.sums);
    if (step.is_last) let_go(ring, step.slot.stage);
    finish(state, worker.y_map, worker.queries + step.buffer * QUERY_BYTES, 1 + worker.group,
           step.tile);
    pass_by(ring, next);
    if (goes_on && !is_ahead) {
        wait_for_scores(worker, next);
        begin_scores(others, worker.queries + next.buffer * QUERY_BYTES, keys_at(ring, next.slot));
        sums_wait<0>();
        hold(others);
    }
    return next;
}

T2R_DEVICE void attend(const Worker& worker) {
    Step step = first_step(worker.group);
    if (threadIdx.x % 128 == 0) {
        int count = step.count;
        const Tile second = next_tile(count);
        if (step.tile.item < ITEMS) load_queries(worker, 0, step.tile);
        if (second.item < ITEMS) load_queries(worker, 1, second);
    }
    __syncwarp();
    pass_by(worker.ring, step);
    if (step.tile.item >= ITEMS) return;
    float even[SCORES / 2], odd[SCORES / 2];
    State state;
    wait_for_scores(worker, step);
    begin_scores(even, worker.queries, keys_at(worker.ring, step.slot));
    sums_wait<0>();
    hold(even);
    while (true) {
        step = take_step(worker, state, even, odd, step);
        if (step.tile.item >= ITEMS) break;
        step = take_step(worker, state, odd, even, step);
        if (step.tile.item >= ITEMS) break;
    }
    if (threadIdx.x % 128 == 0) stores_are_done();
}
"""

_KERNEL = r"""
extern "C" __global__ void __launch_bounds__(@THREADS, @BLOCKS) t2r_attention(
    const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
    const __grid_constant__ TensorMap v_map, const __grid_constant__ TensorMap y_map@PARAMETER
) {
    extern __shared__ u8 raw[];
    const u32 base = (shared_address(raw) + 1023) & ~1023u;
    const u32 queries = base + STAGES * (KEY_BYTES + VALUE_BYTES);
    const u32 masks = queries + QUERY_BUFFERS * GROUPS * QUERY_BYTES;
    const u32 full = masks + STAGES * MASK_BYTES, queries_full = full + 24 * STAGES;
    const Ring ring = {base, masks, full, full + 8 * STAGES, full + 16 * STAGES};
    const int group = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(ring.keys_full + 8 * i, HAS_MASK && IS_OF_KEYS ? 2 : 1);
            barrier_init(ring.values_full + 8 * i, 1);
            barrier_init(ring.empty + 8 * i, 4 * GROUPS);  // warps
        }
        for (int i = 0; i < QUERY_BUFFERS * GROUPS; i++) barrier_init(queries_full + 8 * i, 1);
        barriers_are_made();
    }
    __syncthreads();
    t2r_wait();
    if (group == 0) {
        registers_down_to<FEW>();
        if (threadIdx.x == 0) fill(ring, &k_map, &v_map);
        if (HAS_MASK && IS_OF_KEYS && threadIdx.x / 32 == 1) spread_mask(ring, @MASK);
    } else {
        registers_up_to<MANY>();
        const int mine = group - 1;
        attend({ring, queries + mine * (QUERY_BUFFERS * QUERY_BYTES),
                queries_full + mine * (QUERY_BUFFERS * 8), mine, &q_map, &y_map, @MASK});
    }
}
"""
