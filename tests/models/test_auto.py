"""precision="auto" on whole models: within its budget on held-out data, no uniform one faster."""

import pytest
import torch
import zoo
from torch.utils._pytree import tree_leaves

import torch2rt
from torch2rt.quantize.metric import closeness

# Where 8 bits are enough, where a mix is, and where little but float32 is.
DROPS = (0.2, 0.02, 0.002)
FLOATS = ("bf16", "fp32")
MODELS = (
    "resnet18", "mobilenet_v2", "googlenet", "densenet121", "efficientnet", "convnext", "vit",
    "swin", "deeplabv3", "unet", "bert", "gpt2", "lstm_tagger",
)


def _tensors(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("auto") / "timing.jsonl"


def _rolled(inputs, shift):
    """Other inputs, as valid as the given ones."""
    match inputs:
        case dict():
            return {name: tensor.roll(shift, -1) for name, tensor in inputs.items()}
        case tuple():
            return tuple(tensor.roll(shift, -1) for tensor in inputs)
    return inputs.roll(shift, -1)


@pytest.mark.slow
@pytest.mark.parametrize("max_drop", DROPS)
@pytest.mark.parametrize("name", MODELS)
def test_auto_is_within_its_budget_and_as_fast_as_any_uniform_precision(name, max_drop, cache):
    model, inputs = zoo.build(f"small/{name}")
    batches = [_rolled(inputs, shift) for shift in range(8)]
    rt = torch2rt.convert(
        model, inputs, precision="auto", calibration=batches, max_drop=max_drop,
        timing_cache=cache, threads=1, progress=False,
    )
    points = rt.engine.report["choice"]["points"]
    chosen = next(point for point in points if point["is_chosen"])
    assert chosen["is_within"]
    kinds = [f"{kind} + {beside}" for kind in ("int8", "int8_weights") for beside in FLOATS]
    uniform = [p for p in points if p["name"] in (*kinds, *FLOATS)]
    assert len(uniform) >= 2
    assert all(chosen["time_us"] <= 1.02 * p["time_us"] for p in uniform if p["is_within"])
    scores = []
    for batch in batches[3::4]:
        got, want = _tensors(zoo.call(rt, batch)), _tensors(zoo.call(model, batch))
        scores.append(closeness(got, want))
    assert sum(scores) / len(scores) >= 1 - max_drop - 1e-4
