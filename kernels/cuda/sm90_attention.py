"""y = softmax(scale * q k^T + mask) v on Hopper's tensor cores, for short sequences.

q, k, v and y are [far, mid, rows, 64 features] of 16 bits (or float8, see sm90_attention_float8.py)
with any strides that are multiples of 16 bytes. A tile is 64 queries of a matrix; a warpgroup
computes its scores against a chunk of up to 128 keys at once, and rescales what there is of a row
when a later chunk has larger ones. Shares are rounded to 16 bits in the registers that the second
product reads them from; its first half runs while the shares of the second are made. A row whose
keys are all hidden gives zeros.

A block has one warp that copies and GROUPS warpgroups that multiply. A ring of stages holds chunks
of keys and values, and of masks that all queries share; a block takes TILES tiles of a matrix, in
turn by its warpgroups, before it lets go of its chunks, and meanwhile fetches those of the next
matrix. Each warpgroup fetches its next queries itself, and stores its result from where its queries
were. Keys beyond the last are zeros that the copy engine fills in, and hidden.

Grid: persistent. Bytes moved: q and y once; k and v once per part of TILES tiles.
Times, predicted and measured: docs/gpu-kernels.md.
Limits: 64 features. Architectures: sm_90a alone. Source: PTX ISA, wgmma, mbarrier,
cp.async.bulk.tensor; FlashAttention-3 (Shah et al. 2024) for scores that are made ahead.
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
    QUERY_BUFFERS,
    ROW_BYTES,
    TILE_ROWS,
    AttentionForm,
)
from torch2rt.kernels.cuda.sm90_attention_softmax import SOFTMAX
from torch2rt.kernels.cuda.sm90_attention_steps import STEPS
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
        "STAGES": form.stages, "FEATURES": FEATURES, "ROW_BYTES": ROW_BYTES,
        "QUERY_BYTES": TILE_ROWS * form.row_bytes, "KEY_BYTES": form.scores * form.row_bytes,
        "QUERY_ROOM": form.query_room, "KEY_ROOM": form.key_room, "STAGE_BYTES": form.stage_bytes,
        "ARRIVING": form.key_room + (form.values * ROW_BYTES if form.is_float8 else 0),
        "ARRIVING_BYTES": form.values * form.row_bytes,
        "VALUE_BYTES": form.values * ROW_BYTES, "IS_CAUSAL": int(form.is_causal),
        "KEY_ROW_BYTES": form.row_bytes, "IS_FLOAT8": int(form.is_float8),
        "CAN_PASS": int(form.can_pass), "LOOKS_AHEAD": int(form.looks_ahead),
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
        _products(half, form.scores, form.is_float8), SOFTMAX, WALK, put, STEPS,
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

# Two neighbours of a row of the result, of which a lane has those at 2 * (lane % 4) of each eight.
_PUT = r"""
T2R_DEVICE void put_pair(u32 staging, int row, int eight, int pair, float low, float high) {
    put_word(staging + row * 128 + ((eight ^ (row & 7)) << 4) + pair * 4, pack2<Out>(low, high));
}
"""

_KERNEL = r"""
extern "C" __global__ void __launch_bounds__(@THREADS, @BLOCKS) t2r_attention(
    const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
    const __grid_constant__ TensorMap v_map, const __grid_constant__ TensorMap y_map@PARAMETER
) {
    extern __shared__ u8 raw[];
    const u32 base = (shared_address(raw) + 1023) & ~1023u;
    const u32 queries = base + STAGES * STAGE_BYTES;
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
    __syncthreads();
    t2r_wait();
    if (group == 0) {
        registers_down_to<FEW>();
        if (threadIdx.x < 32) fill(ring, &k_map, &v_map, @MASK);
@CONVERT    } else {
        registers_up_to<MANY>();
        // The compiler sees that all lanes have the same number, and so take the same branches.
        const int mine = __shfl_sync(0xffffffffu, group - 1, 0);
        attend({ring, queries + mine * (QUERY_BUFFERS * QUERY_ROOM),
                queries_full + mine * (QUERY_BUFFERS * 8), mine, &q_map, &y_map, @MASK});
    }
}
"""
