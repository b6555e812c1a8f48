from __future__ import annotations

import gc

import torch
from torch import nn

from torch2rt.capture import CapturedGraph, capture
from torch2rt.capture.check import difference

Tensor = torch.Tensor


class Plugin(nn.Module):
    """Everything a graph could not hold: control flow by value, keywords, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

    def forward(self, x: Tensor, *, scale: float, extra: list[Tensor]) -> dict[str, Tensor | int]:
        return {"y": self.inner(x) * scale + extra[0], "same": x, "n": 3}


class Special(Plugin):
    pass


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.neck = nn.ModuleDict({"plugin": Special()})

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        found = self.neck["plugin"](x, scale=2.0, extra=[x])
        found = self.neck["plugin"](found["y"] * found["n"], scale=3.0, extra=[found["same"]])
        return found["y"].relu_()


def targets(captured: CapturedGraph) -> list[str]:
    return [
        str(node.target) for node in captured.graph_module.graph.nodes
        if node.op == "call_function"
    ]


def test_each_call_is_one_node_with_what_is_needed_to_run_it() -> None:
    model = Net().train()
    x = torch.randn(2, 4)
    captured = capture(model, (x,), {}, opaque_modules=(Plugin,))
    names = targets(captured)
    assert names.count("torch2rt.opaque.default") == 2
    assert names.count("aten.linear.default") == 1
    assert len(captured.state) == 2
    first, second = captured.opaque.values()
    assert first.path == second.path == "neck.plugin"
    assert isinstance(first.module, Special)
    assert not first.module.training
    assert first.call_spec.names == ("x", "extra.0")
    assert first.output_spec is not None
    assert first.output_spec.names == ("y", "same")
    assert second.call_spec.parameters != first.call_spec.parameters  # the scale is a constant


def test_the_graph_runs_the_module_at_any_batch() -> None:
    model = Net().eval()
    captured = capture(model, (torch.randn(2, 4),), {}, opaque_modules=(Plugin,))
    assert [limits.minimum for limits in captured.symbols.values()] == [1]
    gc.collect()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 4)
        with torch.no_grad():
            assert difference(["y"], [model(x)], captured.run([x])) is None


def test_the_model_itself_is_not_touched_and_calls_go_with_their_graph() -> None:
    from torch2rt.capture import opaque

    model = Net()
    captured = capture(model, (torch.randn(2, 4),), {}, opaque_modules=(Plugin,))
    assert "forward" not in vars(model.neck["plugin"])
    keys = set(captured.opaque)
    assert keys <= set(opaque._calls)
    del captured
    gc.collect()
    assert not keys & set(opaque._calls)


def test_without_the_argument_modules_are_looked_into() -> None:
    captured = capture(Net(), (torch.randn(2, 4),), {})
    assert captured.opaque == {}
    assert targets(captured).count("aten.linear.default") == 3
