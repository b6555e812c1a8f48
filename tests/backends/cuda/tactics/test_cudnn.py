"""CuDNN's tactics against the reference: interpreted here, and by cuDNN on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cuda_testing import (
    TACTICS,
    TestedDevice,
    assert_refused,
    check_cuda_tactic,
    cuda_spec,
    with_pitches,
)
from cudnn_interpreter import interpreted_plans

from torch2rt.backends.backend import find_tactic
from torch2rt.layers.attention import Attention
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.layers.matmul import Matmul

DTYPES = [torch.float16, torch.bfloat16]
HALF = torch.float16
HEADS_LAST = {
    "query_heads_last": True, "key_heads_last": True, "value_heads_last": True,
    "output_heads_last": True,
}
# Of a product of numbers with 10 bits of mantissa, as float16 has.
TF32_TOLERANCE = 2e-3


@pytest.fixture(autouse=True)
def _plans(cuda_device: TestedDevice, request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("gpu") is not None:
        yield
    else:
        with interpreted_plans():
            yield


def rand(*shape: int, dtype: torch.dtype = HALF) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def conv(
    size: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1, axes: int = 2,
    before: int | None = None, tf32: bool = False,
) -> Convolution:
    after = (size - 1) * dilation // 2
    return Convolution(
        (stride,) * axes, (after if before is None else before,) * axes, (after,) * axes,
        (dilation,) * axes, groups, tf32,
    )


CONVOLUTIONS = {
    "1x1": (conv(), (2, 16, 5, 7), (24, 16, 1, 1)),
    "3x3": (conv(3), (2, 16, 9, 7), (24, 16, 3, 3)),
    "stride": (conv(3, stride=2), (1, 16, 9, 8), (8, 16, 3, 3)),
    "dilation": (conv(3, dilation=2), (1, 16, 9, 8), (8, 16, 3, 3)),
    "asymmetric": (conv(3, stride=2, before=0), (1, 16, 8, 8), (8, 16, 3, 3)),
    "groups": (conv(3, groups=2), (2, 32, 6, 6), (32, 16, 3, 3)),
    "one pixel": (conv(), (3, 16, 1, 1), (24, 16, 1, 1)),
    "one row": (conv(3, axes=1), (2, 16, 11), (24, 16, 3)),
    "volume": (conv(3, axes=3), (1, 16, 4, 5, 6), (16, 16, 3, 3, 3)),
}


def bias_like(channels: int, axes: int) -> torch.Tensor:
    return rand(channels, *(1,) * axes, dtype=torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case: str, dtype: torch.dtype) -> None:
    kind, x, w = CONVOLUTIONS[case]
    inputs = [rand(*x, dtype=dtype), rand(*w, dtype=dtype), bias_like(w[0], len(w) - 2)]
    check_cuda_tactic(
        "convolution.cudnn.plan0", kind, inputs, "relu(add(i0,i1))", constants=[1, 2]
    )


def test_convolution_without_epilogue() -> None:
    check_cuda_tactic(
        "convolution.cudnn.plan0", conv(3), [rand(2, 16, 6, 6), rand(16, 16, 3, 3)],
        constants=[1],
    )


def test_convolution_with_computed_weights() -> None:
    check_cuda_tactic(
        "convolution.cudnn.plan0", conv(3), [rand(2, 16, 6, 6), rand(16, 16, 3, 3)]
    )


ACTIVATIONS = [
    "relu(i0)", "clamp(i0,0.0,6.0)", "clamp(i0,-1.0,inf)", "clamp(i0,-inf,1.5)", "sigmoid(i0)",
    "tanh(i0)", "silu(i0)", "gelu(i0)", "gelu_tanh(i0)", "hardswish(i0)", "hardsigmoid(i0)",
    "leaky_relu(i0,0.1)", "elu(i0,1.0)", "abs(i0)", "exp(mul(i0,0.1))", "erf(i0)",
    "square(i0)", "pow(i0,2)", "pow(i0,3.0)", "sub(1,i0)", "sub(i0,2.5)", "div(i0,3)",
    "div(2,add(abs(i0),1.0))", "max(i0,0.5)", "min(0.5,i0)", "mul(i0,sigmoid(i0))",
    "mul(0.5,mul(i0,add(1.0,tanh(mul(0.8,i0)))))", "to_float32(i0)", "sqrt(abs(i0))",
    "log(add(abs(i0),1.0))", "rsqrt(add(abs(i0),1.0))", "reciprocal(add(abs(i0),1.0))",
    "neg(i0)", "floor(i0)", "ceil(i0)", "sin(i0)", "cos(i0)",
]


@pytest.mark.parametrize("text", ACTIVATIONS)
def test_activations(text: str) -> None:
    # Halves of small integers, so that steps of floor and ceil are not a matter of rounding.
    x = torch.randint(-2, 3, (1, 16, 4, 4)).half()
    w = torch.randint(-2, 3, (16, 16, 1, 1)).half() / 16
    bias = torch.full((16, 1, 1), 0.03125)
    check_cuda_tactic(
        "convolution.cudnn.plan0", conv(), [x, w, bias], text.replace("i0", "add(i0,i1)"),
        constants=[1, 2],
    )


EPILOGUES = {
    "bias and residual": ("relu(add(add(i0,i1),i2))", ("bias", "image")),
    "residual first": ("add(i1,relu(add(i0,i2)))", ("image", "bias")),
    "scale": ("add(mul(i0,i1),i2)", ("bias", "bias")),
    "less": ("sub(i1,i0)", ("image",)),
    "minus": ("sub(i0,i1)", ("image",)),
    "over": ("div(i1,add(abs(i0),1.0))", ("image",)),
    "divided": ("div(i0,i1)", ("positive",)),
    "one number": ("mul(i0,i1)", ("number",)),
    "gate": ("mul(i1,sigmoid(i0))", ("image",)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", EPILOGUES)
def test_epilogue_operands(case: str, dtype: torch.dtype) -> None:
    text, names = EPILOGUES[case]
    operands = {
        "bias": bias_like(24, 2), "image": rand(2, 24, 5, 5, dtype=dtype),
        "positive": rand(2, 24, 5, 5, dtype=dtype).abs() + 1, "number": torch.tensor([1.5]),
    }
    inputs = [rand(2, 16, 5, 5, dtype=dtype), rand(24, 16, 1, 1, dtype=dtype)]
    inputs += [operands[name] for name in names]
    check_cuda_tactic("convolution.cudnn.plan0", conv(), inputs, text, constants=[1])


@pytest.mark.parametrize(
    "pitched", [{"i0": 1}, {"o0": 1}, {"i2": 1}, {"i0": 1, "o0": 1, "i2": 1}], ids=str
)
def test_convolution_inside_wider_tensors(pitched: dict[str, int]) -> None:
    inputs = [rand(2, 16, 5, 6), rand(24, 16, 3, 3), rand(2, 24, 5, 6)]
    check_cuda_tactic(
        "convolution.cudnn.plan0", conv(3), inputs, "relu(add(i0,i1))", constants=[1],
        pitched=pitched,
    )


@pytest.mark.parametrize("pitched", [{"i0": 2}, {"o0": 3}, {"i2": 2}], ids=str)
def test_no_gaps_between_rows_or_images(pitched: dict[str, int]) -> None:
    inputs = [rand(2, 16, 5, 6), rand(24, 16, 3, 3), rand(2, 24, 5, 6)]
    spec = cuda_spec(conv(3), inputs, "relu(add(i0,i1))", [1])
    tactic = find_tactic(TACTICS, "convolution.cudnn.plan0")
    chosen = with_pitches(spec.with_layouts(tactic.layouts(spec)[0]), pitched)
    assert not tactic.takes_pitch(chosen)


@pytest.mark.parametrize("tf32", [False, True])
def test_convolution_in_float32(tf32: bool) -> None:
    single = torch.float32
    inputs = [rand(2, 16, 9, 7, dtype=single), rand(24, 16, 3, 3, dtype=single), bias_like(24, 2)]
    check_cuda_tactic(
        "convolution.cudnn.plan0", conv(3, tf32=tf32), inputs, "relu(add(i0,i1))",
        constants=[1, 2], tolerance=TF32_TOLERANCE if tf32 else None,
    )


DECONVOLUTIONS = {
    "2x2": (Deconvolution((2, 2), (0, 0), (0, 0), (1, 1)), (2, 16, 5, 6), (16, 24, 2, 2)),
    "4x4": (Deconvolution((2, 2), (1, 1), (1, 1), (1, 1)), (2, 16, 5, 6), (16, 24, 4, 4)),
    "longer": (Deconvolution((2, 2), (1, 1), (0, 0), (1, 1)), (2, 16, 5, 6), (16, 8, 3, 3)),
    "beyond": (Deconvolution((2, 2), (0, 0), (-1, -1), (1, 1)), (2, 16, 5, 6), (16, 8, 3, 3)),
    "groups": (Deconvolution((2, 2), (1, 1), (1, 1), (1, 1), 2), (1, 32, 5, 6), (32, 16, 4, 4)),
    "one row": (Deconvolution((2,), (1,), (1,), (1,)), (2, 16, 7), (16, 24, 4)),
}


@pytest.mark.parametrize("epilogue", [None, "relu(add(i0,i1))"])
@pytest.mark.parametrize("case", DECONVOLUTIONS)
def test_deconvolution(case: str, epilogue: str | None) -> None:
    kind, x, w = DECONVOLUTIONS[case]
    inputs = [rand(*x), rand(*w)]
    if epilogue is not None and kind.groups > 1:
        inputs.append(bias_like(w[1] * kind.groups, 2))
        assert_refused(
            "deconvolution.cudnn.plan0", kind, inputs, epilogue, reason="groups", constants=[1]
        )
        return
    if epilogue is not None:
        inputs.append(bias_like(w[1] * kind.groups, len(w) - 2))
    check_cuda_tactic(
        "deconvolution.cudnn.plan0", kind, inputs, epilogue,
        constants=range(1, len(inputs)),
    )


LINEAR = Matmul(transpose_b=True)
MATMULS = {
    "linear": (LINEAR, (3, 5, 16), (24, 16)),
    "one row": (LINEAR, (1, 64), (40, 64)),
    "matrices": (Matmul(), (7, 16), (16, 24)),
    "stack": (Matmul(), (2, 3, 7, 16), (2, 3, 16, 24)),
    "stack of transposed": (LINEAR, (2, 3, 7, 16), (2, 3, 24, 16)),
    "left transposed": (Matmul(transpose_a=True), (3, 16, 8), (3, 16, 24)),
    "one left matrix": (Matmul(), (8, 16), (3, 16, 24)),
    "one right matrix": (Matmul(transpose_a=True), (3, 16, 8), (16, 24)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", MATMULS)
def test_matmul(case: str, dtype: torch.dtype) -> None:
    kind, a, b = MATMULS[case]
    check_cuda_tactic(
        "matmul.cudnn.plan0", kind, [rand(*a, dtype=dtype), rand(*b, dtype=dtype)]
    )


@pytest.mark.parametrize("text", ["gelu(add(i0,i1))", "add(add(i0,i1),i2)"])
def test_linear_with_bias_and_residual(text: str) -> None:
    inputs = [rand(3, 5, 16), rand(24, 16), rand(24, dtype=torch.float32), rand(3, 5, 24)]
    count = 4 if "i2" in text else 3
    check_cuda_tactic(
        "matmul.cudnn.plan0", LINEAR, inputs[:count], text, constants=[1, 2]
    )


def test_matmul_inside_wider_tensors() -> None:
    inputs = [rand(3, 5, 16), rand(24, 16), rand(3, 5, 24)]
    check_cuda_tactic(
        "matmul.cudnn.plan0", LINEAR, inputs, "add(i0,i1)", constants=[1],
        pitched={"i0": 1, "o0": 1, "i2": 1},
    )


def test_matmul_in_tf32() -> None:
    inputs = [rand(6, 16, dtype=torch.float32), rand(24, 16, dtype=torch.float32)]
    check_cuda_tactic(
        "matmul.cudnn.plan0", Matmul(transpose_b=True, tf32=True), inputs, constants=[1],
        tolerance=TF32_TOLERANCE,
    )


ATTENTIONS = {
    "plain": (Attention(0.25), (2, 3, 10, 16), (2, 3, 12, 16), (2, 3, 12, 16)),
    "causal": (Attention(0.25, is_causal=True), *[(2, 3, 10, 16)] * 3),
    "heads last": (Attention(0.25, **HEADS_LAST), *[(2, 10, 3, 16)] * 3),
    "three axes": (Attention(0.25), *[(3, 10, 16)] * 3),
    "grouped": (Attention(0.25, is_grouped=True), (2, 4, 9, 16), *[(2, 2, 9, 16)] * 2),
    "one query": (Attention(0.25), (2, 3, 1, 16), *[(2, 3, 12, 16)] * 2),
    "long": (Attention(0.125, **HEADS_LAST), *[(1, 197, 2, 64)] * 3),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention(case: str, dtype: torch.dtype) -> None:
    kind, *shapes = ATTENTIONS[case]
    check_cuda_tactic(
        "attention.cudnn.plan0", kind, [rand(*shape, dtype=dtype) for shape in shapes]
    )


def test_attention_inside_a_wider_tensor() -> None:
    check_cuda_tactic(
        "attention.cudnn.plan0", Attention(0.25, **HEADS_LAST), [rand(2, 10, 3, 16)] * 3,
        pitched={"i0": 2, "i1": 2, "i2": 2, "o0": 2},
    )


def few(channels: int) -> list[torch.Tensor]:
    return [rand(1, channels, 8, 8), rand(16, channels, 3, 3)]


WHOLE = [rand(1, 16, 8, 8), rand(16, 16, 3, 3)]
REFUSALS = {
    "channels": (conv(3), few(3), None, "rows of 3"),
    "depthwise": (conv(3, groups=16), [WHOLE[0], rand(16, 1, 3, 3)], None, "rows of 1"),
    "int": (conv(3), [x.to(torch.int32) for x in WHOLE], None, "int32"),
    "op": (conv(3), WHOLE, "exp2(i0)", "no exp2"),
    "round": (conv(3), WHOLE, "to_float16(i0)", "no to_float16"),
    "nan": (conv(3), WHOLE, "add(i0,nan)", "constant nan"),
    "constants": (conv(3), WHOLE, "add(i0,exp(1.0))", "constants alone"),
    "slope": (conv(3), [*WHOLE, rand(1)], "leaky_relu(i0,i1)", "not a constant"),
    "per image": (conv(3), [*WHOLE, rand(1, 16, 1, 8)], "mul(i0,i1)", "epilogue input"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_of_convolution(case: str) -> None:
    kind, inputs, text, reason = REFUSALS[case]
    assert_refused("convolution.cudnn.plan0", kind, inputs, text, reason=reason, constants=[1])


def test_refusals_of_the_others() -> None:
    q = rand(1, 2, 8, 16)
    attention, matmul = "attention.cudnn.plan0", "matmul.cudnn.plan0"
    assert_refused(
        attention, Attention(1.0, has_mask=True), [q, q, q, rand(8, 8)], reason="a mask"
    )
    assert_refused(attention, Attention(1.0), [q.float()] * 3, reason="float32")
    assert_refused(attention, Attention(1.0), [q[..., :12]] * 3, reason="12 features")
    assert_refused(attention, Attention(1.0), [q, q[:, :1], q], reason="broadcast")
    assert_refused(matmul, LINEAR, [rand(4, 12), rand(16, 12)], reason="rows of 12")
    mixed = [rand(2, 3, 8, 16), rand(1, 3, 16, 8)]
    assert_refused(matmul, Matmul(), mixed, reason="some matrices repeat")
    cut = Deconvolution((1, 1), (0, 0), (-1, -1), (1, 1))
    assert_refused(
        "deconvolution.cudnn.plan0", cut, [rand(1, 16, 5, 5), rand(16, 16, 3, 3)],
        reason="behind the last pixel",
    )
