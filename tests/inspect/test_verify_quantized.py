"""Verification of 8-bit engines: roundings that flip pass, what is wrong or useless does not."""

import numpy as np
import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.errors import QuantizationError, VerificationError
from torch2rt.inspect import verify
from torch2rt.inspect.verify import verify_engine
from torch2rt.inspect.verify_quantized import is_quantized

IMAGES = [torch.randn(2, 3, 16, 16) for _ in range(3)]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.body(x) + x).relu()
        return self.head(x.mean((2, 3)))


class FakeQuantized(Small):
    """As QAT leaves a model: ranges of its own, weights per channel."""

    def forward(self, x):
        x = torch.fake_quantize_per_tensor_affine(x, 0.03, 0, -128, 127)
        x = nn.functional.conv2d(x, self._weight(self.stem), self.stem.bias, padding=1).relu()
        x = torch.fake_quantize_per_tensor_affine(x, 0.02, 0, 0, 255)
        y = nn.functional.conv2d(x, self._weight(self.body), self.body.bias, padding=1)
        x = torch.fake_quantize_per_tensor_affine((x + y).relu(), 0.025, 3, 0, 255)
        return self.head(x.mean((2, 3)))

    @staticmethod
    def _weight(layer):
        scale = layer.weight.detach().abs().amax((1, 2, 3)) / 127
        zero = torch.zeros(layer.weight.shape[0], dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(layer.weight, scale, zero, 0, -127, 127)


@pytest.fixture(scope="module")
def rt(tmp_path_factory):
    torch.manual_seed(0)
    return torch2rt.convert(
        Small().eval(), IMAGES[0], precision={"*": "int8"}, calibration=IMAGES, threads=1,
        calibration_method="minmax", progress=False,
        timing_cache=tmp_path_factory.mktemp("cache") / "t.jsonl",
    )


def test_the_report_tells_what_each_layer_loses(rt):
    rows = rt.engine.report["quantized"]
    assert [row["layer"] for row in rows] == ["stem", "body", "head"]
    assert all(row["sqnr_db"] > 25 for row in rows)
    assert rows[0]["dtype"] == "int8"
    assert rows[1]["dtype"] == "uint8"
    assert "layers in 8 bits: 3" in rt.report()
    assert is_quantized(rt.engine.network)
    assert 0 < rt.engine.report["verified"]["output"] < 0.05


def test_a_wrong_run_is_refused(rt, monkeypatch):
    good = verify.run_engine(rt.engine, [IMAGES[0]])
    monkeypatch.setattr(verify, "run_engine", lambda *_: [good[0] * 1.1])
    with pytest.raises(VerificationError, match=r"relative error 0\.0?1"):
        verify_engine(rt.engine, rt.engine.network, [IMAGES[0]], good, "x")


def test_a_useless_result_is_refused_with_what_to_do(rt):
    other = [torch.randn(2, 4) * 100]
    with pytest.raises(QuantizationError, match="give the layers that lose most"):
        verify_engine(rt.engine, rt.engine.network, [IMAGES[0]], other, "x")
    errors = verify_engine(
        rt.engine, rt.engine.network, [IMAGES[0]], other, "x", is_judged=True
    )  # by a metric of the user's, which has let it pass
    assert errors["output"] > 0.5
    other[0][0, 0] = torch.nan
    with pytest.raises(QuantizationError):
        verify_engine(rt.engine, rt.engine.network, [IMAGES[0]], other, "x", is_judged=True)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_quantization_of_the_model_itself_is_kept(precision, tmp_path):
    torch.manual_seed(1)
    model = FakeQuantized().eval()
    rt = torch2rt.convert(
        model, IMAGES[0], precision=precision, threads=1, progress=False,
        timing_cache=tmp_path / "t.jsonl",
    )
    kinds = {layer.name: [t.dtype.value for t in layer.main_inputs]
             for layer in rt.engine.network.layers if layer.kind.name == "convolution"}
    assert sorted(kinds.values()) == [["int8", "int8"], ["uint8", "int8"]]
    with torch.no_grad():
        want = model(IMAGES[1])
    np.testing.assert_allclose(rt(IMAGES[1]).numpy(), want.numpy(), atol=0.01 * want.abs().max())


def test_a_saved_engine_gives_the_same_bits(rt, tmp_path):
    rt.save(tmp_path / "small.engine")
    again = torch2rt.load(tmp_path / "small.engine")
    assert torch.equal(again(IMAGES[2]), rt(IMAGES[2]))
