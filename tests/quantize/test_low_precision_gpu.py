"""Float8 and weights in 8 bits on a GPU: transformer blocks as whole engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.devices import open_backend
from torch2rt.network.dtype import DType

pytestmark = pytest.mark.gpu

WIDTH = 256
# As in test_float8 and test_weights: what rounding both factors of a product to float8, and
# rounding an evenly drawn weight to int8, takes from a sum.
FLOAT8_LOSS = 2**0.5 / 8 / 12**0.5 / 1.53
WEIGHT_LOSS = 3**0.5 / 127 / 12**0.5


class Block(nn.Module):
    """A transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            part.unflatten(-1, (4, -1)).transpose(1, 2)
            for part in self.qkv(self.first(x)).chunk(3, -1)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval().cuda()


def convert(
    model: nn.Module, x: torch.Tensor, folder: Path, precision: object, **options: object
) -> torch2rt.RTModule:
    return torch2rt.convert(
        model, x, precision=precision, progress=False, timing_cache=folder / "times.jsonl",
        **options,
    )


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


def products(rt: torch2rt.RTModule, kind: str = "matmul") -> dict[str, tuple[DType, ...]]:
    return {
        layer.name: (*(t.dtype for t in layer.main_inputs), layer.output.dtype)
        for layer in rt.engine.network.layers if layer.kind.name == kind
    }


def tactics(rt: torch2rt.RTModule) -> dict[str, str]:
    return {step.layer: step.tactic for plan in rt.engine.plans for step in plan.steps}


@pytest.mark.parametrize("rows", [(2, 37), (8, 384)])
def test_a_block_in_float8(block: nn.Module, rows: tuple[int, int], tmp_path: Path) -> None:
    reason = open_backend("cuda").lacks_float8()
    if reason is not None:
        pytest.skip(reason)
    x = torch.randn(*rows, WIDTH, device="cuda")
    rt = convert(block, x, tmp_path, {"*": "fp8"}, calibration=[x])
    assert rt.engine.precision == "fp8"
    found = products(rt)
    assert {dtypes[:2] for dtypes in found.values()} == {(DType.FLOAT8_E4M3,) * 2}
    assert found["mlp.0"][2] is found["qkv"][2] is DType.FLOAT8_E4M3
    assert list(products(rt, "attention").values()) == [(DType.FLOAT8_E4M3,) * 4]
    assert "any.torch.reference" not in tactics(rt).values(), tactics(rt)
    share = error(x, block(x))  # what the residual stream carries past the products is exact
    assert 0.2 * FLOAT8_LOSS * share < error(rt(x), block(x)) < 2 * FLOAT8_LOSS * share


class Attending(nn.Module):
    """Separate projections, as in BERT: causal, with a mask, or with fewer heads of keys."""

    def __init__(self, key_heads: int = 4, is_causal: bool = False, has_mask: bool = False) -> None:
        super().__init__()
        width = WIDTH // 4 * key_heads
        self.q, self.k, self.v = (nn.Linear(WIDTH, n) for n in (WIDTH, width, width))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.key_heads, self.is_causal, self.has_mask = key_heads, is_causal, has_mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part, heads in (
                (self.q(x), 4), (self.k(x), self.key_heads), (self.v(x), self.key_heads),
            )
        )
        mask = (x[:, None, None, :, 0] < 1) if self.has_mask else None
        mixed = nn.functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=self.is_causal, enable_gqa=self.key_heads != 4
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("options", [
    {}, {"is_causal": True}, {"has_mask": True}, {"key_heads": 2},
], ids=str)
def test_attention_in_float8(options: dict[str, object], tmp_path: Path) -> None:
    if open_backend("cuda").lacks_float8() is not None:
        pytest.skip("no float8")
    torch.manual_seed(0)
    model = Attending(**options).eval().cuda()
    x = torch.randn(4, 197, WIDTH, device="cuda")
    rt = convert(model, x, tmp_path, {"*": "fp8"}, calibration=[x])
    assert {dtypes[0] for dtypes in products(rt, "attention").values()} == {DType.FLOAT8_E4M3}
    assert "any.torch.reference" not in tactics(rt).values(), tactics(rt)
    (ran,) = [t for t in tactics(rt).values() if t.startswith("attention")]
    assert ran.startswith(("attention.triton.", "attention.wgmma.")), ran
    # Scores are near 0. Rounded are x and two weights, the values and their mix: 5 factors, where
    # a product has 2; biases are exact.
    lost = error(rt(x), model(x))
    assert 0.5 * FLOAT8_LOSS < lost < 2.5**0.5 * FLOAT8_LOSS


def test_float8_where_it_is_faster(block: nn.Module, tmp_path: Path) -> None:
    if open_backend("cuda").lacks_float8() is not None:
        pytest.skip("no float8")
    x = torch.randn(8, 384, WIDTH, device="cuda")
    rt = convert(block, x, tmp_path, "fp8", calibration=[x])
    times = [point["time_us"] for point in rt.engine.report["choice"]["points"]]
    (chosen,) = [p for p in rt.engine.report["choice"]["points"] if p["is_chosen"]]
    assert chosen["time_us"] <= 1.02 * min(times)
    assert rt.engine.precision == ("fp8" if chosen["int8_layers"] else "fp16")
    assert error(rt(x), block(x)) < 2 * FLOAT8_LOSS


def test_an_engine_in_float8_runs_from_its_file(block: nn.Module, tmp_path: Path) -> None:
    if open_backend("cuda").lacks_float8() is not None:
        pytest.skip("no float8")
    x = torch.randn(2, 16, WIDTH, device="cuda")
    rt = convert(block, x, tmp_path, {"mlp": "fp8", "*": "fp16"}, calibration=[x])
    rt.save(tmp_path / "block.engine")
    engine = torch2rt.Engine.load(tmp_path / "block.engine")
    (got,) = engine.run({engine.bindings.inputs[0].name: x.cpu().numpy()}).values()
    found = torch.from_numpy(np.asarray(got.get() if hasattr(got, "get") else got))
    assert error(found, rt(x).cpu()) < 1e-3
    assert error(rt(x), block(x)) < 2 * FLOAT8_LOSS


@pytest.mark.parametrize("rows", [(1, 1), (1, 7), (8, 384)])
@pytest.mark.parametrize("precision", ["int8_weights", {"mlp": "int8_weights", "*": "bf16"}])
def test_weights_in_8_bits(
    block: nn.Module, rows: tuple[int, int], precision: object, tmp_path: Path
) -> None:
    x = torch.randn(*rows, WIDTH, device="cuda")
    rt = convert(block, x, tmp_path, precision)
    half = DType.FLOAT16 if precision == "int8_weights" else DType.BFLOAT16
    found = products(rt)
    assert found["mlp.0"] == (half, DType.INT8, half)
    assert (found["qkv"][1] is DType.INT8) == (precision == "int8_weights")
    assert "any.torch.reference" not in tactics(rt).values(), tactics(rt)
    rounding = 4e-3 if half is DType.FLOAT16 else 2e-2
    assert error(rt(x), block(x)) < 2 * WEIGHT_LOSS + rounding
