"""Models of quantization-aware training, converted with the fake-quantize modules they have."""

import copy
import warnings

import pytest
import torch
import torch.ao.quantization as tq
from needs import needs_onednn
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import torch2rt
from torch2rt.build.timing_cache import TimingCache
from torch2rt.capture.errors import CaptureError
from torch2rt.capture.export import capture


class Net(nn.Module):
    """A residual block, as a user prepares it for QAT."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.relu, self.second = nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
        self.join, self.head = torch.ao.nn.quantized.FloatFunctional(), nn.Linear(16 * 36, 10)

    def forward(self, x):
        y = self.relu(self.norm(self.first(self.quant(x))))
        z = nn.functional.max_pool2d(self.join.add_relu(self.second(y), y), 2)
        return self.dequant(self.head(z.flatten(1)))


def trained(kind: type[tq.FakeQuantize] = tq.FusedMovingAvgObsFakeQuantize) -> nn.Module:
    model = tq.fuse_modules_qat(Net().train(), [["first", "norm", "relu"]])
    model.qconfig = tq.QConfig(
        activation=kind.with_args(observer=tq.MovingAverageMinMaxObserver, dtype=torch.quint8,
                                  quant_min=0, quant_max=255),
        weight=kind.with_args(observer=tq.MovingAveragePerChannelMinMaxObserver, dtype=torch.qint8,
                              quant_min=-128, quant_max=127, qscheme=torch.per_channel_symmetric),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tq.prepare_qat(model, inplace=True)
    for _ in range(3):
        model(torch.randn(4, 3, 12, 12))
    return model.eval()


def still(model: nn.Module) -> nn.Module:
    return model.apply(tq.disable_observer)


@needs_onednn
def test_a_trained_model_runs_in_bytes_with_its_own_ranges_at_any_batch():
    model = still(trained())
    before = copy.deepcopy(model.state_dict())
    rt = torch2rt.convert(
        model, torch.randn(4, 3, 12, 12), threads=1, timing_cache=TimingCache(), progress=False
    )
    assert not rt.engine.needs_torch
    contractions = [
        layer for layer in rt.engine.network.layers
        if layer.kind.name in ("convolution", "matmul")
    ]
    assert [[tensor.dtype.value for tensor in layer.inputs[:2]] for layer in contractions] == [
        ["uint8", "int8"]
    ] * 3
    for batch in (4, 1, 7):
        x = torch.randn(batch, 3, 12, 12)
        step = float(model.head.activation_post_process.scale)
        off = (rt(x) - model(x).detach()).abs() / step
        assert float(off.max()) < 1.01, "by one step, where a tie falls to the other side"
        assert float((off > 0.01).float().mean()) < 0.05
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [tq.FakeQuantize, tq.FusedMovingAvgObsFakeQuantize])
def test_both_kinds_of_modules_are_captured(kind):
    model, x = still(trained(kind)), torch.randn(4, 3, 12, 12)
    captured = capture(model, (x,))
    assert captured.symbols
    torch.testing.assert_close(captured.run([x])[0], model(x))
    names = [str(node.target) for node in captured.graph_module.graph.nodes]
    assert not any("fused_moving" in name for name in names)


def test_fake_quantization_that_is_off_is_left_out():
    model = still(trained()).apply(tq.disable_fake_quant)
    names = [str(node.target) for node in
             capture(model, (torch.randn(4, 3, 12, 12),)).graph_module.graph.nodes]
    assert not any("quantize" in name for name in names)


def test_a_model_that_still_observes_is_refused_with_the_remedy():
    with pytest.raises(CaptureError, match=r"in quant\.activation_post_process: its fake "
                       r"quantization still observes.*\n.*disable_observer"):
        capture(trained(), (torch.randn(4, 3, 12, 12),))


def test_ranges_that_never_change_need_no_such_call():
    module = tq.default_fixed_qparams_range_0to1_fake_quant()
    model, x = nn.Sequential(nn.Sigmoid(), module).eval(), torch.randn(4, 8)
    assert module.observer_enabled[0] == 1
    torch.testing.assert_close(capture(model, (x,)).run([x])[0], model(x))


@pytest.mark.parametrize(("low", "high"), [(-8, 7), (0, 15), (-1000, 1000), (-100_000, 100_000)])
def test_other_ranges_of_integers_are_exact(low, high):
    module = tq.FakeQuantize(tq.MovingAverageMinMaxObserver, 0, 1, dtype=torch.qint32)
    module.activation_post_process.quant_min, module.activation_post_process.quant_max = low, high
    module.scale.fill_(0.03)
    module.zero_point.fill_(2)
    model, x = still(nn.Sequential(module)).eval(), torch.randn(4, 500) * 40
    torch.testing.assert_close(capture(model, (x,)).run([x])[0], model(x), rtol=0, atol=1e-6)


def test_packed_weights_are_refused_with_the_remedy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tq.convert(trained())
    with pytest.raises(CaptureError, match=r"in first: ConvReLU2d holds weights in a form of its "
                       r"own\.\n.*before torch\.ao\.quantization\.convert"):
        capture(model, (torch.randn(4, 3, 12, 12),))


def test_weights_that_are_no_plain_tensors_are_refused_with_the_remedy():
    model = nn.Linear(4, 4)
    model.weight = nn.Parameter(TwoTensor(torch.randn(4, 4), torch.randn(4, 4)))
    with pytest.raises(CaptureError, match=r"'weight' is a .*TwoTensor, not a plain tensor\.\n"
                       r".*unwrap_tensor_subclass"):
        capture(model.eval(), (torch.randn(2, 4),))
