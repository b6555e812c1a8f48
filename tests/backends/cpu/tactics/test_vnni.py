"""Convolutions of bytes by our own kernels: sums exactly, epilogues rounded as the reference."""

from collections.abc import Sequence

import pytest
import tactic_testing
import torch
from tactic_testing import check_tactic

from torch2rt.backends.cpu.backend import CpuBackend
from torch2rt.backends.cpu.jit import jit_unavailable
from torch2rt.backends.cpu.jit.compiler import has_byte_products
from torch2rt.backends.cpu.vnni.field import Entry
from torch2rt.backends.cpu.vnni.plan import BytesPrepared
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import DType

if jit_unavailable() is not None or not has_byte_products():
    pytest.skip("needs llvmlite and a CPU with AVX512_VNNI", allow_module_level=True)

NAMES = ("convolution.vnni.p7", "convolution.vnni.p14")
# Of values rounded to 8 bits so many may fall to the other side of a boundary.
FLIPS = 2e-3
STORED = {
    DType.UINT8: "to_uint8(clamp(round({}),0.0,255.0))",
    DType.INT8: "to_int8(clamp(round({}),-128.0,127.0))",
}


def stored(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    low, high = (0, 256) if dtype == torch.uint8 else (-128, 128)
    return torch.randint(low, high, shape, dtype=torch.int64).to(dtype)


def weight(*shape: int) -> torch.Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int64).to(torch.int8)


def window(size: int, stride: int = 1, dilation: int = 1) -> Convolution:
    half = (size // 2 * dilation,) * 2
    return Convolution((stride, stride), half, half, (dilation, dilation), 1)


# channels, output channels, image, window
SHAPES = {
    "1x1": ((64, 64), (14, 14), window(1)),
    "1x1, narrow last panel": ((20, 48), (5, 9), window(1)),
    "1x1, one register": ((12, 16), (3, 5), window(1)),
    "1x1, large images": ((4, 16), (48, 48), window(1)),
    "1x1 by 2": ((32, 80), (9, 7), window(1, 2)),
    "3x3": ((16, 64), (8, 14), window(3)),
    "3x3, many columns": ((8, 32), (4, 30), window(3)),
    "3x3, one column": ((8, 32), (5, 1), window(3)),
    "3x3 by 2": ((24, 96), (15, 12), window(3, 2)),
    "3x3 of distant pixels": ((4, 48), (11, 9), window(3, 1, 2)),
    "5x5": ((4, 32), (7, 6), window(5)),
    "padded on one side": ((8, 16), (6, 7), Convolution((2, 2), (0, 0), (1, 1), (1, 1), 1)),
    "wide": ((8, 16), (6, 7), Convolution((1, 1), (0, 2), (0, 1), (1, 1), 1)),
}
SIZES = {"padded on one side": (3, 3), "wide": (1, 4)}


def operands(name: str) -> tuple[Convolution, torch.Tensor, torch.Tensor]:
    (channels, k), image, kind = SHAPES[name]
    size = SIZES.get(name, (int(name[0]), int(name[0])) if name[0].isdigit() else (3, 3))
    return kind, stored(torch.uint8, 2, channels, *image), weight(k, channels, *size)


@pytest.mark.parametrize("tactic", NAMES)
@pytest.mark.parametrize("name", SHAPES)
def test_sums_are_exact(tactic: str, name: str) -> None:
    kind, x, w = operands(name)
    check_tactic(tactic, kind, [x, w], constants=[1], exact=True)


@pytest.mark.parametrize(("dtype", "value"), [(torch.uint8, 255), (torch.int8, -128)])
def test_the_largest_sums_are_exact(dtype: torch.dtype, value: int) -> None:
    x = torch.full((1, 512, 4, 4), value, dtype=dtype)
    w = torch.full((64, 512, 3, 3), -127, dtype=torch.int8)
    check_tactic("convolution.vnni.p7", window(3), [x, w], constants=[1], exact=True)


# Signed bytes, and channels that come not by four, are copied first.
COPIED = {
    "stem": ((3, 64), (16, 24), window(7, 2)),
    "small stem": ((3, 32), (9, 22), window(3, 2)),
    "one channel": ((1, 16), (6, 64), window(5)),
    "1x1": ((6, 80), (5, 11), window(1)),
    "many channels": ((16, 80), (7, 9), window(3)),
    "many channels, distant pixels": ((8, 16), (6, 9), window(3, 1, 2)),
    "many channels, 1x1": ((32, 48), (6, 5), window(1)),
    "padded on one side": ((5, 16), (6, 15), Convolution((2, 2), (0, 0), (1, 1), (1, 1), 1)),
    "outside the image": ((8, 16), (6, 9), Convolution((1, 1), (4, 5), (4, 5), (1, 1), 1)),
}
SIZES |= {"stem": (7, 7), "one channel": (5, 5)}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("name", COPIED)
def test_sums_of_a_copied_input_are_exact(name: str, dtype: torch.dtype) -> None:
    (channels, k), image, kind = COPIED[name]
    size = SIZES.get(name, (1, 1) if "1x1" in name else (3, 3))
    x, w = stored(dtype, 2, channels, *image), weight(k, channels, *size)
    if dtype is torch.int8 or channels % 4:
        check_tactic("convolution.vnni.p7", kind, [x, w], constants=[1], exact=True)


@pytest.mark.parametrize("threads", [1, 3, 4])
def test_other_numbers_of_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tactic_testing, "BACKEND", CpuBackend(threads=threads))
    for name, dtype in (("stem", torch.int8), ("many channels", torch.uint8)):
        (channels, k), image, kind = COPIED[name]
        size = SIZES.get(name, (3, 3))
        x, w = stored(dtype, 1, channels, *image), weight(k, channels, *size)
        check_tactic("convolution.vnni.p14", kind, [x, w], constants=[1], exact=True)


def test_a_signed_input_with_an_epilogue() -> None:
    kinds, expression = EPILOGUES["residual"]
    check_tactic(
        "convolution.vnni.p7", window(1),
        [stored(torch.int8, 1, 32, 9, 7), weight(80, 32, 1, 1),
         *further(kinds, (1, 80, 9, 7), 32, torch.int8)],
        STORED[DType.INT8].format(expression), out_dtype=DType.INT8, constants=[1, 2, 3],
        tolerance=FLIPS,
    )


def scales(k: int, terms: int) -> torch.Tensor:
    return torch.rand(k, 1, 1) * 0.012 / terms**0.5 + 0.001 / terms**0.5


# The inputs behind the sums: s and b are scales and biases, r a residual of bytes, f one of floats.
EPILOGUES = {
    "scale": ("s", "mul(to_float32(i0),i1)"),
    "scale and bias": ("sb", "add(mul(to_float32(i0),i1),i2)"),
    "relu6 in few steps": ("sb", "clamp(add(mul(to_float32(i0),i1),i2),0.0,100.25)"),
    "hardswish": ("sb", "mul(hardswish(mul(add(mul(to_float32(i0),i1),i2),0.04)),20.0)"),
    "residual": ("sbr", "relu(add(add(mul(to_float32(i0),i1),i2),mul(to_float32(i3),0.731)))"),
    "of one step": ("sbr", "add(add(mul(to_float32(i0),i1),i2),to_float32(i3))"),
    "behind relu": ("sbr", "add(relu(add(mul(to_float32(i0),i1),i2)),mul(to_float32(i3),1.7))"),
    "floats": ("sf", "add(mul(to_float32(i0),i1),i2)"),
    "one scale": ("b", "add(mul(to_float32(i0),0.0007),i1)"),
    "one number": ("1", "mul(mul(to_float32(i0),0.0007),i1)"),
}


def further(
    kinds: str, image: Sequence[int], terms: int, residual: torch.dtype
) -> list[torch.Tensor]:
    k = image[1]
    makers = {
        "s": lambda: scales(k, terms), "b": lambda: torch.randn(k, 1, 1) * 20,
        "r": lambda: stored(residual, *image), "f": lambda: torch.randn(*image) * 20,
        "1": lambda: torch.tensor([1.25]).reshape(1, 1, 1),
    }
    return [makers[kind]() for kind in kinds]


@pytest.mark.parametrize("target", [DType.UINT8, DType.INT8, DType.FLOAT32])
@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogues(name: str, target: DType) -> None:
    kinds, expression = EPILOGUES[name]
    residual = torch.int8 if target is DType.UINT8 else torch.uint8
    check_tactic(
        "convolution.vnni.p7", window(3),
        [stored(torch.uint8, 2, 16, 9, 7), weight(80, 16, 3, 3),
         *further(kinds, (2, 80, 9, 7), 144, residual)],
        STORED.get(target, "{}").format(expression), out_dtype=target,
        constants=[1, *(2 + index for index, kind in enumerate(kinds) if kind in "sb1")],
        tolerance=FLIPS if not target.is_float else None,
    )


@pytest.mark.parametrize("tactic", NAMES)
def test_halves_are_rounded_to_even_and_what_is_out_of_range_is_clamped(tactic: str) -> None:
    x = torch.arange(0, 256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 4, 1, 1)
    w = torch.zeros(64, 4, 1, 1, dtype=torch.int8)
    w[:, 0] = torch.arange(-32, 32, dtype=torch.int8).reshape(64, 1, 1)
    for target, text in STORED.items():
        for factor in ("0.5", "-3e7"):
            check_tactic(
                tactic, window(1), [x, w], text.format(f"mul(to_float32(i0),{factor})"),
                constants=[1], out_dtype=target,
            )


@pytest.mark.parametrize("tactic", NAMES)
@pytest.mark.parametrize("residual", [torch.uint8, torch.int8])
def test_a_residual_is_added_in_place(residual: torch.dtype, tactic: str) -> None:
    kinds, expression = EPILOGUES["residual"]
    made = check_tactic(
        tactic, window(3),
        [stored(torch.uint8, 1, 64, 8, 8), weight(64, 64, 3, 3),
         *further(kinds, (1, 64, 8, 8), 576, residual)],
        STORED[DType.UINT8].format(expression), constants=[1, 2, 3], out_dtype=DType.UINT8,
        tolerance=FLIPS,
    )
    assert made[0].may_overwrite == (4,)


def test_layers_that_differ_in_literals_share_a_kernel() -> None:
    def kernels(factor: float) -> set[int]:
        made = check_tactic(
            "convolution.vnni.p7", window(1),
            [stored(torch.uint8, 1, 16, 4, 5), weight(16, 16, 1, 1)],
            STORED[DType.INT8].format(f"mul(to_float32(i0),{factor})"), constants=[1],
            out_dtype=DType.INT8, tolerance=FLIPS,
        )
        assert isinstance(made[0], BytesPrepared)
        return set(made[0].keep[1][:, Entry.kernel].tolist())

    assert kernels(0.00071) == kernels(0.0123)


BYTES = (torch.uint8, torch.int8)


@pytest.mark.parametrize(
    ("kind", "x", "w", "dtypes", "reason"),
    [
        (window(1), (1, 8, 4, 4), (16, 8, 1, 1), BYTES[::-1], "bytes by signed bytes"),
        (window(1), (1, 6, 4, 9), (16, 6, 1, 1), BYTES, "less than 64 bytes are not copied"),
        (window(3, 1, 2), (1, 6, 5, 15), (16, 6, 3, 3), BYTES, "the taps of a row are apart"),
        (window(1), (1, 8, 4, 4), (24, 8, 1, 1), BYTES, "no multiple of 16"),
        (Convolution((1, 1), (0, 0), (0, 0), (1, 1), 2), (1, 8, 4, 4), (16, 4, 1, 1), BYTES,
         "one group"),
        (Convolution((1,), (0,), (0,), (1,), 1), (1, 8, 4), (16, 8, 1), BYTES,
         "written for images"),
        (Convolution((1, 1), (3, 3), (3, 3), (1, 1), 1), (1, 8, 4, 4), (16, 8, 2, 2), BYTES,
         "outside the image"),
        (window(1), (0, 8, 4, 4), (16, 8, 1, 1), BYTES, "the output is empty"),
    ],
)
def test_layers_that_are_refused(
    kind: Convolution, x: Sequence[int], w: Sequence[int], dtypes: tuple[torch.dtype, torch.dtype],
    reason: str,
) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_tactic(NAMES[0], kind, [stored(dtypes[0], *x), stored(dtypes[1], *w)], constants=[1])


@pytest.mark.parametrize(
    ("epilogue", "target", "reason"),
    [
        ("sin(mul(to_float32(i0),0.1))", DType.FLOAT32, "the kernel has no sin"),
        ("mul(to_float32(i0),i1)", DType.BFLOAT16, "bfloat16 is not what the kernel stores"),
        ("mul(to_float32(i0),i1)", DType.FLOAT32, "neither like the output nor a constant"),
        ("to_int8(mul(to_float32(i0),0.1))", DType.INT8, "not rounded and clamped"),
    ],
)
def test_epilogues_that_are_refused(epilogue: str, target: DType, reason: str) -> None:
    others = [torch.randn(1, 16, 1, 4)] if "i1" in epilogue else []
    with pytest.raises(AssertionError, match=reason):
        check_tactic(
            NAMES[0], window(1), [stored(torch.uint8, 1, 8, 4, 4), weight(16, 8, 1, 1), *others],
            epilogue, constants=[1], out_dtype=target,
        )


def test_weights_that_are_computed_are_refused() -> None:
    with pytest.raises(AssertionError, match="the weights are no constant"):
        check_tactic(NAMES[0], window(1), [stored(torch.uint8, 1, 8, 4, 4), weight(16, 8, 1, 1)])


@pytest.mark.parametrize("name", [*NAMES, "convolution.vnni.depthwise"])
def test_a_plan_that_claims_what_is_refused_is_not_prepared(name: str) -> None:
    inputs = [stored(torch.uint8, 1, 8, 4, 4), weight(24, 8, 1, 1)]
    spec = tactic_testing.make_spec(window(1), inputs, None, [1])
    weights = tactic_testing.DictWeights({"c1": inputs[1].numpy()})
    with pytest.raises(Unprepared, match=r"no multiple of 16|a group per channel"):
        tactic_testing.BACKEND.tactics[name].prepare(spec, weights)
