"""What a warpgroup of sm90_attention.py does: step by step scores, shares, sums; then the result.

While one or two warpgroups make the shares of a step, tensor cores make their scores of the next
one. Three have no registers for two sets of scores: one's products run under another's shares.
"""

from __future__ import annotations

STEPS = r"""
// What a thread has of two rows of the result, and of their softmax.
struct State { float sums[FEATURES / 2], highest[2], total[2]; };
T2R_DEVICE void start(State& state) {
    for (int part = 0; part < 2; part++) {
        state.highest[part] = HIDDEN;
        state.total[part] = 0.0f;
    }
}

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
            put_pair(staging, row + 8 * part, j, lane % 4, finished(state.sums[at] * inverse),
                     finished(state.sums[at + 1] * inverse));
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
    load_matrix(worker.queries + buffer * QUERY_ROOM, worker.q_map, full, tile.row, tile.mid,
                tile.far);
}
T2R_DEVICE void wait_for_scores(const Worker& worker, const Step& step, bool is_first) {
    if (is_first) barrier_wait(worker.queries_full + 8 * step.buffer, step.parity);
    barrier_wait(worker.ring.keys_full + 8 * step.slot.stage, step.slot.parity);
}
T2R_DEVICE void make_scores(
    const Worker& worker, float (&scores)[SCORES / 2], const Step& step, bool is_first
) {
    wait_for_scores(worker, step, is_first);
    begin_scores(scores, worker.queries + step.buffer * QUERY_ROOM,
                 keys_at(worker.ring, step.slot));
    sums_wait<0>();
    hold(scores);
}

// The chunk of a step: whether its scores are the even or the odd ones tells, if there are two.
constexpr bool IS_KNOWN = CHUNKS == 1 || (CHUNKS == 2 && !IS_CAUSAL);
template <int WHICH> T2R_DEVICE int chunk_of(const Step& step) {
    return IS_KNOWN ? CHUNKS * WHICH / 2 : step.chunk;
}

// A step. With LOOKS_AHEAD its scores are there, and meanwhile those of the next one are made.
template <int WHICH> T2R_DEVICE void take_step(
    const Worker& worker, State& state, float (&scores)[SCORES / 2], float (&others)[SCORES / 2],
    Step& now
) {
    const Ring& ring = worker.ring;
    const Step step = now;
    const int thread = threadIdx.x % 128, lane = thread % 32, column = lane % 4 * 2;
    const int row = step.tile.row + thread / 32 * 16 + lane / 4, chunk = chunk_of<WHICH>(step);
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
    if (LOOKS_AHEAD) {
        if (is_ahead) wait_for_scores(worker, now, ends);
        begin_scores(others, worker.queries + (is_ahead ? now : step).buffer * QUERY_ROOM,
                     keys_at(ring, is_ahead ? now.slot : step.slot));
    } else {
        make_scores(worker, scores, step, chunk == 0);
    }

    if (chunk == 0) start(state);
    if (HAS_MASK && IS_OF_KEYS)
        apply_key_mask(scores, ring.masks + step.slot.stage * MASK_BYTES, column);
    else if (HAS_MASK)
        apply_mask(scores, worker.mask + step.tile.mid * MASK_MID + step.tile.far * MASK_FAR, row,
                   chunk * SCORES + column);
    hide(scores, row, chunk, column);
    float shift[2];
#pragma unroll
    for (int part = 0; part < 2; part++) {
        const float higher = fmaxf(state.highest[part], largest_of(scores, part));
        shift[part] = higher == HIDDEN ? 0.0f : higher * UNIT;
        if (CHUNKS > 1 && !(IS_KNOWN && chunk == 0)) {
            const float shrink = power_of_two(state.highest[part] * UNIT - shift[part]);
            state.total[part] *= shrink;
#pragma unroll
            for (int i = 0; i < FEATURES / 4; i++)
                state.sums[i / 2 * 4 + i % 2 + 2 * part] *= shrink;
        }
        state.highest[part] = higher;
    }
    hold(state.sums);
    barrier_wait(ring.values_full + 8 * step.slot.stage, step.slot.parity);
    take_values(state, scores, describe(keys_at(ring, step.slot) + KEY_ROOM), shift, chunk > 0);
    if (chunk == 0 && thread == 0 && step.third.item < ITEMS) {
        stores_have_read();
        load_queries(worker, step.buffer > 0 ? step.buffer - 1 : QUERY_BUFFERS - 1, step.third);
    }
    sums_wait<0>();
    if (LOOKS_AHEAD) hold(others);
    hold(state.sums);
    if (step.is_last()) let_go(ring, step.slot.stage);
    if (!ends) return;
    finish(state, worker.y_map, worker.queries + step.buffer * QUERY_ROOM, 1 + worker.group,
           step.tile);
    if (!CAN_PASS) return;
    pass_by(ring, now);
    if (LOOKS_AHEAD && goes_on && !is_ahead) make_scores(worker, others, now, true);
}

T2R_DEVICE void attend(const Worker& worker) {
    Step step = first_step(worker.group);
    if (threadIdx.x % 128 == 0) {
        if (step.tile.item < ITEMS) load_queries(worker, 0, step.tile);
        if (step.second.item < ITEMS) load_queries(worker, 1, step.second);
    }
    __syncwarp();
    pass_by(worker.ring, step);
    if (step.tile.item >= ITEMS) return;
    float even[SCORES / 2], odd[SCORES / 2];
    State state;
    if (LOOKS_AHEAD) make_scores(worker, even, step, true);
    while (true) {
        take_step<0>(worker, state, even, odd, step);
        if (step.tile.item >= ITEMS) break;
        take_step<1>(worker, state, LOOKS_AHEAD ? odd : even, even, step);
        if (step.tile.item >= ITEMS) break;
    }
    if (threadIdx.x % 128 == 0) stores_are_done();
}
"""
