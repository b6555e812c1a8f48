"""The order of sm90_attention.py: tiles and chunks of a warpgroup, the ring, and who fills it.

An item is what a block takes at a time: TILES tiles of 64 queries of a matrix. Its chunks come into
the ring one after the other, and every warpgroup lets go of each, whether it had a use of it or
not; a warpgroup's tiles are every GROUPS-th of all tiles of its block.
"""

from __future__ import annotations

WALK = r"""
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

struct Ring { u32 base, masks, keys_full, values_full, empty, bytes_full; };
struct Slot { int stage, parity; };
T2R_DEVICE void advance(Slot& slot) {
    if (++slot.stage == STAGES) { slot.stage = 0; slot.parity ^= 1; }
}
T2R_DEVICE u32 keys_at(const Ring& ring, Slot slot) {
    return ring.base + slot.stage * STAGE_BYTES;
}
T2R_DEVICE void let_go(const Ring& ring, int stage) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(ring.empty + 8 * stage);
}

// A step of a warpgroup: a chunk of a tile, the two tiles after which are known. Between the step
// before and this one, ``passed`` chunks from ``passed_from`` on are of no use.
struct Step {
    Tile tile, second, third;
    int count, chunk, buffer, parity, passed;
    Slot first, slot, passed_from;
    // No later tile of this warpgroup has these keys.
    T2R_MEMBER bool is_last() const { return tile.item != second.item; }
    T2R_MEMBER int chunks() const { return chunks_before(tile.row + 64); }
};
T2R_DEVICE Step first_step(int group) {
    Step step;
    step.count = group - GROUPS;
    step.tile = next_tile(step.count);
    step.second = next_tile(step.count);
    step.third = next_tile(step.count);
    step.chunk = step.buffer = step.parity = step.passed = 0;
    step.slot = step.passed_from = {0, 0};
    for (int item = blockIdx.x; item < ITEMS && item < step.tile.item; item += gridDim.x)
        step.passed += chunks_of(item);
    for (int i = 0; i < step.passed; i++) advance(step.slot);
    step.first = step.slot;
    return step;
}
// The step after a tile's last one.
T2R_DEVICE Step next_after(const Step& step) {
    Step next = step;
    next.chunk = next.passed = 0;
    if (++next.buffer == QUERY_BUFFERS) { next.buffer = 0; next.parity ^= 1; }
    next.tile = step.second;
    next.second = step.third;
    next.third = next_tile(next.count);
    if (!step.is_last()) {
        next.slot = step.first;
        return next;
    }
    advance(next.slot);
    if (CAN_PASS) {
        const int item = step.tile.item;
        next.passed_from = next.slot;
        next.passed = chunks_of(item) - step.chunks();
        for (int i = item + gridDim.x; i < ITEMS && i < next.tile.item; i += gridDim.x)
            next.passed += chunks_of(i);
        for (int i = 0; i < next.passed; i++) advance(next.slot);
    }
    next.first = next.slot;
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

// By a warp: what a mask adds to the scores of a chunk.
T2R_DEVICE void spread_mask(const Ring& ring, Slot slot, const Mask* line, int first) {
    const int lane = threadIdx.x % 32;
    const u32 at = ring.masks + slot.stage * MASK_BYTES + lane * 4;
#pragma unroll
    for (int i = 0; i < (SCORES + 31) / 32; i++) {
        const int key = first + lane + 32 * i;
        const float value = key < KEYS ? in_base_2(line[key * MASK_KEY]) : HIDDEN;
        put_word(at + 128 * i, __float_as_uint(value));
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(ring.keys_full + 8 * slot.stage);
}
// A warp: keys and values of all items, chunk by chunk, and masks that all queries share.
T2R_DEVICE void fill(
    const Ring& ring, const TensorMap* k_map, const TensorMap* v_map, const Mask* mask
) {
    const u32 arrived = IS_FLOAT8 ? ring.bytes_full : ring.values_full;
    Slot slot = {0, 1};
    for (int item = blockIdx.x; item < ITEMS; item += gridDim.x) {
        const int matrix = item / SPLITS, mid = matrix % MID, far = matrix / MID;
        const int chunks = chunks_of(item);
        for (int chunk = 0; chunk < chunks; chunk++, advance(slot)) {
            const u32 at = keys_at(ring, slot), keys = ring.keys_full + 8 * slot.stage;
            const u32 values = arrived + 8 * slot.stage;
            barrier_wait(ring.empty + 8 * slot.stage, slot.parity);
            if (threadIdx.x == 0) {
                barrier_expect(keys, KEY_BYTES);
                load_matrix(at, k_map, keys, chunk * SCORES, mid, far);
                barrier_expect(values, ARRIVING_BYTES);
                load_matrix(at + ARRIVING, v_map, values, chunk * SCORES, mid, far);
            }
            if (HAS_MASK && IS_OF_KEYS)
                spread_mask(ring, slot, mask + mid * MASK_MID + far * MASK_FAR, chunk * SCORES);
        }
    }
}
"""
