"""What a warpgroup of sm90_attention.py does: step by step scores, shares, sums; then the result.

While the shares of a step are made, tensor cores make the scores of the next one.
"""

from __future__ import annotations

STEPS = r"""
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
