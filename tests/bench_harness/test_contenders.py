import pytest
import torch
from fakes import Absent, NoContender, Right, spec
from torch import nn

from torch2rt.bench.contenders import contender_names, load_contender, refusal
from torch2rt.bench.contenders.adapter import (
    FlatModel,
    cast_loaded,
    channels_last,
    flat_input_arrays,
    flat_inputs,
)
from torch2rt.bench.errors import UnknownContenderError
from torch2rt.bench.source import LoadedModel


@pytest.mark.parametrize("name", contender_names())
def test_every_shipped_contender_loads_and_is_named_as_its_file(name: str) -> None:
    contender = load_contender(name)
    assert contender.name == name
    assert "fp32" in contender.variants or "fp8" in contender.cuda_variants
    assert contender.is_peer == (name != "torch2rt")


def test_the_shipped_contenders() -> None:
    assert contender_names() == [
        "compile", "eager", "graph", "max_autotune", "onnxruntime", "openvino", "scaled_mm",
        "torch2rt",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorflow", "unknown contender 'tensorflow'. Known: compile, eager"),
        (spec(NoContender), "it is no Contender class"),
        ("no.such:Class", "No module named"),
    ],
)
def test_unknown_contenders_are_refused(name: str, message: str) -> None:
    with pytest.raises(UnknownContenderError, match=message):
        load_contender(name)


def test_a_missing_package_is_refused_with_the_command_that_installs_it() -> None:
    refused = refusal(Absent(), "fp32", "cpu")
    assert refused is not None
    assert refused.status == "not installed"
    assert refused.reason == "not installed: pip install no-such-distribution"


@pytest.mark.parametrize(("precision", "device"), [("bf16", "cpu"), ("fp32", "cuda:0")])
def test_what_a_contender_has_not_is_refused(precision: str, device: str) -> None:
    refused = refusal(Right(), precision, device)
    assert refused is not None
    assert refused.status == "n/a"


def test_what_a_contender_has_is_not_refused() -> None:
    assert refusal(Right(), "fp32", "cpu") is None


class Keyworded(nn.Module):
    def forward(
        self, a: torch.Tensor, *, scale: float, b: torch.Tensor
    ) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        return {"sum": a + b * scale, "both": [a, b]}


def test_flat_model_puts_tensors_back_where_they_belong() -> None:
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    loaded = LoadedModel(Keyworded(), (a,), {"scale": 2.0, "b": b})
    outputs = FlatModel(loaded)(*flat_inputs(loaded))
    assert [torch.equal(x, y) for x, y in zip(outputs, (a + b * 2, a, b), strict=True)] == [
        True
    ] * 3
    assert [array.shape for array in flat_input_arrays(loaded)] == [(2, 3), (2, 3)]


def test_nested_inputs_are_refused_for_export() -> None:
    loaded = LoadedModel(Keyworded(), ([torch.ones(1)],), {})
    with pytest.raises(TypeError, match="nested in containers"):
        flat_inputs(loaded)


def test_casting_leaves_integers_alone() -> None:
    loaded = LoadedModel(nn.Linear(2, 2), (torch.ones(2), torch.tensor([1])), {"flag": True})
    cast = cast_loaded(loaded, torch.bfloat16, "cpu")
    assert [value.dtype for value in cast.args] == [torch.bfloat16, torch.int64]  # type: ignore[attr-defined]
    assert cast.kwargs == {"flag": True}
    assert next(cast.model.parameters()).dtype is torch.bfloat16


def test_on_a_gpu_contenders_have_variants_of_their_own() -> None:
    assert load_contender("torch2rt").variants_on("cuda:0").keys() == {
        "fp32", "tf32", "bf16", "fp16", "int8", "fp8", "int8_weights",
    }
    assert "fp16" not in load_contender("torch2rt").variants_on("cpu")
    assert load_contender("eager").variants_on("cuda")["fp16"] == ("channels_last", "plain")
    assert refusal(load_contender("graph"), "fp16", "cpu") is not None
    assert refusal(load_contender("max_autotune"), "fp16", "cuda:1") is None


def test_channels_last_moves_images_and_their_weights() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 2))
    x = torch.randn(2, 4, 4, 4)
    expected = model(x)
    moved = channels_last(LoadedModel(model, (x, 1), {"b": x[0]}))
    assert moved.args[0].is_contiguous(memory_format=torch.channels_last)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert moved.args[1] == 1
    torch.testing.assert_close(moved.model(moved.args[0]), expected)
