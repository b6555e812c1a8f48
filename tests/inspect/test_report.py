"""The report accounts for every node, and says where and why."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.backend import Peaks
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.capture import capture
from torch2rt.engine.engine import Engine
from torch2rt.inspect.report import report_data, report_text, step_rows
from torch2rt.inspect.roofline import floor_us, step_cost
from torch2rt.inspect.steps import shorten, step_title
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.take import Take
from torch2rt.network.dtype import DType

NAMES = ["cnn", "mlp", "attention"]


class Unknown(nn.Module):
    """One operator without a rule, inside a named sub-module."""

    class Inner(nn.Module):
        def forward(self, x):
            return torch.special.i0(x)

    def __init__(self):
        super().__init__()
        self.odd = self.Inner()

    def forward(self, x):
        return torch.relu(self.odd(x) + 1)


@pytest.fixture(scope="module")
def unknown(tmp_path_factory):
    cache = tmp_path_factory.mktemp("report") / "timing.jsonl"
    return torch2rt.convert(
        Unknown(), torch.randn(3, 4), timing_cache=cache, threads=1, progress=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_captured_node_is_in_the_origins_of_a_layer(name, cases):
    case = cases[name]
    graph = capture(case.model, (case.x,), {}).graph_module.graph
    captured = {
        str(node.target) for node in graph.nodes
        if node.op == "call_function" and str(node.target).startswith("aten.")
    }
    data = report_data(case.rt.engine)
    covered = {op for layer in data["layers"] for _, op, _ in layer["from"]}
    assert captured
    assert captured <= covered
    text = report_text(case.rt.engine)
    assert all(op.removeprefix("aten.") in text for op in captured)


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_a_step_or_shares_memory(name, cases):
    engine = cases[name].rt.engine
    text = report_text(engine)
    plan = engine.plans[0]
    assert {layer.name for layer in engine.network.layers} == {
        *(step.layer for step in plan.steps if step.layer), *plan.viewed
    }
    for position, step in enumerate(plan.steps):
        row = shorten(step_title(plan, position), 40)
        assert any(row in line and step.tactic in line for line in text.splitlines())
    for name in plan.viewed:
        assert any(name in line and "shares memory" in line for line in text.splitlines())


def test_text_tells_what_was_fused_and_what_was_not(cases):
    text = cases["cnn"].rt.report()
    assert "fallback layers: none" in text
    assert "fuse_epilogue x" in text
    assert "stem (convolution) = stem:conv2d.default [" in text
    assert "norm:batch_norm.default" in text
    assert "verified against the model, relative error: output" in text
    engine = cases["cnn"].rt.engine
    for rule, _, where, reason in engine.report["rejected"]:
        assert f"  {rule} at {where}: {reason}" in text


def test_refusals_carry_a_reason(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y), y.sigmoid(), y

    rt = torch2rt.convert(
        Shared().eval(), torch.randn(1, 4, 5, 5), timing_cache=tmp_path / "t.jsonl", threads=1,
        progress=False,
    )
    rows = rt.engine.report["rejected"]
    assert any(layer and reason for _, layer, _, reason in rows)
    text = rt.report()
    assert "fusions that did not fire:" in text
    assert "conv" in text.split("fusions that did not fire:")[1]


def test_fallbacks_are_listed_with_module_path_and_source_line(unknown):
    text = unknown.report()
    assert "fallback layers: 1 node(s) run through PyTorch" in text
    (line,) = [line for line in text.splitlines() if "special_i0" in line and " at odd [" in line]
    assert "test_report.py:" in line
    assert unknown.engine.needs_torch


def test_json_holds_the_same_and_is_written(unknown, cases, tmp_path):
    target = tmp_path / "report.json"
    unknown.report(target)
    data = json.loads(target.read_text())
    assert data["fallbacks"][0][1] == "odd"
    assert {"bindings", "precision", "device", "layers", "plans", "fired", "rejected"} <= set(data)
    assert data["plans"][0]["symbols"]
    cases["mlp"].rt.report(tmp_path / "report.txt")
    assert (tmp_path / "report.txt").read_text() == cases["mlp"].rt.report()


def test_a_loaded_engine_still_tells(unknown, tmp_path):
    unknown.save(tmp_path / "m.engine")
    loaded = torch2rt.load(tmp_path / "m.engine")
    assert loaded.report() == unknown.report()


def test_a_reformat_is_named_by_its_neighbours(cases):
    plan = cases["cnn"].rt.engine.plans[0]
    titles = [step_title(plan, i) for i, step in enumerate(plan.steps) if not step.layer]
    for title in titles:
        assert title.startswith("reformat of ")
        assert " for " in title


def test_long_names_keep_both_ends():
    assert shorten("abc", 5) == "abc"
    assert shorten("encoder.layers.11.attention.output", 20) == "encoder.l..on.output"
    assert all(len(shorten("x" * n, 9)) <= 9 for n in range(30))


PEAKS = Peaks(1e12, {DType.FLOAT32: 1e13, DType.FLOAT16: 1e14})


def test_steps_tell_their_share_of_the_peaks(cases, monkeypatch):
    engine = cases["mlp"].rt.engine
    plan = engine.plans[0]
    assert all(row.share is None for row in step_rows(engine, plan))
    assert "of it)" not in report_text(engine)
    monkeypatch.setattr(type(engine.backend), "peaks", lambda self: PEAKS)
    rows = step_rows(engine, plan)
    product = next(row for row in rows if row.layer == "first")
    assert product.flops == 2 * 3 * 12 * 24
    assert product.bytes >= 4 * (3 * 12 + 12 * 24 + 3 * 24)
    assert product.floor_us == pytest.approx(product.bytes / 1e6)
    assert product.share == pytest.approx(product.floor_us / product.time_us)
    text = report_text(engine)
    assert "the device's peaks allow" in text
    data = report_data(engine)
    assert data["steps"][0][0]["floor_us"] == rows[0].floor_us


def test_floors_know_tf32_and_tables():
    def spec_of(kind, *shapes, dtype=DType.FLOAT32):
        *inputs, output = (TensorSpec(shape, dtype) for shape in shapes)
        return LayerSpec("x", "x", kind, None, tuple(inputs), (output,), (None,) * 2)

    shapes = (4096, 4096), (4096, 4096), (4096, 4096)
    flops = 2 * 4096**3
    assert floor_us(spec_of(Matmul(), *shapes), PEAKS) == pytest.approx(flops / 1e13 * 1e6)
    fast = floor_us(spec_of(Matmul(tf32=True), *shapes), PEAKS)
    assert fast == pytest.approx(flops / 5e13 * 1e6)
    table = LayerSpec(
        "x", "x", Take(axis=0), None,
        (TensorSpec((1000, 8), DType.FLOAT32), TensorSpec((5,), DType.INT64)),
        (TensorSpec((5, 8), DType.FLOAT32),), (None, None),
    )
    assert step_cost(table).bytes == 2 * 5 * 8 * 4 + 5 * 8


def test_untuned_steps_are_told(cases):
    engine = cases["mlp"].rt.engine
    plan = replace(engine.plans[0], untuned=2)
    other = Engine(engine.network, [plan], engine.backend, weights=engine.weights)
    assert "2 step(s) have a tactic that was not measured" in report_text(other)
