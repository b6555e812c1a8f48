"""Non-maximum suppression in one launch. Grid: one block per image.

Idea: scores are not sorted but for the best few. A block takes the next pool of about two thousand
candidates by a histogram over the scores' own bits between the least and the largest, sorts it in
shared memory, and walks through it in chunks: a candidate is compared with all boxes that are kept,
the survivors of a chunk with each other in a matrix of bits, and one warp walks over these bits.
It ends as soon as enough is kept, so most candidates are never compared with any.

A candidate's place in the order is 64 bits: its score as a descending number, then its index, so
equal scores keep their order and no two candidates are equal.

Overlaps are computed with every operation rounded by itself, as torchvision's CPU kernel does.
Bytes: scores once or twice per pool, boxes of candidates that are looked at. Limits: candidates of
an image below 2^31. Architectures: any.
"""

from __future__ import annotations

NAME = "t2r_nms"
THREADS = 1024
# Candidates of a pool and of a chunk, and what a kept box takes of the workspace.
POOL, CHUNK = 2048, 256
KEPT_BYTES = 32

_ORDER = f"""
constexpr int THREADS = {THREADS}, POOL = {POOL}, CHUNK = {CHUNK}, WORDS = CHUNK / 32;
constexpr u64 LAST = ~0ull;

struct Kept {{ float4 box; int category; int unused[3]; }};

struct Shared {{
    u64 pool[POOL];
    u32 histogram[POOL];
    float4 boxes[CHUNK];
    int categories[CHUNK];
    u32 beats[CHUNK * WORDS];
    u32 alive[WORDS];
    u32 sums[32];
    u64 limits[64];
    int chosen[CHUNK];
    u64 boundary;
    u32 below;
    int pool_count, kept, bucket;
}};

// The place of a candidate in the order; LAST if its score does not reach the threshold.
T2R_DEVICE u64 t2r_place(float score, float threshold, u32 index) {{
    if (!(score > threshold)) return LAST;
    u32 bits = score == 0.0f ? 0u : __float_as_uint(score);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)~bits << 32 | index;
}}

T2R_DEVICE u64 t2r_shuffle_xor(u64 x, int step) {{
    const u32 low = __shfl_xor_sync(0xffffffffu, (u32)x, step);
    const u32 high = __shfl_xor_sync(0xffffffffu, (u32)(x >> 32), step);
    return (u64)high << 32 | low;
}}

// visit(index, place) for every candidate, by whole blocks of threads: loads do not wait for the
// visits before them.
template <class S, class F> T2R_DEVICE void t2r_each(S scores, int n, float threshold, F visit) {{
    constexpr int AHEAD = 8;
    for (int base = 0; base < n; base += THREADS * AHEAD) {{
        float ahead[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {{
            const int i = base + j * THREADS + threadIdx.x;
            ahead[j] = i < n ? scores[i] : -t2r_infinity();
        }}
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {{
            const int i = base + j * THREADS + threadIdx.x;
            visit(i, t2r_place(ahead[j], threshold, i));
        }}
    }}
}}

// The first and the last place at or behind `start`, and how many there are.
template <class S> T2R_DEVICE u32 t2r_range(
    Shared& s, S scores, int n, float threshold, u64 start, u64& first, u64& last
) {{
    u32 count = 0;
    first = LAST, last = 0;
    t2r_each(scores, n, threshold, [&](int, u64 place) {{
        if (place < start || place == LAST) return;
        count++;
        first = place < first ? place : first;
        last = place > last ? place : last;
    }});
    for (int step = 16; step > 0; step >>= 1) {{
        const u64 low = t2r_shuffle_xor(first, step), high = t2r_shuffle_xor(last, step);
        first = low < first ? low : first;
        last = high > last ? high : last;
        count += __shfl_xor_sync(0xffffffffu, count, step);
    }}
    const int warp = threadIdx.x >> 5;
    if ((threadIdx.x & 31) == 0) {{
        s.sums[warp] = count, s.limits[warp] = first, s.limits[32 + warp] = last;
    }}
    __syncthreads();
    count = 0;
    for (int i = 0; i < THREADS / 32; i++) {{
        count += s.sums[i];
        first = s.limits[i] < first ? s.limits[i] : first;
        last = s.limits[32 + i] > last ? s.limits[32 + i] : last;
    }}
    __syncthreads();
    return count;
}}
"""

_SELECT = """
// The first bucket that does not fit into the pool any more, and how many lie before it.
T2R_DEVICE void t2r_find_bucket(Shared& s, u32 before) {
    constexpr int EACH = POOL / THREADS;
    u32 own = 0;
    for (int i = 0; i < EACH; i++) own += s.histogram[threadIdx.x * EACH + i];
    u32 sum = own;
    for (int step = 1; step < 32; step <<= 1) {
        const u32 other = __shfl_up_sync(0xffffffffu, sum, step);
        if ((threadIdx.x & 31) >= step) sum += other;
    }
    if ((threadIdx.x & 31) == 31) s.sums[threadIdx.x >> 5] = sum;
    __syncthreads();
    sum += before - own;
    for (int i = 0; i < (int)(threadIdx.x >> 5); i++) sum += s.sums[i];
    for (int i = 0; i < EACH; i++) {
        const u32 inside = s.histogram[threadIdx.x * EACH + i];
        if (sum <= POOL && sum + inside > POOL) {
            s.bucket = threadIdx.x * EACH + i;
            s.below = sum;
        }
        sum += inside;
    }
    __syncthreads();
}

// The place up to which those from `first` on fill the pool, by half at least.
template <class S> T2R_DEVICE u64 t2r_boundary(
    Shared& s, S scores, int n, float threshold, u64 first, u64 last
) {
    u64 low = first;
    u32 before = 0;
    int shift = max(0, 53 - __clzll((i64)(last - first)));
    while (true) {
        for (int i = threadIdx.x; i < POOL; i += THREADS) s.histogram[i] = 0;
        __syncthreads();
        t2r_each(scores, n, threshold, [&](int, u64 place) {
            if (place < low || place == LAST) return;
            const u64 bucket = (place - low) >> shift;
            if (bucket < POOL) atomicAdd(&s.histogram[bucket], 1u);
        });
        __syncthreads();
        t2r_find_bucket(s, before);
        low += (u64)s.bucket << shift;
        before = s.below;
        if (before >= POOL / 2 || shift == 0) return low;
        shift = max(0, shift - 11);
        __syncthreads();
    }
}

// Collects places in [start, boundary) and sorts them.
template <class S> T2R_DEVICE void t2r_fill_pool(
    Shared& s, S scores, int n, float threshold, u64 start, u64 boundary
) {
    for (int i = threadIdx.x; i < POOL; i += THREADS) s.pool[i] = LAST;
    if (threadIdx.x == 0) s.pool_count = 0;
    __syncthreads();
    t2r_each(scores, n, threshold, [&](int, u64 place) {
        const bool takes = place >= start && place < boundary;
        const u32 lanes = __ballot_sync(0xffffffffu, takes);
        if (!lanes) return;
        u32 slot = 0;
        const int lane = threadIdx.x & 31;
        if (lane == 0) slot = (u32)atomicAdd(&s.pool_count, __popc(lanes));
        slot = __shfl_sync(0xffffffffu, slot, 0) + __popc(lanes & ((1u << lane) - 1));
        if (takes) s.pool[slot] = place;
    });
    __syncthreads();
    int size = 2;
    while (size < s.pool_count) size *= 2;
    for (int run = 2; run <= size; run *= 2)
        for (int step = run / 2; step > 0; step /= 2) {
            for (int pair = threadIdx.x; pair < size / 2; pair += THREADS) {
                const int i = 2 * pair - (pair & (step - 1)), j = i + step;
                const u64 a = s.pool[i], b = s.pool[j];
                if ((a > b) == ((i & run) == 0)) s.pool[i] = b, s.pool[j] = a;
            }
            __syncthreads();
        }
}
"""

_COMPARE = """
T2R_DEVICE bool t2r_overlap(float4 a, float4 b, float threshold) {
    const float w = __fsub_rn(fminf(a.z, b.z), fmaxf(a.x, b.x));
    const float h = __fsub_rn(fminf(a.w, b.w), fmaxf(a.y, b.y));
    const float both = __fmul_rn(fmaxf(w, 0.0f), fmaxf(h, 0.0f));
    const float first = __fmul_rn(__fsub_rn(a.z, a.x), __fsub_rn(a.w, a.y));
    const float second = __fmul_rn(__fsub_rn(b.z, b.x), __fsub_rn(b.w, b.y));
    return __fdiv_rn(both, __fsub_rn(__fadd_rn(first, second), both)) > threshold;
}

// Which candidates of the chunk no kept box suppresses, as bits.
T2R_DEVICE void t2r_compare_kept(Shared& s, const Kept* kept, int size, float threshold) {
    constexpr int PARTS = THREADS / CHUNK;
    const int candidate = threadIdx.x / PARTS, lane = threadIdx.x & 31;
    bool is_dead = candidate >= size || s.categories[candidate] == -2;
    const float4 box = s.boxes[candidate];
    const int category = s.categories[candidate];
    for (int i = threadIdx.x % PARTS; i < s.kept && !is_dead; i += PARTS)
        is_dead = kept[i].category == category && t2r_overlap(kept[i].box, box, threshold);
    const u32 dead = __ballot_sync(0xffffffffu, is_dead);
    if (lane < 32 / PARTS) {
        const u32 mine = dead >> (lane * PARTS) & ((1u << PARTS) - 1);
        const int index = threadIdx.x / 32 * (32 / PARTS) + lane;
        if (!mine) atomicOr(&s.alive[index / 32], 1u << (index & 31));
    }
}

// Which candidates of the chunk suppress which later ones: bit j of row i.
T2R_DEVICE void t2r_compare_chunk(Shared& s, int size, float threshold) {
    for (int task = threadIdx.x; task < CHUNK * WORDS; task += THREADS) {
        const int i = task % CHUNK, word = task / CHUNK;
        u32 bits = 0;
        u32 later = s.alive[word];
        if (word * 32 <= i) later &= word * 32 + 31 <= i ? 0u : ~0u << (i - word * 32) << 1;
        if (!(s.alive[i / 32] >> (i & 31) & 1)) later = 0;
        const float4 box = s.boxes[i];
        const int category = s.categories[i];
        for (; later; later &= later - 1) {
            const int bit = __ffs(later) - 1, j = word * 32 + bit;
            if (s.categories[j] == category && t2r_overlap(box, s.boxes[j], threshold))
                bits |= 1u << bit;
        }
        s.beats[i * WORDS + word] = bits;
    }
}

// The first warp: the best candidate left is kept, and what it suppresses goes.
T2R_DEVICE int t2r_walk(Shared& s, int room) {
    const int lane = threadIdx.x & 31;
    u32 left = lane < WORDS ? s.alive[lane] : 0;
    int count = 0;
    while (count < room) {
        const u32 words = __ballot_sync(0xffffffffu, left != 0);
        if (!words) break;
        const int word = __ffs(words) - 1;
        const int bit = __ffs(__shfl_sync(0xffffffffu, left, word)) - 1;
        const int i = word * 32 + bit;
        if (lane == 0) s.chosen[count] = i;
        if (lane < WORDS) left &= ~s.beats[i * WORDS + lane];
        if (lane == word) left &= ~(1u << bit);
        count++;
    }
    return count;
}
"""

_SUPPRESS = """
// How many candidates of its category come before this one in the chunk.
T2R_DEVICE int t2r_earlier(Shared& s, int i) {
    int count = 0;
    for (int j = 0; j < i; j++) count += s.categories[j] == s.categories[i];
    return count;
}

// One image. `looked_at`: for each category how many candidates have been looked at.
template <class S, class C> T2R_DEVICE void t2r_suppress(
    const float4* image, S scores, C category, i64* kept_indices, i32* count_of, Kept* kept,
    int* looked_at, int n, int k, int max_output, int top_k, int shifted, float iou_threshold,
    float score_threshold
) {
    __shared__ Shared s;
    if (threadIdx.x == 0) s.kept = 0;
    if (top_k >= 0)
        for (int i = threadIdx.x; i < k; i += THREADS) looked_at[i] = 0;
    u64 start = 0;
    bool is_shifted = false;
    float shift = 0.0f;
    for (bool is_first = true; ; is_first = false) {
        u64 first, last;
        const u32 count = t2r_range(s, scores, n, score_threshold, start, first, last);
        if (count == 0) break;
        if (is_first && (i64)count * 4 <= shifted) {
            // As torchvision does: boxes of each category are shifted apart, then all are compared.
            is_shifted = true;
            shift = -t2r_infinity();
            t2r_each(scores, n, score_threshold, [&](int i, u64 place) {
                if (place == LAST) return;
                const float4 box = image[i / k];
                shift = fmaxf(shift, fmaxf(fmaxf(box.x, box.y), fmaxf(box.z, box.w)));
            });
            shift = __fadd_rn(block_max<THREADS>(shift, (float*)s.sums), 1.0f);
        }
        u64 boundary = last + 1;
        if (count > POOL) boundary = t2r_boundary(s, scores, n, score_threshold, first, last);
        t2r_fill_pool(s, scores, n, score_threshold, start, boundary);
        start = boundary;
        const int pool_count = s.pool_count;
        for (int base = 0; base < pool_count && s.kept < max_output; base += CHUNK) {
            const int size = min(CHUNK, pool_count - base);
            if (threadIdx.x < WORDS) s.alive[threadIdx.x] = 0;
            if (threadIdx.x < CHUNK) s.categories[threadIdx.x] = -1;
            int own = -1;
            if ((int)threadIdx.x < size) {
                const int index = (int)(u32)s.pool[base + threadIdx.x];
                float4 box = image[index / k];
                own = category(index);
                if (is_shifted) {
                    const float offset = __fmul_rn((float)own, shift);
                    box.x = __fadd_rn(box.x, offset), box.y = __fadd_rn(box.y, offset);
                    box.z = __fadd_rn(box.z, offset), box.w = __fadd_rn(box.w, offset);
                }
                s.boxes[threadIdx.x] = box;
                s.categories[threadIdx.x] = is_shifted && top_k < 0 ? 0 : own;
            }
            __syncthreads();
            if (top_k >= 0) {
                bool is_behind = false;
                int rank = 0;
                if ((int)threadIdx.x < size) {
                    rank = looked_at[own] + t2r_earlier(s, threadIdx.x);
                    is_behind = rank >= top_k;
                }
                __syncthreads();
                if ((int)threadIdx.x < size) {
                    atomicMax(&looked_at[own], rank + 1);
                    if (is_behind) s.categories[threadIdx.x] = -2;
                    else if (is_shifted) s.categories[threadIdx.x] = 0;
                }
                __syncthreads();
            }
            t2r_compare_kept(s, kept, size, iou_threshold);
            __syncthreads();
            t2r_compare_chunk(s, size, iou_threshold);
            __syncthreads();
            const int before = s.kept;
            if (threadIdx.x < 32) {
                const int found = t2r_walk(s, max_output - before);
                if (threadIdx.x == 0) s.bucket = found;
            }
            __syncthreads();
            const int found = s.bucket;
            if ((int)threadIdx.x < found) {
                const int i = s.chosen[threadIdx.x];
                kept[before + threadIdx.x].box = s.boxes[i];
                kept[before + threadIdx.x].category = s.categories[i];
                kept_indices[before + threadIdx.x] = (i64)(u32)s.pool[base + i];
            }
            if (threadIdx.x == 0) s.kept = before + found;
            __syncthreads();
        }
        if (s.kept >= max_output || pool_count == (int)count) break;
    }
    __syncthreads();
    for (int i = s.kept + threadIdx.x; i < max_output; i += THREADS) kept_indices[i] = -1;
    if (threadIdx.x == 0) *count_of = s.kept;
}
"""

# What `t2r_suppress` needs.
NMS_PARTS = _ORDER + _SELECT + _COMPARE + _SUPPRESS


def nms_source(has_categories: bool) -> str:
    """The kernel; candidate i is of box i / k and, without ``categories``, of category i % k.

    Arguments: boxes, scores, categories (if any), kept, counts, workspace; candidates of an image,
    k, how many are kept at most, how many of a category take part (-1: all), the largest number of
    coordinates that are shifted apart by category, threshold of overlap, threshold of scores.
    """
    pointer = "const in2_t* categories, " if has_categories else ""
    member = "const in2_t* values;" if has_categories else "int k;"
    category = "(int)values[index]" if has_categories else "k > 1 ? index % k : 0"
    categories = "categories + (i64)blockIdx.x * n" if has_categories else "k"
    return NMS_PARTS + f"""
struct Categories {{
    {member}
    T2R_MEMBER int operator()(int index) const {{ return {category}; }}
}};

extern "C" __global__ void __launch_bounds__(THREADS) {NAME}(
    const float* boxes, const float* scores, {pointer}i64* kept_indices, i32* counts, Kept* kept,
    int n, int k, int max_output, int top_k, int shifted, float iou_threshold,
    float score_threshold
) {{
    const i64 image = blockIdx.x;
    int* const looked_at = (int*)(kept + (i64)gridDim.x * max_output) + image * k;
    t2r_suppress(
        (const float4*)boxes + image * (n / k), scores + image * n, Categories{{{categories}}},
        kept_indices + image * max_output, counts + image, kept + image * max_output, looked_at, n,
        k, max_output, top_k, shifted, iou_threshold, score_threshold
    );
}}
"""
