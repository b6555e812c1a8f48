"""Any layer by its reference in torch: the last resort, which makes an engine need torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.launch import CudaCall, Packed
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Call, Prepared, Refusal, Tactic, Weights
from torch2rt.lazy_torch import torch
from torch2rt.network.layer import run_reference
from torch2rt.network.tensor import TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor


class TorchReference(Tactic):
    """The reference on tensors that share the buffers' memory, row-major, outside the graph."""

    name: ClassVar[str] = "any.torch.reference"
    kinds: ClassVar[tuple[str, ...]] = ("*",)
    level: ClassVar[int] = 0

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every layer, where torch can use the GPU."""
        if find_spec("torch") is None:
            return Refusal("torch is not installed")
        if not torch.cuda.is_available():
            return Refusal("torch is installed without CUDA")
        return None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Upload the constants."""
        return _ReferencePrepared(
            spec, [operand(spec, weights, index) for index in range(len(spec.inputs))]
        )


class _ReferencePrepared(Prepared):
    needs_torch = True

    def __init__(self, spec: LayerSpec, operands: Sequence[Any]) -> None:
        self.spec = spec
        self.operands = operands

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call, which no graph takes."""
        buffers = [
            Buffer(tensor, argument.memory.address) if isinstance(argument, Packed) else buffer
            for tensor, argument, buffer in zip(
                self.spec.inputs, self.operands, inputs, strict=True
            )
        ]
        return [(_ReferenceCall(self.spec, buffers, outputs, stream), ())]


class _ReferenceCall(CudaCall):
    is_capturable: ClassVar[bool] = False

    def __init__(
        self, spec: LayerSpec, inputs: Sequence[Buffer], outputs: Sequence[Buffer], stream: Any
    ) -> None:
        super().__init__(stream)
        self.spec = spec
        self.inputs = inputs
        self.outputs = outputs
        self.moves = any(buffer.moves for buffer in (*inputs, *outputs))

    def __call__(self) -> int:
        """Run the reference on this stream."""
        spec = self.spec
        types = [TensorType(output.shape, output.dtype) for output in spec.outputs]
        with torch.inference_mode(), torch.cuda.stream(_torch_stream(self.stream)):
            inputs = [_tensor(b.address, s) for b, s in zip(self.inputs, spec.inputs, strict=True)]
            results = run_reference(spec.kind, spec.epilogue, inputs, types)
            for buffer, tensor, result in zip(self.outputs, spec.outputs, results, strict=True):
                _tensor(buffer.address, tensor).copy_(result)
        return 0

    def __str__(self) -> str:
        return f"torch's {self.spec.kind.name}"


def _torch_stream(stream: Any) -> Any:
    pointer = stream.ptr if stream is not None else 0
    if pointer == 0:
        return torch.cuda.default_stream()
    return torch.cuda.ExternalStream(pointer)  # type: ignore[no-untyped-call]


class _Interface:
    """What torch needs to see memory of somebody else."""

    def __init__(self, address: int, shape: tuple[int, ...], type_text: str) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": type_text, "data": (address, False), "version": 2,
        }


def _tensor(address: int, spec: TensorSpec) -> TorchTensor:
    """A tensor over device memory."""
    dtype = getattr(torch, spec.dtype.value)
    if spec.element_count == 0:
        return torch.empty(spec.shape, dtype=dtype, device="cuda")
    bits = {"uint16": "int16"}.get(str(spec.dtype.numpy), str(spec.dtype.numpy))
    type_text = "|b1" if bits == "bool" else _TYPE_TEXTS[bits]
    tensor = torch.as_tensor(_Interface(address, spec.shape, type_text), device="cuda")
    return tensor.view(dtype) if spec.dtype.is_stored_as_bits else tensor


_TYPE_TEXTS = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4",
    "int16": "<i2", "int8": "|i1", "uint8": "|u1",
}
