"""The C enumerations of oneDNN 3 that the binding uses, with the values of dnnl_types.h."""

from enum import IntEnum
from typing import Final

import numpy as np

ANY_TAG: Final = 1
MAX_DIMS: Final = 12
FORWARD_INFERENCE: Final = 96
FORWARD_TRAINING: Final = 64
SCRATCHPAD_USER: Final = 1
CPU_ENGINE: Final = 1
IN_ORDER_STREAM: Final = 1

SCALES: Final = 4096
ZERO_POINTS: Final = 8192
POST_OP_DEPTHWISE: Final = 16384
POST_OP_BASE: Final = 32768
MULTIPLE_SRC: Final = 1024


class Status(IntEnum):
    """dnnl_status_t."""

    success = 0
    out_of_memory = 1
    invalid_arguments = 2
    unimplemented = 3
    last_impl_reached = 4
    runtime_error = 5
    not_required = 6


class DataType(IntEnum):
    """dnnl_data_type_t; bf16 is carried by numpy as its 16 bits (uint16)."""

    undefined = 0
    f16 = 1
    bf16 = 2
    f32 = 3
    s32 = 4
    s8 = 5
    u8 = 6

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return _ITEM_BYTES[self]

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """The numpy dtype of the same width (bf16: uint16 holding the raw bits)."""
        return _NUMPY_DTYPE[self]


_NUMPY_DTYPE: Final[dict[int, np.dtype[np.generic]]] = {
    DataType.f16: np.dtype(np.float16),
    DataType.bf16: np.dtype(np.uint16),
    DataType.f32: np.dtype(np.float32),
    DataType.s32: np.dtype(np.int32),
    DataType.s8: np.dtype(np.int8),
    DataType.u8: np.dtype(np.uint8),
}
_ITEM_BYTES: Final = {key: dtype.itemsize for key, dtype in _NUMPY_DTYPE.items()}


class FormatKind(IntEnum):
    """dnnl_format_kind_t."""

    undefined = 0
    any = 1
    blocked = 2
    opaque = 3


class Algorithm(IntEnum):
    """dnnl_alg_kind_t: which function a primitive or a post-op computes."""

    convolution_direct = 0x1
    convolution_winograd = 0x2
    convolution_auto = 0x3
    deconvolution_direct = 0xA
    relu = 0x20
    tanh = 0x21
    elu = 0x22
    square = 0x23
    abs = 0x24
    sqrt = 0x25
    linear = 0x26
    soft_relu = 0x27
    hardsigmoid = 0x28
    logistic = 0x29
    exp = 0x2A
    gelu_tanh = 0x2B
    swish = 0x2C
    log = 0x2D
    clip = 0x2E
    clip_v2 = 0x2F
    pow = 0x30
    gelu_erf = 0x31
    round = 0x32
    mish = 0x33
    hardswish = 0x34
    pooling_max = 0x1FF
    pooling_avg_include_padding = 0x2FF
    pooling_avg_exclude_padding = 0x3FF
    lrn_across_channels = 0xAFF
    lrn_within_channel = 0xBFF
    vanilla_rnn = 0x1FFF
    vanilla_lstm = 0x2FFF
    vanilla_gru = 0x3FFF
    lbr_gru = 0x4FFF
    add = 0x1FFF0
    mul = 0x1FFF1
    max = 0x1FFF2
    min = 0x1FFF3
    div = 0x1FFF4
    sub = 0x1FFF5
    ge = 0x1FFF6
    gt = 0x1FFF7
    le = 0x1FFF8
    lt = 0x1FFF9
    eq = 0x1FFFA
    ne = 0x1FFFB
    resampling_nearest = 0x2FFF0
    resampling_linear = 0x2FFF1
    reduction_max = 0x2FFF2
    reduction_min = 0x2FFF3
    reduction_sum = 0x2FFF4
    reduction_mul = 0x2FFF5
    reduction_mean = 0x2FFF6
    reduction_norm_lp_max = 0x2FFF7
    reduction_norm_lp_sum = 0x2FFF8
    reduction_norm_lp_power_p_max = 0x2FFF9
    reduction_norm_lp_power_p_sum = 0x2FFFA
    softmax = 0x30000
    logsoftmax = 0x30001


class Arg(IntEnum):
    """DNNL_ARG_*: the role of a memory in an execution."""

    src = 1
    src_1 = 2
    src_2 = 3
    src_3 = 4
    dst = 17
    dst_1 = 18
    dst_2 = 19
    weights = 33
    weights_1 = 34
    weights_2 = 35
    weights_3 = 36
    bias = 41
    mean = 49
    variance = 50
    scale = 51
    shift = 52
    workspace = 64
    scratchpad = 80


class Query(IntEnum):
    """dnnl_query_t, the members used."""

    num_of_inputs_s32 = 3
    num_of_outputs_s32 = 4
    impl_info_str = 8
    strides = 14
    src_md = 129
    weights_md = 131
    dst_md = 133
    workspace_md = 135
    scratchpad_md = 136
    exec_arg_md = 255
    ndims_s32 = 256
    dims = 257
    data_type = 258
    submemory_offset_s64 = 259
    padded_dims = 260
    padded_offsets = 261
    format_kind = 262
    inner_nblks_s32 = 263
    inner_blks = 264
    inner_idxs = 265


class FpMath(IntEnum):
    """dnnl_fpmath_mode_t: the precision that f32 arithmetic may be lowered to."""

    strict = 0
    bf16 = 1
    f16 = 2
    any = 3
    tf32 = 4


class Norm(IntEnum):
    """dnnl_normalization_flags_t; combine with `|`."""

    none = 0
    use_global_stats = 1
    use_scale = 2
    use_shift = 4
    fuse_relu = 8


class Direction(IntEnum):
    """dnnl_rnn_direction_t."""

    left_to_right = 1
    right_to_left = 2
    bidirectional_concat = 3
    bidirectional_sum = 4


class Isa(IntEnum):
    """dnnl_cpu_isa_t: the highest instruction set that generated code may use."""

    default = 0x0
    sse41 = 0x1
    avx = 0x3
    avx2 = 0x7
    avx2_vnni = 0xF
    avx512_core = 0x27
    avx512_core_vnni = 0x67
    avx512_core_bf16 = 0xE7
    avx512_core_fp16 = 0x1EF
    avx512_core_amx = 0xFEF


def scale_arg(arg: int) -> int:
    """The argument that carries the f32 scales of `arg` at execution."""
    return SCALES | arg


def zero_point_arg(arg: int) -> int:
    """The argument that carries the s32 zero points of `arg` at execution."""
    return ZERO_POINTS | arg


def post_op_arg(index: int, arg: int = Arg.src_1) -> int:
    """The argument that carries the tensor of post-op number `index` (prelu: Arg.weights)."""
    return POST_OP_BASE * (index + 1) | arg


def depthwise_arg(arg: int) -> int:
    """The weights or bias argument of a fused depthwise convolution."""
    return POST_OP_DEPTHWISE | arg


def source_arg(index: int) -> int:
    """Source number `index` of a concat or sum."""
    return MULTIPLE_SRC + index
