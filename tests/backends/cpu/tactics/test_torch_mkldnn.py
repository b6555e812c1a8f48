"""Torch's private oneDNN operators against the reference, and engines without the library."""

import pytest
import torch
from tactic_testing import BACKEND, check_tactic, make_spec
from torch import nn

import torch2rt
from torch2rt.backends.cpu.backend import CpuBackend
from torch2rt.backends.cpu.torch_operators import NO_ACTIVATION, split_epilogue
from torch2rt.backends.tactic import Refusal
from torch2rt.build.timing_cache import TimingCache
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

FLOATS = [torch.float32, torch.bfloat16]
CONV, LINEAR = "convolution.torch.mkldnn", "matmul.torch.mkldnn"


def tensors(dtype, *shapes):
    return [torch.randn(shape).to(dtype) for shape in shapes]


def conv(rank=2, stride=1, padding=1, dilation=1, groups=1, after=None):
    return Convolution(
        (stride,) * rank, (padding,) * rank, (padding if after is None else after,) * rank,
        (dilation,) * rank, groups,
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kind", "x", "w"), [
    (conv(), (2, 8, 9, 7), (12, 8, 3, 3)),
    (conv(stride=2, padding=0), (1, 8, 9, 9), (12, 8, 1, 1)),
    (conv(padding=2, dilation=2), (1, 8, 9, 9), (12, 8, 3, 3)),
    (conv(groups=8), (2, 8, 9, 9), (8, 1, 3, 3)),
    (conv(groups=2), (2, 8, 9, 9), (12, 4, 3, 3)),
    (conv(rank=3), (1, 4, 5, 6, 7), (8, 4, 3, 3, 3)),
])
def test_convolution(kind, x, w, dtype):
    made = check_tactic(CONV, kind, tensors(dtype, x, w), constants=[1], layouts=3)
    assert all(prepared.needs_torch for prepared in made)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("epilogue", [
    "add(i0,i1)", "relu(add(i0,i1))", "relu(add(add(i0,i1),i2))", "add(i2,i0)",
    "silu(add(i0,i1))", "gelu(add(i0,i1))", "mul(add(i0,i1),sigmoid(add(i0,i1)))",
    "mul(add(i0,i1),i2)", "relu(mul(add(i0,i1),2.0))", "hardswish(add(add(i0,i1),i2))",
    "add(add(i0,i2),i2)", "add(i0,i0)",
])
def test_convolution_with_epilogue(epilogue, dtype):
    inputs = tensors(dtype, (2, 8, 6, 6), (12, 8, 3, 3), (12, 1, 1), (2, 12, 6, 6))
    count = 4 if "i2" in epilogue else 3 if "i1" in epilogue else 2
    constants = [1, 2] if count > 2 else [1]
    check_tactic(CONV, conv(), inputs[:count], epilogue, constants=constants, layouts=3)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("rows", [(1,), (5,), (2, 7), (2, 3, 4)])
def test_one_weight(rows, transpose, dtype):
    w = (24, 40) if transpose else (40, 24)
    inputs = tensors(dtype, (*rows, 40), w, (24,), (*rows, 24))
    kind = Matmul(transpose_b=transpose)
    check_tactic(LINEAR, kind, inputs[:2], constants=[1])
    check_tactic(LINEAR, kind, inputs[:3], "gelu(add(i0,i1))", constants=[1, 2])
    check_tactic(LINEAR, kind, inputs[:3], "gelu_tanh(add(i0,i1))", constants=[1, 2])
    check_tactic(LINEAR, kind, inputs, "add(add(i0,i1),i2)", constants=[1, 2])
    check_tactic(LINEAR, kind, inputs, "relu(add(add(i0,i1),i2))", constants=[1, 2])
    check_tactic(LINEAR, kind, inputs, "mul(tanh(add(i0,i1)),i2)", constants=[1, 2])


def test_epilogues_are_split_as_the_operator_applies_them():
    inputs = tensors(torch.float32, (2, 8, 6, 6), (12, 8, 3, 3), (12, 1, 1), (2, 12, 6, 6))

    def split(text, constants=(1, 2)):
        spec = make_spec(conv(), inputs[: 4 if "i2" in text else 3], text, constants)
        return split_epilogue(spec, channel_axis=1, after_residual=("relu",))

    whole = split("relu(add(add(i0,i1),i2))")
    assert (whole.bias, whole.residual, whole.activation, whole.rest) == (2, 3, ("relu", ""), None)
    late = split("silu(add(add(i0,i1),i2))")
    assert (late.bias, late.residual, late.activation) == (2, 3, NO_ACTIVATION)
    assert late.rest is not None
    assert late.rest.text == "silu(i0)"
    twice = split("mul(add(i0,i1),sigmoid(add(i0,i1)))")
    assert twice.bias == 2
    assert twice.rest is not None
    assert twice.rest.text == "mul(i0,sigmoid(i0))"
    assert split("relu(add(i0,i1))", constants=(1,)).bias is None
    first = split("add(relu(i0),i2)")
    assert (first.residual, first.activation) == (None, ("relu", ""))


@pytest.mark.parametrize(("kind", "shapes", "constants", "reason"), [
    (conv(after=2), ((1, 4, 6, 6), (4, 4, 3, 3)), [1], "not symmetric"),
    (conv(rank=1), ((1, 4, 6), (4, 4, 3)), [1], "1 spatial axes"),
    (conv(), ((1, 4, 6, 6), (4, 4, 3, 3)), [], "not a constant"),
])
def test_what_the_operator_has_not_is_refused(kind, shapes, constants, reason):
    spec = make_spec(kind, tensors(torch.float32, *shapes), constants=constants)
    answer = BACKEND.tactics[CONV].supports(spec)
    assert isinstance(answer, Refusal)
    assert reason in answer.reason


def test_other_dtypes_are_refused():
    inputs = tensors(torch.float64, (3, 4), (5, 4))
    spec = make_spec(Matmul(transpose_b=True), inputs, constants=[1])
    assert isinstance(BACKEND.tactics[LINEAR].supports(spec), Refusal)
    low = tensors(torch.bfloat16, (3, 4), (5, 4))
    spec = make_spec(Matmul(transpose_b=True), low, constants=[1], out_dtype=DType.FLOAT32)
    assert isinstance(BACKEND.tactics[LINEAR].supports(spec), Refusal)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(64)
        self.body = nn.Conv2d(64, 64, 5, padding=2)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.body(x) + x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def without_onednn(monkeypatch):
    monkeypatch.setattr(
        "torch2rt.backends.cpu.backend.onednn_unavailable", lambda: "no oneDNN in this test"
    )


@pytest.mark.usefixtures("without_onednn")
def test_an_engine_without_the_library_runs_through_torch(tmp_path):
    model, cache = Net().eval(), TimingCache()
    x = torch.randn(2, 3, 24, 24)
    rt = torch2rt.convert(model, x, timing_cache=cache, threads=1, progress=False)
    tactics = {step.layer: step.tactic for step in rt.engine.plans[0].steps}
    assert tactics["stem"] == tactics["body"] == CONV
    assert not any(".onednn." in tactic for tactic in tactics.values())
    assert rt.engine.needs_torch
    for batch in (2, 1, 5):
        x = torch.randn(batch, 3, 24, 24)
        torch.testing.assert_close(rt(x), model(x).detach(), rtol=1e-4, atol=1e-5)
    rt.save(tmp_path / "m.engine")
    assert torch.equal(torch2rt.load(tmp_path / "m.engine")(x), rt(x))


@pytest.mark.usefixtures("without_onednn")
def test_it_is_measured_beside_the_reference():
    inputs = tensors(torch.float32, (1, 64, 28, 28), (64, 64, 5, 5), (64, 1, 1))
    spec = make_spec(conv(padding=2), inputs, "relu(add(i0,i1))", [1, 2])
    tactics, _ = CpuBackend(1).candidates(spec)
    assert {tactic.name for tactic in tactics} == {CONV, "any.torch.reference"}
