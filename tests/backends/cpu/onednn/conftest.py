"""Run one primitive on logical arrays, whatever layouts it wants."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from torch2rt.backends.cpu import onednn

RunPrimitive = Callable[..., torch.Tensor]


def run_primitive(
    desc: onednn.PrimitiveDesc,
    tensors: Mapping[int, torch.Tensor],
    *,
    initial_dst: torch.Tensor | None = None,
    others: Mapping[int, torch.Tensor] | None = None,
    result: int = onednn.Arg.dst,
) -> torch.Tensor:
    """Reorder `tensors` to the primitive's layouts, execute, and return a logical result.

    `others` are arguments without a descriptor of their own (scales, zero points, norm scales):
    passed plain. Unset results start as garbage, so that a value left unwritten shows.
    """
    memories: dict[int, onednn.Memory] = {}
    for arg, tensor in tensors.items():
        wanted = desc.arg_desc(arg)
        assert wanted is not None, f"argument {arg} is not used by {desc}"
        memories[arg] = to_memory(tensor, wanted)
    for arg, tensor in (others or {}).items():
        plain = onednn.MemoryDesc.plain(tuple(tensor.shape), type_of(tensor))
        memories[arg] = to_memory(tensor, plain)
    for arg in (onednn.Arg.dst, onednn.Arg.dst_1, onednn.Arg.dst_2, onednn.Arg.scratchpad):
        wanted = desc.arg_desc(arg)
        if wanted is None or arg in memories:
            continue
        memories[arg] = onednn.allocate(wanted)
        memories[arg].owner.fill(0x7B)
    if initial_dst is not None:
        memories[onednn.Arg.dst] = to_memory(initial_dst, desc.dst)
    onednn.run(onednn.Primitive(desc), onednn.Stream(), memories)
    return to_tensor(memories[result])


TYPES = {
    torch.float32: onednn.DataType.f32,
    torch.bfloat16: onednn.DataType.bf16,
    torch.float16: onednn.DataType.f16,
    torch.int8: onednn.DataType.s8,
    torch.uint8: onednn.DataType.u8,
    torch.int32: onednn.DataType.s32,
}


def type_of(tensor: torch.Tensor) -> onednn.DataType:
    return TYPES[tensor.dtype]


def to_memory(tensor: torch.Tensor, desc: onednn.MemoryDesc) -> onednn.Memory:
    array = tensor.contiguous()
    bits = array.view(torch.uint16) if tensor.dtype == torch.bfloat16 else array
    return onednn.pack(bits.numpy(), desc, type_of(tensor))


def to_tensor(memory: onednn.Memory) -> torch.Tensor:
    array = torch.from_numpy(onednn.unpack(memory))
    if memory.desc.data_type == onednn.DataType.bf16:
        return array.view(torch.bfloat16)
    return array


@pytest.fixture(autouse=True)
def threads() -> None:
    """One: threads that spin at a barrier are slow beside other processes, and add no coverage."""
    onednn.set_threads(1)


@pytest.fixture
def execute() -> RunPrimitive:
    return run_primitive


# Unit roundoff by type; f32 results may be off by 64 of them, others by their last rounding.
EPSILON = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture
def assert_near() -> Callable[[torch.Tensor, torch.Tensor], None]:
    def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
        assert actual.shape == expected.shape
        assert torch.isfinite(actual.double()).all()
        error = (actual.double() - expected.double()).norm() / expected.double().norm()
        allowed = 64 * EPSILON[torch.float32]
        if actual.dtype != torch.float32:
            allowed = EPSILON[actual.dtype]
        assert error <= allowed, f"relative error {error:.2e}, allowed {allowed:.2e}"

    return check


@pytest.fixture
def any_desc() -> Callable[..., onednn.MemoryDesc]:
    def make(tensor: torch.Tensor) -> onednn.MemoryDesc:
        return onednn.MemoryDesc.any(tuple(tensor.shape), type_of(tensor))

    return make


@pytest.fixture
def plain_desc() -> Callable[..., onednn.MemoryDesc]:
    def make(tensor: torch.Tensor) -> onednn.MemoryDesc:
        return onednn.MemoryDesc.plain(tuple(tensor.shape), type_of(tensor))

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
