"""oneDNN's C API through ctypes, without torch: descriptors, primitives, calls bound once.

    threads:     set_threads(n)            (per calling thread, before building and executing)
    descriptor:  desc = convolution(src, weights, bias, dst, strides=..., ...)
    code:        primitive = Primitive(desc)
    per step:    function, arguments = bind(primitive, stream, {Arg.src: memory, ...})
    at run time: status = function(*arguments)

No oneDNN is loaded by importing this package; the first call does it, or raises OneDNNUnavailable.
"""

from torch2rt.backends.cpu.onednn.attributes import (
    Attributes,
    Binary,
    DepthwiseConvolution,
    Eltwise,
    PostOp,
    Prelu,
    Sum,
)
from torch2rt.backends.cpu.onednn.constants import (
    Algorithm,
    Arg,
    DataType,
    Direction,
    FormatKind,
    FpMath,
    Isa,
    Norm,
    depthwise_arg,
    post_op_arg,
    scale_arg,
    source_arg,
    zero_point_arg,
)
from torch2rt.backends.cpu.onednn.errors import (
    OneDNNArgumentError,
    OneDNNError,
    OneDNNUnavailable,
    OneDNNUnsupported,
)
from torch2rt.backends.cpu.onednn.gemm import inner_product, matmul
from torch2rt.backends.cpu.onednn.handle import Stream
from torch2rt.backends.cpu.onednn.layout import channel_blocked_tag, channels_last_tag
from torch2rt.backends.cpu.onednn.loader import (
    effective_isa,
    library,
    path,
    prefer_ymm,
    set_max_isa,
    version,
)
from torch2rt.backends.cpu.onednn.memory import Memory, MemoryDesc
from torch2rt.backends.cpu.onednn.normalization import (
    batch_normalization,
    group_normalization,
    layer_normalization,
    local_response_normalization,
    logsoftmax,
    softmax,
)
from torch2rt.backends.cpu.onednn.openmp import get_threads, mapped_openmp_paths, set_threads
from torch2rt.backends.cpu.onednn.pointwise import (
    binary,
    concat,
    eltwise,
    prelu,
    reduction,
    reorder,
    shuffle,
    weighted_sum,
)
from torch2rt.backends.cpu.onednn.primitive import (
    BoundCall,
    Primitive,
    PrimitiveDesc,
    bind,
    execution_failed,
    run,
)
from torch2rt.backends.cpu.onednn.recurrent import Cell, gru, lbr_gru, lstm, vanilla_rnn
from torch2rt.backends.cpu.onednn.transfer import allocate, data_type_of, pack, unpack
from torch2rt.backends.cpu.onednn.windowed import (
    convolution,
    deconvolution,
    pooling,
    resampling,
)

__all__ = [
    "Algorithm",
    "Arg",
    "Attributes",
    "Binary",
    "BoundCall",
    "Cell",
    "DataType",
    "DepthwiseConvolution",
    "Direction",
    "Eltwise",
    "FormatKind",
    "FpMath",
    "Isa",
    "Memory",
    "MemoryDesc",
    "Norm",
    "OneDNNArgumentError",
    "OneDNNError",
    "OneDNNUnavailable",
    "OneDNNUnsupported",
    "PostOp",
    "Prelu",
    "Primitive",
    "PrimitiveDesc",
    "Stream",
    "Sum",
    "allocate",
    "batch_normalization",
    "binary",
    "bind",
    "channel_blocked_tag",
    "channels_last_tag",
    "concat",
    "convolution",
    "data_type_of",
    "deconvolution",
    "depthwise_arg",
    "effective_isa",
    "eltwise",
    "execution_failed",
    "get_threads",
    "group_normalization",
    "gru",
    "inner_product",
    "layer_normalization",
    "lbr_gru",
    "library",
    "local_response_normalization",
    "logsoftmax",
    "lstm",
    "mapped_openmp_paths",
    "matmul",
    "pack",
    "path",
    "pooling",
    "post_op_arg",
    "prefer_ymm",
    "prelu",
    "reduction",
    "reorder",
    "resampling",
    "run",
    "scale_arg",
    "set_max_isa",
    "set_threads",
    "shuffle",
    "softmax",
    "source_arg",
    "unpack",
    "vanilla_rnn",
    "version",
    "weighted_sum",
    "zero_point_arg",
]
