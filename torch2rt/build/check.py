"""Right before fast: candidates are compared with the layer's reference before they are timed.

Both run on the same random inputs and on the engine's own constants. The reference computes in
float32 (see `run_reference`), on the same GPU where torch can use it. Results must agree in two
ways: the largest difference, relative to the largest value, and the norm of the difference,
relative to the norm. The bounds are a few roundings of the coarsest dtype among the operands:
products and sums are float32 everywhere, whose error grows with the square root of the number of
terms and stays below 1e-5 for tens of thousands, far inside every bound. Sums of 8-bit integers are
exact, and what is rounded to 8 bits afterwards may fall to either side of a boundary: one step.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch2rt import expression as ex
from torch2rt.backends.backend import Backend
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Weights
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.registry import attributes_to_json
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType
from torch2rt.network.layer import run_reference, widen
from torch2rt.network.tensor import TensorType
from torch2rt.network.torch_cast import FLOAT8_MAX

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor
    from torch import device as TorchDevice

logger = logging.getLogger(__name__)

# Largest error by the coarsest float dtype among the operands. A rounding to float16 is 5e-4 of
# the value, to bfloat16 4e-3; TF32 rounds operands as float16 does.
BOUNDS = {
    DType.FLOAT64: 1e-10, DType.FLOAT32: 1e-4, DType.FLOAT16: 2e-3, DType.BFLOAT16: 1.6e-2,
    DType.FLOAT8_E4M3: 6e-2,
}
TF32_BOUND = 2e-3
# What is rounded to float8 may be a step off, up to 2^-3 of the largest value.
_FLOAT8_STEP = 2.0**-3
# What normal numbers in float8 are multiplied by: 448 is four times their spread.
_FLOAT8_SPREAD = FLOAT8_MAX / 4
# Integers and bools made of floats (comparisons, argmax, roundings): so many may differ, for a
# value at the very boundary falls to either side.
_FLIPPED = 1e-3
_COARSEST = (
    DType.FLOAT8_E4M3, DType.BFLOAT16, DType.FLOAT16, DType.FLOAT32, DType.FLOAT64,
)
# Of results of 8 bits, which are roundings of a float, so many may be one step off.
_ONE_STEP_OFF = 1e-2
# Written to memory before it is used: NaN in every float dtype.
_POISON = 0xFF
# Inputs are made smaller until the results are finite.
_SCALES = (1.0, 2.0**-4, 2.0**-8)


@dataclass(frozen=True)
class Placed:
    """An operand in device memory; no address: a constant."""

    spec: TensorSpec
    address: int


@dataclass(frozen=True)
class Expectation:
    """Inputs of a layer and what the reference makes of them. None: a constant."""

    inputs: tuple[TorchTensor | None, ...]
    outputs: tuple[TorchTensor, ...]
    bound: float
    is_exact: bool


class Checker:
    """Compares candidates of one backend with the reference."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._shares = backend.device.startswith("cuda") and torch.cuda.is_available()
        self._device = torch.device(backend.device if self._shares else "cpu")

    def expectation(self, spec: LayerSpec, weights: Weights) -> Expectation:
        """Random inputs and the results they should give."""
        if any(_is_choice(output.dtype) for output in spec.outputs):
            # Of equal values, the CPU's sorts and searches take the first, as the layers say.
            return self._expectation(spec, weights, torch.device("cpu"))
        try:
            return self._expectation(spec, weights, self._device)
        except torch.OutOfMemoryError:
            logger.info("the reference of %s does not fit beside the candidates", spec.name)
            return self._expectation(spec, weights, torch.device("cpu"))

    def _expectation(
        self, spec: LayerSpec, weights: Weights, device: TorchDevice
    ) -> Expectation:
        from torch2rt.inspect.verify import exact_float32  # needs torch, as this does

        seed = zlib.crc32(spec.kind.name.encode())
        random = [
            _random(tensor, seed + index, device) for index, tensor in enumerate(spec.inputs)
        ]
        types = [TensorType(output.shape, output.dtype) for output in spec.outputs]
        constants = [
            _constant(weights, name, tensor) if name is not None else None
            for name, tensor in zip(spec.constants, spec.inputs, strict=True)
        ]
        with torch.no_grad(), device, exact_float32():
            for scale in _SCALES:
                inputs = [_times(x, scale) if x.is_floating_point() else x for x in random]
                operands = [
                    x if constant is None else constant.to(device)
                    for x, constant in zip(inputs, constants, strict=True)
                ]
                results = run_reference(spec.kind, spec.epilogue, operands, types)
                if all(bool(torch.isfinite(widen(result)).all()) for result in results):
                    break
        own = tuple(
            x if constant is None else None for x, constant in zip(inputs, constants, strict=True)
        )
        return Expectation(own, results, error_bound(spec), _is_exact(spec))

    def fill(
        self, expectation: Expectation, inputs: Sequence[Placed], outputs: Sequence[Placed]
    ) -> None:
        """Write the inputs, and poison into the outputs and all gaps."""
        for value, operand in zip(expectation.inputs, inputs, strict=True):
            if value is not None:
                self._write(operand, value)
        taken = {operand.address for operand in inputs}
        for operand in outputs:
            if operand.address not in taken:
                self._write(operand, None)
        self._wait()

    def error(self, expectation: Expectation, outputs: Sequence[Placed]) -> str | None:
        """What is wrong with the outputs, None if nothing is."""
        self._wait()
        for index, (want, operand) in enumerate(zip(expectation.outputs, outputs, strict=True)):
            raw = self._raw(operand)
            got = _strided(raw, operand.spec).to(want.device)
            reason = _difference(got, want, expectation)
            if reason is None and not operand.spec.is_dense and not _gaps_are_poison(raw, operand):
                reason = "it writes between the runs of its output"
            if reason is not None:
                return f"output {index}: {reason}" if index else reason
        return None

    def close(self) -> None:
        """Give torch's unused device memory back."""
        if self._shares:
            torch.cuda.empty_cache()

    def _write(self, operand: Placed, value: TorchTensor | None) -> None:
        raw = self._raw(operand, is_read=False)
        raw.fill_(_POISON)
        if value is not None:
            _strided(raw, operand.spec).copy_(value)
        if not self._shares:
            self._backend.upload_bytes(operand.address, raw.numpy())

    def _raw(self, operand: Placed, *, is_read: bool = True) -> TorchTensor:
        """The operand's bytes: its memory itself where torch sees it, else a copy."""
        size_bytes = operand.spec.extent_bytes
        if self._shares:
            return torch.as_tensor(_Interface(operand.address, size_bytes), device=self._device)
        if not is_read:
            return torch.empty(size_bytes, dtype=torch.uint8)
        data = self._backend.download_bytes(operand.address, size_bytes)
        return torch.from_numpy(data.copy())

    def _wait(self) -> None:
        if self._shares:
            torch.cuda.synchronize(self._device)


class _Interface:
    """What torch needs to see device memory of somebody else."""

    def __init__(self, address: int, size_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size_bytes,), "typestr": "|u1", "data": (address, False), "version": 2,
        }


def error_bound(spec: LayerSpec) -> float:
    """The largest error a candidate may have: a few roundings of the coarsest float dtype."""
    dtypes = {tensor.dtype for tensor in (*spec.inputs, *spec.outputs)}
    coarsest = next((dtype for dtype in _COARSEST if dtype in dtypes), None)
    if coarsest is DType.FLOAT32 and attributes_to_json(spec.kind).get("tf32"):
        return TF32_BOUND
    return BOUNDS[coarsest] if coarsest is not None else 0.0


def _is_choice(dtype: DType) -> bool:
    """Whether a result is an index or an answer, not a number that was rounded."""
    return not dtype.is_float and dtype not in EIGHT_BITS


def _is_exact(spec: LayerSpec) -> bool:
    """Whether neither operands nor expressions have a float, so that nothing is rounded."""
    if any(tensor.dtype.is_float for tensor in (*spec.inputs, *spec.outputs)):
        return False
    expressions = [spec.epilogue or ex.Input(0)]
    if isinstance(spec.kind, Pointwise):
        expressions.append(spec.kind.expression)
    return not any(_has_float(node) for item in expressions for node in ex.walk(item))


def _has_float(node: ex.Expression) -> bool:
    match node:
        case ex.Constant(value=value):
            return isinstance(value, float)
        case ex.Apply(op=op):
            return op == "div" or (op.startswith("to_") and "float" in op)
    return False


def _random(spec: TensorSpec, seed: int, device: TorchDevice) -> TorchTensor:
    """Normal floats, bools of which most are True, small bytes, 0 where it may be an index.

    float8 has been scaled to its range, and what reads it scales it back: numbers far below would
    be lost beside a bias, and would give attention no scores to speak of.
    """
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, spec.dtype.value)
    # A short period is as good, and much faster to make than many millions of values.
    count = min(spec.element_count, 1 << 20)
    if spec.dtype.is_float:
        values = torch.randn(count, generator=generator)
        if spec.dtype is DType.FLOAT8_E4M3:
            values = (values * _FLOAT8_SPREAD).clamp(-FLOAT8_MAX, FLOAT8_MAX)
    elif spec.dtype is DType.BOOL:
        values = torch.rand(count, generator=generator) < 0.75
    elif spec.dtype.itemsize_bytes == 1:
        low = -100 if spec.dtype is DType.INT8 else 0
        values = torch.randint(low, 100, (count,), generator=generator)
    else:
        return torch.zeros(spec.shape, dtype=dtype, device=device)
    repeats = -(-spec.element_count // max(count, 1))
    values = values.to(device=device, dtype=dtype).repeat(repeats)
    return values[: spec.element_count].reshape(spec.shape)


def _times(x: TorchTensor, scale: float) -> TorchTensor:
    """A tensor of floats times a number; torch does not multiply float8."""
    return x * scale if x.itemsize > 1 else (x.float() * scale).to(x.dtype)


def _constant(weights: Weights, name: str, spec: TensorSpec) -> TorchTensor:
    from torch2rt.torch_values import constant_to_torch

    return constant_to_torch(weights.array(name), spec.dtype).reshape(spec.shape)


def _strided(raw: TorchTensor, spec: TensorSpec) -> TorchTensor:
    """A tensor over bytes. PLAIN and CHANNELS_LAST, dense or pitched."""
    return raw.view(getattr(torch, spec.dtype.value)).as_strided(spec.shape, spec.strides)


def _gaps_are_poison(raw: TorchTensor, operand: Placed) -> bool:
    spec = operand.spec
    size = spec.dtype.itemsize_bytes
    is_gap = torch.ones(raw.numel() // size, dtype=torch.bool, device=raw.device)
    is_gap.as_strided(spec.shape, spec.strides).fill_(False)
    return bool((raw.view(-1, size)[is_gap] == _POISON).all())


def _difference(got: TorchTensor, want: TorchTensor, expectation: Expectation) -> str | None:
    """How far a result is from the reference, None if it is near enough."""
    if want.numel() == 0:
        return None
    if want.dtype in (torch.int8, torch.uint8) and not expectation.is_exact:
        return _difference_in_steps(got, want)
    if not want.is_floating_point():
        share = float((got != want).float().mean())
        allowed = 0.0 if expectation.is_exact else _FLIPPED
        return f"{share:.2%} of its values differ" if share > allowed else None
    wide = torch.float64 if want.dtype == torch.float64 else torch.float32
    step = _FLOAT8_STEP if want.dtype == torch.float8_e4m3fn else 0.0
    got, want = got.to(wide), want.to(wide)
    is_special = ~torch.isfinite(want)
    is_same = (got == want) | (got.isnan() & want.isnan())
    if not bool(is_same[is_special].all()):
        return "it differs in NaN or infinity"
    distance = torch.where(is_special, 0.0, got - want)
    if not bool(torch.isfinite(distance).all()):
        return "it has NaN or infinity where the reference has numbers"
    size = torch.where(is_special, 0.0, want)
    largest = _ratio(float(distance.abs().max()), float(size.abs().max()))
    norm = _ratio(
        float(torch.linalg.vector_norm(distance)), float(torch.linalg.vector_norm(size))
    )
    if largest <= max(expectation.bound, step) and norm <= expectation.bound:
        return None
    return f"error {largest:.1e} of the largest value, {norm:.1e} of the norm, " \
           f"allowed {expectation.bound:.1e}"


def _difference_in_steps(got: TorchTensor, want: TorchTensor) -> str | None:
    """How far a result that was rounded to 8 bits is from the reference, None if near enough."""
    steps = (got.short() - want.short()).abs()
    share = float((steps > 0).float().mean())
    if int(steps.max()) > 1:
        return f"values differ by up to {int(steps.max())} steps of 8 bits, 1 is allowed"
    return f"{share:.2%} of its values are one step off" if share > _ONE_STEP_OFF else None


def _ratio(error: float, size: float) -> float:
    if error == 0.0:
        return 0.0
    return error / size if size > 0 else math.inf
