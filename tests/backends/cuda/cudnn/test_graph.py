"""Descriptions as graphs of the installed package, as far as that goes without cuDNN's library."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tactic_testing import make_spec

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.cudnn import binding, graph
from torch2rt.backends.cuda.cudnn.description import GraphDescription
from torch2rt.backends.cuda.cudnn.plan import PlanJob
from torch2rt.backends.cuda.cudnn.tactic import CudnnTactic
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.attention import Attention
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.layer import LayerKind

TACTICS = "torch2rt.backends.cuda.tactics"
WINDOW = Convolution((1, 1), (1, 1), (1, 1), (1, 1))
IMAGES = [(2, 16, 6, 6), (16, 16, 3, 3)]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package alone: on this machine there may be no library."""
    package = pytest.importorskip("cudnn", reason="nvidia-cudnn-frontend is not installed")
    monkeypatch.setattr(graph, "cudnn", lambda: package)
    monkeypatch.setattr(binding, "cudnn", lambda: package)
    return package


def description_of(
    kind: LayerKind, shapes: list[tuple[int, ...]], epilogue: str | None = None,
    dtype: torch.dtype = torch.float16,
) -> GraphDescription:
    tactic = find_tactic(TACTICS, f"{kind.name}.cudnn.plan0")
    assert isinstance(tactic, CudnnTactic)
    spec = make_spec(kind, [torch.empty(shape, dtype=dtype) for shape in shapes], epilogue, [1])
    return tactic.graph(spec.with_layouts(tactic.layouts(spec)[0])).description


def ops(built: Any) -> list[str]:
    return [node.params.get("mode", node.node_type.name.lower()) for node in built.nodes]


def test_a_convolution(module: Any) -> None:
    description = description_of(
        WINDOW, [*IMAGES, (16, 1, 1), (2, 16, 6, 6)], "clamp(add(mul(i0,0.5),i2),0.0,6.0)"
    )
    built = graph._graph(description, None)
    assert ops(built) == ["conv_fprop", "mul", "add", "relu"]
    image, weight, _, residual = (built.find_tensor(uid) for uid in range(1, 5))
    assert image.stride == [16 * 36, 1, 16 * 6, 16]
    assert weight.dim == [16, 16, 3, 3]
    assert weight.stride == [16 * 9, 1, 16 * 3, 16]
    assert residual.data_type is module.data_type.HALF
    assert built.nodes[0].params["pre_padding"] == [1, 1]
    assert built.nodes[-1].params["upper_clip"] == 6.0
    output = built.find_tensor(description.output_uid)
    assert output.dim == [2, 16, 6, 6]
    assert not output.is_virtual


def test_a_bias_is_float32(module: Any) -> None:
    tactic = find_tactic(TACTICS, "convolution.cudnn.plan0")
    inputs = [torch.empty(shape).half() for shape in IMAGES] + [torch.empty(16, 1, 1)]
    spec = make_spec(WINDOW, inputs, "add(i0,i1)", [1, 2])
    assert isinstance(tactic, CudnnTactic)
    built = graph._graph(tactic.graph(spec).description, None)
    bias = built.find_tensor(3)
    assert (bias.dim, bias.stride) == ([1, 16, 1, 1], [16, 1, 16, 16])
    assert bias.data_type is module.data_type.FLOAT


OTHERS = {
    "deconv": (
        Deconvolution((2, 2), (1, 1), (0, 0), (1, 1)), [(1, 16, 5, 5), (16, 8, 3, 3)],
        "conv_dgrad",
    ),
    "matmul": (Matmul(transpose_b=True), [(2, 3, 16), (24, 16)], "matmul"),
    "attention": (Attention(0.5, is_causal=True), [(1, 2, 8, 16)] * 3, "sdpa"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_kinds(case: str, module: Any) -> None:
    kind, shapes, op = OTHERS[case]
    built = graph._graph(description_of(kind, shapes), None)
    assert ops(built) == [op]


def test_every_pointwise_node_is_a_method_of_the_package(module: Any) -> None:
    """With the attributes that we give it."""
    texts = [
        "leaky_relu(i0,0.1)", "elu(i0,1.0)", "silu(i0)", "gelu_tanh(i0)", "hardswish(i0)",
        "max(i0,0.5)", "div(1.0,i0)", "erf(i0)", "to_float32(i0)",
    ]
    for text in texts:
        built = graph._graph(description_of(WINDOW, IMAGES, text), None)
        assert ops(built)[0] == "conv_fprop"


def test_digests_tell_descriptions_apart_and_are_the_same_in_every_process() -> None:
    plain, other = description_of(WINDOW, IMAGES), description_of(WINDOW, IMAGES, "relu(i0)")
    assert plain.digest == description_of(WINDOW, IMAGES).digest != other.digest
    script = "import pickle, sys; print(pickle.load(sys.stdin.buffer).digest)"
    printed = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(plain), capture_output=True, check=True
    )
    assert printed.stdout.decode().strip() == plain.digest


def test_full_float32_is_part_of_the_description() -> None:
    exact = description_of(WINDOW, IMAGES, dtype=torch.float32)
    rounded = description_of(
        Convolution((1, 1), (1, 1), (1, 1), (1, 1), tf32=True), IMAGES, dtype=torch.float32
    )
    assert exact.is_full_float32
    assert not rounded.is_full_float32
    assert not description_of(WINDOW, IMAGES).is_full_float32


class FakePlans:
    """A graph with plans of which some are barred or belong to other engines."""

    class Plan:
        def __init__(self, cpp_index: int | None) -> None:
            self.cpp_index = cpp_index

    def __init__(self, barred: set[int], foreign: set[int]) -> None:
        self.plans = [self.Plan(None if i in foreign else i) for i in range(5)]
        self.barred = barred
        self.built: list[int] = []

    def build_plan_at_index(self, index: int) -> None:
        if index in self.barred:
            raise RuntimeError("Deselecting execution plan\nand much more")
        self.built.append(index)


@pytest.mark.parametrize(
    ("choice", "barred", "foreign", "index"),
    [(0, set(), set(), 0), (2, set(), set(), 2), (0, set(), {0}, 1), (1, {0, 2}, set(), 3)],
)
def test_the_choice_counts_plans_that_may_be_used(
    choice: int, barred: set[int], foreign: set[int], index: int, module: Any
) -> None:
    fake = FakePlans(barred, foreign)
    assert graph.build_plan(fake, choice, may_be_barred=bool(barred)) == index
    assert fake.built[-1] == index


def test_a_plan_that_is_not_there_is_a_reason(module: Any) -> None:
    with pytest.raises(Unprepared, match="fewer than 6 plans"):
        graph.build_plan(FakePlans(set(), set()), 5, may_be_barred=False)
    with pytest.raises(Unprepared, match="does not build the plan: Deselecting"):
        graph.build_plan(FakePlans({1}, set()), 1, may_be_barred=False)


@pytest.mark.parametrize("kind", ["convolution", "deconvolution", "matmul", "attention"])
def test_every_variant_is_found_by_its_name(kind: str) -> None:
    module = importlib.import_module(f"{TACTICS}.{kind}_cudnn")
    for choice in range(module.PLAN_COUNT):
        tactic = find_tactic(TACTICS, f"{kind}.cudnn.plan{choice}")
        assert isinstance(tactic, CudnnTactic)
        assert (tactic.choice, tactic.kinds) == (choice, (kind,))
    with pytest.raises(KeyError):
        find_tactic(TACTICS, f"{kind}.cudnn.plan{module.PLAN_COUNT}")


def test_a_job_survives_pickling() -> None:
    job = PlanJob(description_of(WINDOW, IMAGES), 3, 0)
    assert pickle.loads(pickle.dumps(job)) == job
