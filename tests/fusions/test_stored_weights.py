"""Weights in 8 bits that matmuls of floats read as they are stored, and those they must not."""

from __future__ import annotations

import numpy as np
import pytest
from fusion_testing import check_fires, check_refused, network_of, pointwise

from torch2rt.fusions.stored_weight_into_matmul import StoredWeightIntoMatmul
from torch2rt.network.dtype import Array
from torch2rt.network.text import text
from torch2rt.passes.pipeline import optimize

GENERATOR = np.random.default_rng(5)
CONSTANTS: dict[str, Array] = {
    "q": GENERATOR.integers(-127, 128, (6, 8)).astype(np.int8),
    "u": GENERATOR.integers(0, 256, (6, 8)).astype(np.uint8),
    "rows": np.linspace(0.01, 0.02, 6, dtype=np.float32).reshape(6, 1),
    "columns": np.linspace(0.01, 0.02, 8, dtype=np.float32).reshape(1, 8),
    "one": np.array(0.03, np.float32), "zero": np.array(3, np.int32),
}
HEADER = """
input %x: float32[2,3,8]
input %t: float32[3,6]
input %p: int8[6,8]
constant @q: int8[6,8]
constant @u: uint8[6,8]
constant @rows: float32[6,1]
constant @columns: float32[1,8]
constant @one: float32[]
constant @zero: int32[]
constant @b: float32[6]
"""


def linear(weight: str, x: str = "%x", type: str = "float32[2,3,6]") -> str:
    return (
        f"{HEADER}%w = dequantize({weight}) -> float32[6,8]\n"
        f'%y = matmul({x}, %w, @b) {{"transpose_b":true}} epilogue relu(add(i0,i1)) -> {type}\n'
        "output y = %y\n"
    )


@pytest.mark.parametrize("scale", ["@rows", "@one"])
def test_linear_layers_keep_their_weight(scale: str) -> None:
    source = linear(f"@q, {scale}")
    network = check_fires(
        StoredWeightIntoMatmul(), source, kinds=["matmul"], constants=CONSTANTS
    )
    assert "matmul(%x, @q, @y.scale, @b)" in text(network)
    assert "epilogue relu(add(mul(i0,i1),i2))" in text(network)


def test_output_channels_may_be_last() -> None:
    source = f"{HEADER}%w = dequantize(@q, @columns) -> float32[6,8]\n" \
        "%y = matmul(%t, %w) -> float32[3,8]\noutput y = %y\n"
    network = check_fires(StoredWeightIntoMatmul(), source, kinds=["matmul"], constants=CONSTANTS)
    assert "matmul(%t, @q, @y.scale) epilogue mul(i0,i1)" in text(network)


@pytest.mark.parametrize(("weight", "reason"), [
    ("@u, @rows", "a weight of uint8 beside float32"),
    ("@q, @columns", "other scales than one per output channel"),
    ("@q, @rows, @zero", "a zero point"),
])
def test_other_weights_are_refused(weight: str, reason: str) -> None:
    check_refused(StoredWeightIntoMatmul(), linear(weight), reason=reason, constants=CONSTANTS)


def test_computed_weights_are_left_alone() -> None:
    network = network_of(linear("%p, @rows"), CONSTANTS)
    before = text(network)
    fusion = StoredWeightIntoMatmul()
    assert all(fusion.match(network, layer) is None for layer in network.layers)
    assert text(network) == before


def test_the_pipeline_keeps_them() -> None:
    network = network_of(linear("@q, @rows"), CONSTANTS)
    optimize(network)
    assert "int8[6,8]" in text(network)
    assert [layer.kind.name for layer in network.layers] == ["matmul"]
    before = text(network)
    optimize(network)
    assert text(network) == before


def converted(weight: str = "@q", x: str = "%x", type: str = "float32[2,3,6]") -> str:
    """A matmul by a weight made float, without a scale, which its epilogue has."""
    return (
        HEADER + pointwise("w", weight, "to_float32(i0)", "float32[6,8]")
        + f'%y = matmul({x}, %w, @b) {{"transpose_b":true}} epilogue mul(i0,i1) -> {type}\n'
        "output y = %y\n"
    )


def test_weights_made_float_are_read_as_they_are_stored() -> None:
    network = check_fires(
        StoredWeightIntoMatmul(), converted(), kinds=["matmul"], constants=CONSTANTS
    )
    assert "matmul(%x, @q, @b)" in text(network)
    network = network_of(converted(), CONSTANTS)
    optimize(network)
    assert "int8[6,8]" in text(network)


@pytest.mark.parametrize("source", [
    converted("@u"),
    converted().replace("output y", "output w = %w\noutput y"),
    converted().replace('"transpose_b"', '"transpose_a":true,"transpose_b"')
    .replace("%x, %w", "%a, %w").replace("input %t", "input %a: float32[2,8,3]\ninput %t"),
])
def test_weights_made_float_that_others_need_become_constants(source: str) -> None:
    network = network_of(source, CONSTANTS)
    fusion = StoredWeightIntoMatmul()
    assert all(fusion.match(network, layer) is None for layer in network.layers)
    optimize(network)
    assert [layer.kind.name for layer in network.layers] == ["matmul"]
    assert "float32[6,8]" in text(network)


def test_a_transposed_operand_is_refused() -> None:
    source = linear("@q, @rows").replace('"transpose_b"', '"transpose_a":true,"transpose_b"')
    source = source.replace("%x, %w", "%a, %w").replace(
        "input %t", "input %a: float32[2,8,3]\ninput %t"
    )
    check_refused(
        StoredWeightIntoMatmul(), source, reason="its first operand is transposed",
        constants=CONSTANTS,
    )
