"""Whole models of every family, converted and compared with what they compute in eager."""

import copy

import pytest
import torch
import zoo
from needs import needs_onednn
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

import torch2rt
from torch2rt.inspect.tolerance import NETWORK, relative_error

CONVOLUTIONAL = (
    "resnet18", "mobilenet_v2", "mobilenet_v3", "googlenet", "densenet121",
    "shufflenet", "efficientnet", "regnet", "convnext", "deeplabv3", "fcn", "r2plus1d",
    "unet",
)
OTHERS = ("vit", "swin", "bert", "gpt2", "t5", "llama", "lstm_tagger")
# How much further from float64 a bf16 engine may be than eager bf16 is.
BF16_OVER_EAGER = 1.5


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Times measured for one model serve the others."""
    return tmp_path_factory.mktemp("models") / "timing.jsonl"


def tensors(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def errors(got, want):
    pairs = zip(tensors(got), tensors(want), strict=True)
    return [relative_error(one, other) for one, other in pairs]


def worst(got, want):
    found = errors(got, want)
    assert found
    return max(found)


def through_torch(engine):
    """The steps of the plan that run in torch."""
    (plan, *_) = engine.plans
    return [step.layer for step in plan.steps if ".torch." in step.tactic]


@needs_onednn
@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *OTHERS])
def test_model_agrees_with_eager_and_falls_back_nowhere(name, cache):
    model, inputs = zoo.build(f"small/{name}")
    rt = torch2rt.convert(
        model, inputs, fallback="error", timing_cache=cache, threads=2, progress=False
    )
    assert worst(zoo.call(rt, inputs), zoo.call(model, inputs)) < NETWORK["fp32"]
    assert through_torch(rt.engine) == []
    assert rt.engine.report["notes"] == []
    pair = zoo.batched(inputs, 2)
    assert worst(zoo.call(rt, pair), zoo.call(model, pair)) < NETWORK["fp32"]


def test_a_recurrent_network_returns_its_state(cache):
    model, inputs = zoo.build("small/gru_reader")
    rt = torch2rt.convert(model, inputs, timing_cache=cache, threads=2, progress=False)
    assert worst(zoo.call(rt, inputs), zoo.call(model, inputs)) < NETWORK["fp32"]
    assert rt.engine.report["fallbacks"] == []


class WithFallbacks(nn.Module):
    """Three nodes of two ops that no rule takes, between layers that have one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = torch.special.bessel_j0(self.conv(x))
        y = torch.special.bessel_j0(y.relu() + 1)
        return torch.special.bessel_y0(y + 2).flatten(1)


@needs_onednn
def test_fallbacks_are_run_and_counted(cache):
    model, x = WithFallbacks().eval(), torch.randn(2, 3, 8, 8)
    rt = torch2rt.convert(model, x, timing_cache=cache, threads=2, progress=False)
    found = sorted(op for op, *_ in rt.engine.report["fallbacks"])
    assert found == ["aten.special_bessel_j0.default"] * 2 + ["aten.special_bessel_y0.default"]
    assert len(through_torch(rt.engine)) == 3
    assert "3" in rt.report()
    assert worst(rt(x), zoo.call(model, x)) < NETWORK["fp32"]


@needs_onednn
@pytest.mark.parametrize("name", ["mobilenet_v3", "unet", "bert", "lstm_tagger"])
def test_a_saved_engine_gives_the_same_bits(name, cache, tmp_path):
    model, inputs = zoo.build(f"small/{name}")
    rt = torch2rt.convert(model, inputs, timing_cache=cache, threads=2, progress=False)
    want = tensors(zoo.call(rt, inputs))
    rt.save(tmp_path / "model.engine")
    for got in (
        tensors(zoo.call(torch2rt.load(tmp_path / "model.engine"), inputs)),
        _run_without_torch(tmp_path / "model.engine", inputs),
    ):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert torch.equal(one, other)


def _run_without_torch(path, inputs):
    engine = torch2rt.Engine.load(path)
    names = [binding.name for binding in engine.bindings.inputs]
    given = inputs if isinstance(inputs, dict) else dict(zip(names, [inputs], strict=True))
    outputs = engine.run({name: tensor.numpy() for name, tensor in given.items()})
    return [torch.from_numpy(array) for array in outputs.values()]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vit", "bert"])
def test_bf16_is_as_good_as_eager_bf16(name, cache):
    model, inputs = zoo.build(f"small/{name}")

    def eager(dtype):
        cast = tree_map(lambda x: x.to(dtype) if x.is_floating_point() else x, inputs)
        return zoo.call(copy.deepcopy(model).to(dtype), cast)

    rt = torch2rt.convert(
        model, inputs, precision="bf16", timing_cache=cache, threads=2, progress=False
    )
    exact = eager(torch.float64)
    ours, theirs = errors(zoo.call(rt, inputs), exact), errors(eager(torch.bfloat16), exact)
    for got, allowed in zip(ours, theirs, strict=True):
        assert got <= BF16_OVER_EAGER * allowed


@pytest.mark.parametrize("kind", ["weight", "statistics"])
def test_the_comparison_sees_a_single_changed_channel(kind, cache):
    model, inputs = zoo.build("small/resnet18")
    rt = torch2rt.convert(model, inputs, timing_cache=cache, threads=2, progress=False)
    with torch.no_grad():
        if kind == "weight":
            model.layer2[0].conv2.weight[3] *= 1.1
        else:
            model.layer2[0].bn2.running_mean[3] += 0.1
    assert worst(zoo.call(rt, inputs), zoo.call(model, inputs)) > NETWORK["fp32"]
