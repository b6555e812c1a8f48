"""Attention over dequantized tensors: where it becomes attention over float8, and where not."""

from __future__ import annotations

import numpy as np
import pytest
from fusion_testing import check_fires, check_refused

from torch2rt.fusions.dequantize_into_attention import DequantizeIntoAttention
from torch2rt.network.dtype import Array

SCALES: dict[str, Array] = {
    "a": np.array(0.5, np.float32), "b": np.array(0.25, np.float32),
    "c": np.array(2.0, np.float32),
}
FLOAT32 = '{"dtype":{"dtype":"float32"}}'


def operands(dtype: str = "float8_e4m3fn", key: str = "%k8, @b", value: str = "%v8, @c") -> str:
    return (
        f"input %q8: {dtype}[2,3,5,4]\ninput %k8: {dtype}[2,3,7,4]\ninput %v8: {dtype}[2,3,7,6]\n"
        "constant @a: float32[]\nconstant @b: float32[]\nconstant @c: float32[]\n"
        f"%q = dequantize(%q8, @a) {FLOAT32} -> float32[2,3,5,4]\n"
        f"%k = dequantize({key}) {FLOAT32} -> float32[2,3,7,4]\n"
        f"%v = dequantize({value}) {FLOAT32} -> float32[2,3,7,6]\n"
    )


ATTENTION = '%y = attention(%q, %k, %v) {"scale":0.5} -> float32[2,3,5,6]\noutput y = %y\n'


def test_scales_are_of_scores_and_result() -> None:
    line = '%y = attention(%q8, %k8, %v8) {"scale":0.0625} epilogue mul(i0,2.0) -> ' \
           "float32[2,3,5,6]"
    check_fires(
        DequantizeIntoAttention(), operands() + ATTENTION, kinds=["attention"], lines=[line],
        constants=SCALES,
    )


def test_masks_stay_what_they_are() -> None:
    source = "input %m: float32[5,7]\n" + operands() + (
        '%y = attention(%q, %k, %v, %m) {"scale":0.5,"has_mask":true,"is_causal":true} -> '
        "float32[2,3,5,6]\noutput y = %y\n"
    ).replace(',"is_causal":true', "")
    check_fires(
        DequantizeIntoAttention(), source, kinds=["attention"],
        lines=["attention(%q8, %k8, %v8, %m)"], constants=SCALES,
    )


def test_one_tensor_as_all_three() -> None:
    source = (
        "input %x8: float8_e4m3fn[2,5,4]\nconstant @a: float32[]\n"
        f"%x = dequantize(%x8, @a) {FLOAT32} -> float32[2,5,4]\n"
        '%y = attention(%x, %x, %x) {"scale":0.5} -> float32[2,5,4]\noutput y = %y\n'
    )
    check_fires(
        DequantizeIntoAttention(), source, kinds=["attention"], constants=SCALES,
        lines=['attention(%x8, %x8, %x8) {"scale":0.125} epilogue mul(i0,0.5)'],
    )


def test_other_readers_keep_the_dequantize_layer() -> None:
    check_fires(
        DequantizeIntoAttention(), operands() + ATTENTION + "output k = %k\n",
        kinds=["dequantize", "attention"], constants=SCALES,
    )


def test_an_epilogue_stays_behind_the_scale() -> None:
    source = operands() + (
        '%y = attention(%q, %k, %v) {"scale":0.5} epilogue relu(i0) -> float32[2,3,5,6]\n'
        "output y = %y\n"
    )
    check_fires(
        DequantizeIntoAttention(), source, kinds=["attention"],
        lines=["epilogue relu(mul(i0,2.0))"], constants=SCALES,
    )


ZERO = "constant @z: int32[]\n"
CHANNELS = "constant @s: float32[6]\n"


@pytest.mark.parametrize(("source", "reason"), [
    (operands("int8"), "its query is int8"),
    (CHANNELS + operands(value="%v8, @s"), "the scale of its value is not one constant"),
    ("input %s: float32[]\n" + operands(key="%k8, %s"), "the scale of its key is not one constant"),
    (ZERO + operands(key="%k8, @b, @z"), "the zero point of its key is not 0"),
    (operands().replace("%v = dequantize(%v8, @c)", "%w = dequantize(%v8, @c)")
     + "input %v: float32[2,3,7,6]\noutput w = %w\n", "its value is not dequantized"),
])
def test_refusals(source: str, reason: str) -> None:
    inputs = [line for line in source.splitlines() if line.startswith("input")]
    rest = [line for line in source.splitlines() if not line.startswith(("input", "output"))]
    outputs = [line for line in source.splitlines() if line.startswith("output")]
    text = "\n".join([*inputs, *rest, ATTENTION.rstrip(), *outputs, ""])
    check_refused(
        DequantizeIntoAttention(), text, reason=reason,
        constants={**SCALES, "z": np.array(3, np.int32)},
    )


def test_floats_do_not_match() -> None:
    source = (
        "input %q: float32[2,3,5,4]\ninput %k: float32[2,3,7,4]\ninput %v: float32[2,3,7,6]\n"
    )
    check_refused(DequantizeIntoAttention(), source + ATTENTION, reason="")
