"""Checks a tactic of the CPU backend against the layer's reference, in every layout it offers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from needs import skip_where_missing

from torch2rt.backends.buffer import Buffer, address_of, aligned_bytes
from torch2rt.backends.cpu.backend import CpuBackend
from torch2rt.backends.spec import LayerSpec, Layout, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.expression import Expression, arity, parse_expression
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind, run_reference
from torch2rt.network.tensor import TensorType
from torch2rt.torch_values import constant_from_torch, constant_to_torch, dtype_from_torch

TOLERANCE = {DType.FLOAT32: 2e-5, DType.FLOAT64: 1e-12, DType.BFLOAT16: 1.2e-2, DType.FLOAT16: 2e-3}
BACKEND = CpuBackend(threads=2)


class DictWeights(Weights):
    """Constants in a dict, packed forms beside them."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.arrays = arrays
        self.made: dict[tuple[Any, ...], Any] = {}

    def array(self, name: str) -> Any:
        return self.arrays[name]

    def packed(self, key: tuple[Any, ...], make: Any) -> Any:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


def to_bytes(tensor: torch.Tensor, spec: TensorSpec) -> np.ndarray:
    """The bytes of a tensor in a layout, made by torch alone."""
    value = tensor.detach()
    if spec.layout is Layout.CHANNELS_LAST:
        value = value.movedim(1, -1)
    elif spec.layout.block > 1:
        block = spec.layout.block
        padding = -value.shape[1] % block
        value = torch.nn.functional.pad(value, [0, 0] * (value.dim() - 2) + [0, padding])
        value = value.unflatten(1, (-1, block)).movedim(2, -1)
    array, _ = constant_from_torch(value.contiguous())
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def from_bytes(raw: np.ndarray, spec: TensorSpec) -> torch.Tensor:
    """The inverse of `to_bytes`; checks that padded channels are zero."""
    array = raw[: spec.size_bytes].view(spec.dtype.numpy).copy()
    value = constant_to_torch(array, spec.dtype)
    shape = spec.shape
    if spec.layout is Layout.CHANNELS_LAST:
        return value.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    block = spec.layout.block
    if block > 1:
        blocks = -(-shape[1] // block)
        value = value.reshape(shape[0], blocks, *shape[2:], block).movedim(-1, 2).flatten(1, 2)
        assert not value[:, shape[1] :].float().any(), "padded channels are not zero"
        return value[:, : shape[1]]
    return value.reshape(shape)


def make_spec(
    kind: LayerKind,
    inputs: Sequence[torch.Tensor],
    epilogue: str | None = None,
    constants: Sequence[int] = (),
    out_dtype: DType | None = None,
) -> LayerSpec:
    """The spec of a layer on these inputs; ``constants`` are the inputs that are weights."""
    expression: Expression | None = parse_expression(epilogue) if epilogue else None
    types = [TensorType(tuple(x.shape), dtype_from_torch(x.dtype)) for x in inputs]
    extra = max(0, arity(expression) - 1) if expression is not None else 0
    outputs = kind.infer(types[: len(types) - extra])
    return LayerSpec(
        name="tested", where="tests", kind=kind, epilogue=expression,
        inputs=tuple(TensorSpec(tuple(map(int, t.shape)), t.dtype) for t in types),  # type: ignore
        outputs=tuple(
            TensorSpec(tuple(map(int, t.shape)), out_dtype or t.dtype)  # type: ignore
            for t in outputs
        ),
        constants=tuple(f"c{i}" if i in constants else None for i in range(len(inputs))),
    )


def _place(
    prepared: Prepared, spec: LayerSpec, overwritten: int | None
) -> dict[tuple[str, int], np.ndarray]:
    """Memory of every operand, inside one another where the views say so."""
    operands = {("output", index): operand for index, operand in enumerate(spec.outputs)}
    operands |= {("input", index): operand for index, operand in enumerate(spec.inputs)}
    views = {view.inner: view for view in prepared.views}
    memory = {
        key: aligned_bytes(max(operand.size_bytes, 1))
        for key, operand in operands.items() if key not in views
    }
    if overwritten is not None:
        memory["input", overwritten] = memory["output", 0]
    for key, view in views.items():
        first = view.offset_bytes
        memory[key] = memory[view.outer][first : first + operands[key].size_bytes]
    return memory


def run_prepared(
    prepared: Prepared, spec: LayerSpec, inputs: Sequence[torch.Tensor],
    overwritten: int | None = None,
) -> list[torch.Tensor]:
    """Outputs of a prepared tactic; run twice with dirty workspace; views are laid out first."""
    memory = _place(prepared, spec, overwritten)
    workspace = aligned_bytes(prepared.workspace_bytes + 64)
    workspace[:] = 0xFF
    buffers = {
        key: Buffer(getattr(spec, f"{key[0]}s")[key[1]], address_of(raw))
        for key, raw in memory.items()
    }
    calls = prepared.bind(
        [
            Buffer(operand, constant=name) if name is not None else buffers["input", index]
            for index, (operand, name) in enumerate(zip(spec.inputs, spec.constants, strict=True))
        ],
        [buffers["output", index] for index in range(len(spec.outputs))],
        address_of(workspace), BACKEND.new_stream(),
    )
    for _ in range(2):
        for index, tensor in enumerate(inputs):
            raw = to_bytes(tensor, spec.inputs[index])
            memory["input", index][: raw.size] = raw
        with BACKEND.building():
            BACKEND.runner(calls)()
    return [
        from_bytes(memory["output", index], operand)
        for index, operand in enumerate(spec.outputs)
    ]


def tactic_named(name: str) -> Tactic:
    """A tactic of the CPU; the test that asks is skipped where its library is missing."""
    skip_where_missing(name)
    return BACKEND.tactics[name]


def check_tactic(
    name: str,
    kind: LayerKind,
    inputs: Sequence[torch.Tensor],
    epilogue: str | None = None,
    *,
    constants: Sequence[int] = (),
    out_dtype: DType | None = None,
    tolerance: float | None = None,
    exact: bool = False,
    layouts: int | None = None,
) -> list[Prepared]:
    """Every layout choice of a tactic gives the reference's values; at least ``layouts`` do.

    Returns what was prepared. A choice that the library refuses is left out, but not all may be.
    """
    spec = make_spec(kind, inputs, epilogue, constants, out_dtype)
    tactic = tactic_named(name)
    refusal = tactic.supports(spec)
    assert not isinstance(refusal, Refusal), f"{name} refuses: {refusal.reason}"
    types = [TensorType(output.shape, output.dtype) for output in spec.outputs]
    expected = run_reference(kind, spec.epilogue, inputs, types)
    made: list[Prepared] = []
    reasons = []
    for choice in tactic.layouts(spec):
        chosen = spec.with_layouts(choice)
        weights = DictWeights({
            f"c{i}": constant_from_torch(inputs[i])[0] for i in constants
        })
        try:
            with BACKEND.building():
                prepared = tactic.prepare(chosen, weights)
        except Unprepared as error:
            reasons.append(f"{choice}: {error}")
            continue
        made.append(prepared)
        for overwritten in (None, *prepared.may_overwrite):
            results = run_prepared(prepared, chosen, inputs, overwritten)
            for result, want, operand in zip(results, expected, spec.outputs, strict=True):
                where = f"{name} {choice} in place of {overwritten}"
                assert_near(result, want, operand.dtype, tolerance, exact, where)
    assert made, f"no layout of {name} could be prepared: {reasons}"
    assert layouts is None or len(made) >= layouts, f"only {len(made)} layouts: {reasons}"
    return made


def assert_near(
    result: torch.Tensor, want: torch.Tensor, dtype: DType, tolerance: float | None,
    exact: bool, where: str,
) -> None:
    """Equal NaNs and infinities, and a small error relative to the largest value.

    Integers are equal, or with a tolerance, one off in a share of at most so many.
    """
    assert result.shape == want.shape, f"{where}: shape {result.shape}, expected {want.shape}"
    if not dtype.is_float and tolerance is not None:
        off = (result.double() - want.double()).abs()
        share = float((off > 0).double().mean())
        assert float(off.max()) <= 1, f"{where}: values are up to {off.max()} off"
        assert share <= tolerance, f"{where}: {share:.2%} of the values are off"
        return
    if exact or not dtype.is_float:
        assert torch.equal(result, want), f"{where}: values differ"
        return
    got, wanted = result.double(), want.double()
    special = ~torch.isfinite(wanted)
    assert torch.equal(got[special].nan_to_num(nan=7.0), wanted[special].nan_to_num(nan=7.0)), where
    bound = tolerance if tolerance is not None else TOLERANCE[dtype]
    scale = max(float(wanted[~special].abs().max()) if (~special).any() else 0.0, 1e-6)
    error = float((got - wanted)[~special].abs().max()) / scale if (~special).any() else 0.0
    assert math.isfinite(error), f"{where}: not finite"
    assert error <= bound, f"{where}: error {error:.2e} > {bound:.2e}"
