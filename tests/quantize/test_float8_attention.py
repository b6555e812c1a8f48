"""Attention over float8: where query, key and value are quantized, and what that loses."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from fake_backend import Reference
from float8_testing import FACTOR_LOSS, Pretended, Table, convert, error, inserted, lowered
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import torch2rt
from torch2rt.backends.reference.executor import run_network
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.text import text
from torch2rt.passes.base import run_passes
from torch2rt.passes.lower_precision import LowerPrecision
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.float8 import insert_float8
from torch2rt.quantize.table import Range

WIDTH, HEADS, ROWS = 64, 4, 33
FLOAT8 = DType.FLOAT8_E4M3


class Packed(nn.Module):
    """One projection, cut in three."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(joined(scaled_dot_product_attention(*map(cut, self.qkv(x).chunk(3, -1)))))


class Separate(nn.Module):
    """Three projections, as in BERT; of other numbers of heads, or causal."""

    def __init__(self, key_heads: int = HEADS, is_causal: bool = False) -> None:
        super().__init__()
        width = WIDTH // HEADS * key_heads
        self.q, self.k, self.v = (nn.Linear(WIDTH, n) for n in (WIDTH, width, width))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.key_heads, self.is_causal = key_heads, is_causal

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.out(joined(scaled_dot_product_attention(
            cut(self.q(x)), cut(self.k(x), self.key_heads), cut(self.v(x), self.key_heads),
            mask, is_causal=self.is_causal, enable_gqa=self.key_heads != HEADS,
        )))


class Own(nn.Module):
    """torch's own layer."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Rotated(nn.Module):
    """Query and key are changed behind the projection, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = map(cut, self.qkv(x).chunk(3, -1))
        return self.out(joined(scaled_dot_product_attention(q.tanh(), k.tanh(), v)))


class Bare(nn.Module):
    """Attention alone."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(q, k, v)


def cut(x: torch.Tensor, heads: int = HEADS) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


def example() -> torch.Tensor:
    return torch.randn(3, ROWS, WIDTH, generator=torch.Generator().manual_seed(0))


def made(factory: object, *arguments: object) -> nn.Module:
    torch.manual_seed(0)
    assert callable(factory)
    return factory(*arguments).eval()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    backend = Pretended(own=[Reference("any.fake.reference")])
    module = importlib.import_module("torch2rt.convert")
    monkeypatch.setattr(module, "open_backend", lambda *_, **__: backend)
    return backend


def attention_of(network: Network) -> Layer:
    (layer,) = [layer for layer in network.layers if layer.kind.name == "attention"]
    return layer


def finished(network: Network) -> Network:
    """What is built for a GPU."""
    run_passes(network, [LowerPrecision(DType.FLOAT16)], check=False)
    optimize(network, target="cuda")
    return network


def quantizing(network: Network) -> list[str]:
    """Kinds of the layers that round to float8."""
    return [
        layer.kind.name for layer in network.layers
        if layer.output.dtype is FLOAT8 and layer.inputs[0].dtype is not FLOAT8
    ]


MODELS = {
    "packed": (Packed, ()), "separate": (Separate, ()), "causal": (Separate, (HEADS, True)),
    "grouped": (Separate, (2,)), "own": (Own, (True,)), "own-rows-first": (Own, (False,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_projections_write_what_attention_reads(name: str) -> None:
    factory, arguments = MODELS[name]
    network = finished(inserted(made(factory, *arguments), example())[0])
    attention = attention_of(network)
    assert {t.dtype for t in (*attention.inputs, attention.output)} == {FLOAT8}
    assert quantizing(network) == ["pointwise"]  # of the input, which is float32
    # Before and behind attention one product each: separate projections are one, too.
    kinds = [layer.kind.name for layer in network.layers]
    assert kinds.count("matmul") == 2
    assert {layer.inputs[0].dtype for layer in network.layers if layer.kind.name == "matmul"} == {
        FLOAT8
    }


@pytest.mark.parametrize("name", MODELS)
def test_the_finished_network_computes_what_the_inserted_one_says(name: str) -> None:
    factory, arguments = MODELS[name]
    model, x = made(factory, *arguments), example()
    network = inserted(model, x)[0]
    (want,) = run_network(network, dict.fromkeys(network.inputs, x)).values()
    (got,) = run_network(finished(network), dict.fromkeys(network.inputs, x)).values()
    # Roundings to float8 may go the other way where scales are joined: few do.
    assert error(got, want) < FACTOR_LOSS / 4
    assert 0.3 * FACTOR_LOSS < error(got, model(x)) < 4 * FACTOR_LOSS


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_what_rounding_query_key_and_value_loses(spread: float) -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, HEADS, 256, 64) for _ in range(3))
    q *= spread
    network, _ = inserted(Bare(), q, k, v)
    (got,) = run_network(network, dict(zip(network.inputs, (q, k, v), strict=True))).values()
    # Values are off by a factor's loss; scores by that of a product, and each share by as much as
    # its score, which is as large as ``spread``: of normal q, k and v all are independent.
    expected = FACTOR_LOSS * (1 + 2 * spread**2) ** 0.5
    want = scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert 0.6 * expected < error(got, want) < 1.4 * expected


def test_values_are_those_of_torchs_float8() -> None:
    torch.manual_seed(2)
    q, k, v = torch.randn(2, 5, 16), torch.randn(2, 7, 16), 3 * torch.randn(2, 7, 24)
    network, _ = inserted(Bare(), q, k, v)
    scale = torch.tensor(8 / 448)
    stored = [
        (x * (1 / scale)).clamp(-448, 448).to(torch.float8_e4m3fn).double() * scale.double()
        for x in (q, k, v)
    ]
    want = scaled_dot_product_attention(*stored)
    (got,) = run_network(network, dict(zip(network.inputs, (q, k, v), strict=True))).values()
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_bool", [True, False])
def test_masks_stay_what_they_are(is_bool: bool) -> None:
    mask = torch.rand(ROWS, ROWS) > 0.3 if is_bool else torch.randn(ROWS, ROWS)
    model, x = made(Separate), example()
    network, _ = inserted(model, x, mask)
    attention = attention_of(finished(network))
    assert attention.inputs[3].dtype is (DType.BOOL if is_bool else DType.FLOAT16)
    (got,) = run_network(network, dict(zip(network.inputs, (x, mask), strict=True))).values()
    assert error(got, model(x, mask)) < 4 * FACTOR_LOSS


def test_what_is_changed_behind_the_projection_is_quantized_there() -> None:
    network = finished(inserted(made(Rotated), example())[0])
    attention = attention_of(network)
    assert {t.dtype for t in attention.inputs} == {FLOAT8}
    # The projection is read by the change as a float; query, key and value by steps of their own.
    (qkv,) = [layer for layer in network.layers if layer.name == "qkv"]
    assert qkv.output.dtype is DType.FLOAT16
    assert quantizing(network).count("pointwise") == 4


def test_one_scale_serves_query_key_and_value() -> None:
    model = made(Separate)
    with torch.no_grad():
        model.v.weight *= 20
    network = lowered(model, example())
    produced = [tensor for layer in network.layers for tensor in layer.outputs]
    ranges = {tensor.name: 4.0 for tensor in (*network.inputs.values(), *produced)}
    value = attention_of(network).inputs[2]
    assert value.producer is not None
    ranges |= {tensor.name: 80.0 for tensor in (value, value.producer.inputs[0])}
    table = Table({name: Range(threshold, False) for name, threshold in ranges.items()})
    insert_float8(network, table, overrides=lambda _: None)
    scales = [
        layer.inputs[1].data.item() for layer in network.layers
        if layer.kind.name == "quantize" and layer.name.startswith(("q.", "k.", "v."))
    ]
    assert scales == [pytest.approx(80 / 448)] * 3


def test_what_others_read_beside_attention_stays_float() -> None:
    class Beside(Packed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return joined(scaled_dot_product_attention(cut(q), cut(k), cut(v))) + v.relu()

    network = finished(inserted(made(Beside), example())[0])
    assert {t.dtype for t in attention_of(network).inputs} == {FLOAT8}
    (qkv,) = [layer for layer in network.layers if layer.name == "qkv"]
    assert qkv.output.dtype is DType.FLOAT16


def test_keys_of_another_sequence() -> None:
    class Cross(Separate):
        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            memory = x[:, :7].tanh()
            return joined(scaled_dot_product_attention(
                cut(self.q(x)), cut(self.k(memory)), cut(self.v(memory))
            ))

    network = finished(inserted(made(Cross), example())[0])
    attention = attention_of(network)
    assert {t.dtype for t in attention.inputs} == {FLOAT8}
    assert attention.output.dtype is DType.FLOAT16  # no product reads it
    assert quantizing(network) == ["pointwise", "pointwise"]  # of x, and of its changed part


@pytest.mark.parametrize("role", [0, 1, 2])
def test_attention_of_unknown_ranges_stays_float(role: int) -> None:
    model, x = made(Separate), example()
    unknown = attention_of(lowered(model, x)).inputs[role].name
    network, log = inserted(model, x, unknown=[unknown])
    attention = attention_of(network)
    assert {t.dtype for t in (*attention.inputs, attention.output)} == {DType.FLOAT32}
    (reject,) = [r for r in log.rejected.values() if r.rule == "quantize_to_float8"]
    assert reject.reason == f"no range is known of {unknown}"
    assert reject.layer == attention.name


def test_attention_that_is_to_be_float_keeps_its_fast_kernels() -> None:
    network, log = inserted(
        made(Packed), example(),
        overrides=lambda layer: "fp16" if layer.kind.name == "attention" else "fp8",
    )
    attention = attention_of(finished(network))
    assert {t.dtype for t in (*attention.inputs, attention.output)} == {DType.FLOAT16}
    assert attention.epilogue is None
    assert "it is to be fp16" in [reject.reason for reject in log.rejected.values()]


def test_patterns_and_report(device: Pretended, tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Own(True), Own(True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    x = example()
    model = made(Two)
    rt = convert(model, x, tmp_path, {"*second*": "fp16", "*": "fp8"})
    found = dtypes_of(rt.engine.network)
    assert found == [FLOAT8, DType.FLOAT16]
    rows = [row for row in rt.engine.report["quantized"] if row["where"] == "first.attention"]
    (row,) = [
        row for row in rows if row["layer"] in
        {layer.name for layer in rt.engine.network.layers if layer.kind.name == "attention"}
    ]
    assert row["dtype"] == "float8_e4m3fn"
    with torch.no_grad():
        inner = model.first.attention
        projected = nn.functional.linear(x, inner.in_proj_weight, inner.in_proj_bias)
    assert row["threshold"] == pytest.approx(float(projected.abs().max()), rel=1e-4)
    assert row["sqnr_db"] > 20


def test_a_saved_table_gives_the_same_network(device: Pretended, tmp_path: Path) -> None:
    model, x = made(Separate), example()
    rt = convert(model, x, tmp_path)
    rt.calibration_table.save(tmp_path / "table.json")
    again = convert(model, x, tmp_path, calibration=tmp_path / "table.json")
    assert dtypes_of(again.engine.network) == [FLOAT8]
    assert text(again.engine.network) == text(rt.engine.network)
    torch.testing.assert_close(again(x), rt(x), rtol=0, atol=0)


def test_the_file_keeps_it(device: Pretended, tmp_path: Path) -> None:
    model, x = made(Packed), example()
    rt = convert(model, x, tmp_path)
    rt.save(tmp_path / "attention.engine")
    loaded = torch2rt.Engine.load(tmp_path / "attention.engine", device="cpu")
    assert dtypes_of(loaded.network) == [FLOAT8]
    (got,) = loaded.run({loaded.bindings.inputs[0].name: x.numpy()}).values()
    assert error(torch.as_tensor(got), rt(x)) < FACTOR_LOSS / 4


def dtypes_of(network: Network) -> Sequence[DType]:
    """What attention layers read, in order."""
    return [
        layer.inputs[0].dtype for layer in network.layers if layer.kind.name == "attention"
    ]
