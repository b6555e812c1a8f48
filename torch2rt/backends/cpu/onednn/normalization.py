"""Builders of softmax and of normalizations."""

from torch2rt.backends.cpu.onednn.attributes import Attributes
from torch2rt.backends.cpu.onednn.constants import FORWARD_INFERENCE, Algorithm, Norm
from torch2rt.backends.cpu.onednn.create import create, pointer
from torch2rt.backends.cpu.onednn.errors import OneDNNUnsupported
from torch2rt.backends.cpu.onednn.loader import library
from torch2rt.backends.cpu.onednn.memory import MemoryDesc
from torch2rt.backends.cpu.onednn.primitive import PrimitiveDesc


def softmax(
    src: MemoryDesc,
    dst: MemoryDesc,
    axis: int,
    *,
    algorithm: Algorithm = Algorithm.softmax,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Softmax along `axis`, or its logarithm (Algorithm.logsoftmax)."""
    arguments = [FORWARD_INFERENCE, algorithm, src.pointer, dst.pointer, axis]
    return create("softmax_forward", attributes, arguments, (src, dst))


def logsoftmax(
    src: MemoryDesc, dst: MemoryDesc, axis: int, *, attributes: Attributes | None = None
) -> PrimitiveDesc:
    """Logarithm of softmax along `axis`."""
    return softmax(src, dst, axis, algorithm=Algorithm.logsoftmax, attributes=attributes)


def layer_normalization(
    src: MemoryDesc,
    dst: MemoryDesc,
    *,
    epsilon: float,
    flags: int = Norm.none,
    statistics: MemoryDesc | None = None,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Normalize the last axis of (..., c), rank 2 to 5; f32 scale and shift (c) by `flags`.

    `statistics` (...) are mean and variance when `Norm.use_global_stats` takes them as inputs.
    """
    arguments = [FORWARD_INFERENCE, src.pointer, dst.pointer, pointer(statistics), epsilon, flags]
    return create("layer_normalization_forward", attributes, arguments, (src, dst))


def batch_normalization(
    src: MemoryDesc,
    dst: MemoryDesc,
    *,
    epsilon: float,
    flags: int = Norm.use_global_stats,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Normalize (n, c, ...) per channel by given f32 mean and variance (c)."""
    arguments = [FORWARD_INFERENCE, src.pointer, dst.pointer, epsilon, flags]
    return create("batch_normalization_forward", attributes, arguments, (src, dst))


def group_normalization(
    src: MemoryDesc,
    dst: MemoryDesc,
    groups: int,
    *,
    epsilon: float,
    flags: int = Norm.none,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Normalize (n, c, ...) over each of `groups` channel groups; needs oneDNN 3.3."""
    operation = "group_normalization_forward"
    name = f"dnnl_{operation}_primitive_desc_create"
    if not library().has(name):
        number = ".".join(map(str, library().version))
        raise OneDNNUnsupported(
            status="unimplemented", call=name, what=f"building {src}: this is oneDNN {number} < 3.3"
        )
    arguments = [FORWARD_INFERENCE, src.pointer, dst.pointer, groups, epsilon, flags]
    return create(operation, attributes, arguments, (src, dst))


def local_response_normalization(
    src: MemoryDesc,
    dst: MemoryDesc,
    *,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    algorithm: Algorithm = Algorithm.lrn_across_channels,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Divide src by (k + alpha / size * sum of squares over `size` neighbours) ** beta."""
    arguments = [FORWARD_INFERENCE, algorithm, src.pointer, dst.pointer, size, alpha, beta, k]
    return create("lrn_forward", attributes, arguments, (src, dst))
