"""Scores of sm90_attention.py on their way to shares: masks, hidden keys, maxima of rows.

A thread has of two rows, eight apart, two scores of each eight keys: scores[4 j + 2 part + i] is of
row ``part`` and key 8 j + i, counted from the thread's first.
"""

from __future__ import annotations

SOFTMAX = r"""
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
