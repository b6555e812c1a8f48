"""RTModule behaves as the nn.Module it replaces, or says clearly why not."""

import copy
import io
import pickle
import threading
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.errors import (
    DeviceError,
    EngineFileError,
    InputError,
    NotBuiltError,
    TrainingError,
)

Pair = namedtuple("Pair", "left right")


@dataclass
class Answer:
    logits: torch.Tensor
    extra: dict


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "timing.jsonl"


@pytest.fixture
def net():
    model = Net()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def rt(net, cache):
    return torch2rt.convert(net, torch.randn(2, 3, 8, 8), timing_cache=cache, progress=False)


def same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_it_computes_what_the_model_computes(net, rt):
    x = torch.randn(2, 3, 8, 8)
    same(rt(x), net(x).detach())


def test_another_batch_size_gets_a_plan_that_shares_the_weights(net, rt):
    for batch in (1, 5, 2):
        x = torch.randn(batch, 3, 8, 8)
        same(rt(x), net(x).detach())
    assert len(rt.engine.weights.arrays) == len(rt.engine.network.constants)


def test_plans_least_recently_used_go_first(net, rt):
    rt.engine.max_plans = 2
    for batch in (1, 3, 1, 4):
        rt(torch.randn(batch, 3, 8, 8))
    kept = {runnable.output_specs[0].shape[0] for runnable in rt.engine._runnables.values()}
    assert kept == {1, 4}


def test_without_inputs_it_is_built_at_the_first_call(net, cache):
    rt = torch2rt.convert(net, timing_cache=cache, progress=False)
    with pytest.raises(NotBuiltError, match="Call it once"):
        _ = rt.engine
    x = torch.randn(2, 3, 8, 8)
    same(rt(x), net(x).detach())
    assert rt.engine.bindings.inputs[0].name == "x"


def test_keyword_inputs_in_any_mix(cache):
    class Two(nn.Module):
        def forward(self, a, b, scale=1.0):
            return a - b

    model = Two()
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    rt = torch2rt.convert(model, {"a": a, "b": b}, timing_cache=cache, progress=False)
    for got in (rt(a, b), rt(a, b=b), rt(b=b, a=a)):
        same(got, a - b)


@pytest.mark.parametrize("kind", ["dict", "tuple", "namedtuple", "dataclass", "nested"])
def test_outputs_keep_their_structure(kind, cache):
    class Many(nn.Module):
        def forward(self, x):
            a, b = x + 1, x * 2
            return {
                "dict": lambda: {"a": a, "b": b},
                "tuple": lambda: (a, b),
                "namedtuple": lambda: Pair(a, b),
                "dataclass": lambda: Answer(a, {"b": b}),
                "nested": lambda: {"x": [a, (b, None)], "n": 3},
            }[kind]()

    torch.utils._pytree.register_dataclass(Answer) if kind == "dataclass" else None
    x = torch.randn(2, 3)
    want = Many()(x)
    got = torch2rt.convert(Many(), x, timing_cache=cache, progress=False)(x)
    assert type(got) is type(want)
    if kind == "dataclass":
        same(got.logits, want.logits)
        same(got.extra["b"], want.extra["b"])
    elif kind == "nested":
        assert got["n"] == 3
        assert got["x"][1][1] is None
        same(got["x"][0], want["x"][0])
    else:
        values = got.values() if kind == "dict" else got
        for one, other in zip(values, want.values() if kind == "dict" else want, strict=True):
            same(one, other)


def test_the_model_is_left_as_it_was(net, cache):
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rt = torch2rt.convert(net, torch.randn(2, 3, 8, 8), timing_cache=cache, progress=False)
    assert net.training
    assert net.drop.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    x = torch.randn(2, 3, 8, 8)
    same(rt(x), net.eval()(x).detach())


def test_later_changes_to_the_model_do_not_reach_the_engine(net, rt):
    x = torch.randn(2, 3, 8, 8)
    want = net(x).detach()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    same(rt(x), want)


def test_it_lives_inside_a_sequential_with_hooks(net, rt):
    seen = []
    rt.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    model = nn.Sequential(rt, nn.Softmax(-1)).eval()
    x = torch.randn(2, 3, 8, 8)
    same(model(x), net(x).detach().softmax(-1))
    assert seen == [torch.Size([2, 5])]
    assert model.state_dict() == {}


def test_deepcopy_pickle_and_torch_save_carry_the_engine(rt):
    x = torch.randn(2, 3, 8, 8)
    want = rt(x)
    buffer = io.BytesIO()
    torch.save(rt, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(rt),
        pickle.loads(pickle.dumps(rt)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(other(x), want)


def test_save_and_load(rt, tmp_path):
    x = torch.randn(2, 3, 8, 8)
    rt.save(tmp_path / "net.engine")
    loaded = torch2rt.load(tmp_path / "net.engine")
    assert torch.equal(loaded(x), rt(x))
    engine = torch2rt.Engine.load(tmp_path / "net.engine")
    assert torch.equal(torch.from_numpy(engine.run({"x": x.numpy()})["output"]), rt(x))
    with pytest.raises(EngineFileError, match=r"missing\.engine"):
        torch2rt.load(tmp_path / "missing.engine")


def test_training_and_gradients_are_refused(rt):
    with pytest.raises(TrainingError, match=r"train\(\) was called"):
        rt.train()
    with pytest.raises(TrainingError, match="requires_grad_"):
        rt.requires_grad_()
    with pytest.raises(TrainingError, match="input 'x' requires a gradient"):
        rt(torch.randn(2, 3, 8, 8, requires_grad=True))
    with torch.no_grad():
        rt(torch.randn(2, 3, 8, 8, requires_grad=True))
    assert rt.eval() is rt
    assert rt.train(False) is rt


def test_moving_it_is_refused_unless_nothing_changes(rt):
    assert rt.to("cpu") is rt
    assert rt.float() is rt
    with pytest.raises(DeviceError, match="precision is fixed"):
        rt.half()
    with pytest.raises(DeviceError, match="built for another device"):
        rt.to("meta")
    if not torch.cuda.is_available():
        with pytest.raises((DeviceError, RuntimeError, AssertionError), match=r"(?i)cuda"):
            rt.to("cuda")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.randn(2, 3, 8, 9), "wrong shape"),
        (lambda: torch.randn(3, 8, 8), "wrong shape"),
        (lambda: torch.randn(2, 3, 8, 8).double(), "wrong dtype"),
        (lambda: torch.randn(2, 3, 8, 8, device="meta"), "wrong device"),
        (lambda: torch.randn(2, 3, 8, 8).to_sparse(), "not a dense tensor"),
    ],
)
def test_inputs_that_do_not_fit_are_named(rt, make, reason):
    with pytest.raises(InputError, match=f"input 'x': {reason}"):
        rt(make())


def test_strided_inputs_are_read_right(net, rt):
    x = torch.randn(2, 8, 8, 3).permute(0, 3, 1, 2)
    same(rt(x), net(x).detach())
    x = torch.randn(4, 3, 8, 16)[::2, :, :, ::2]
    same(rt(x), net(x).detach())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_pass_through_as_in_torch(net, rt, value):
    x = torch.randn(2, 3, 8, 8)
    x[0, 0, 0, 0] = value
    got, want = rt(x), net(x).detach()
    assert torch.equal(got.isnan(), want.isnan())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, equal_nan=True)
    array = rt.engine.run({"x": x.numpy()})["output"]
    torch.testing.assert_close(torch.from_numpy(array), got, equal_nan=True, rtol=0, atol=0)


def test_an_empty_batch_is_refused(rt):
    with pytest.raises(InputError, match=r"input 'x': .*=0 is out of range"):
        rt(torch.randn(0, 3, 8, 8))


def test_many_threads_call_one_module(net, rt):
    inputs = [torch.randn(1 + i % 3, 3, 8, 8) for i in range(24)]
    wanted = [net(x).detach() for x in inputs]
    results: list[torch.Tensor | None] = [None] * len(inputs)

    def work(start):
        for _ in range(20):
            for i in range(start, len(inputs), 6):
                results[i] = rt(inputs[i])
                assert torch.allclose(results[i], wanted[i], rtol=1e-4, atol=1e-5)

    failures: list[BaseException] = []

    def guarded(start):
        try:
            work(start)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for got, want in zip(results, wanted, strict=True):
        same(got, want)
