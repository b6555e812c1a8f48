from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from torch2rt.calls.pytree import OutputSpec
from torch2rt.capture import CapturedGraph, PartialModule, capture
from torch2rt.capture.check import difference
from torch2rt.capture.errors import BufferMutationError
from torch2rt.capture.partial import Piece, Runner

Tensor = torch.Tensor


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.table = torch.ones(3)

    def forward(self, x: Tensor, times: int = 2) -> dict[str, Any]:
        hidden = self.norm(self.first(x))
        hidden = hidden * 2 + self.table if hidden.sum() > 0 else hidden - 1
        return {"out": self.first(hidden) * times, "parts": [hidden, None]}


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


class Recorder:
    """Captures every piece and runs the captured graphs."""

    def __init__(self) -> None:
        self.graphs: list[CapturedGraph] = []

    def __call__(self, piece: Piece, tensors: tuple[Tensor, ...]) -> Runner:
        captured = capture(piece, tensors, {})
        self.graphs.append(captured)

        def run(*given: Tensor) -> Sequence[Tensor]:
            return captured.run(list(given))

        return run


def assert_same(partial: PartialModule, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    with torch.no_grad():
        spec, expected = OutputSpec.from_value(model.eval()(*args, **kwargs))
    found_spec, found = OutputSpec.from_value(partial(*args, **kwargs))
    assert found_spec == spec
    assert difference(spec.names, expected, found) is None


def test_a_branching_model_runs_as_captured_pieces() -> None:
    model, recorder = Branching().train(), Recorder()
    partial = PartialModule(model, recorder)
    assert model.training
    for x in (torch.ones(2, 3), -torch.ones(2, 3), torch.randn(5, 3)):
        assert_same(partial, model, x)
    assert_same(partial, model, torch.ones(2, 3), times=3)
    assert len(partial.pieces) == len(recorder.graphs) >= 3


def test_the_models_tensors_are_state_of_the_pieces() -> None:
    recorder = Recorder()
    model = Branching()
    PartialModule(model, recorder)(torch.ones(2, 3))
    first = recorder.graphs[0]
    assert len(first.inputs) == 1
    pointers = {tensor.data_ptr() for _, tensor in first.state.values()}
    assert model.first.weight.data_ptr() in pointers
    assert any("first_weight" in name for name, _ in first.state.values())


def test_both_branches_and_every_shape_are_converted_once() -> None:
    recorder = Recorder()
    model = Branching()
    partial = PartialModule(model, recorder)
    for x in (torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3) * 2):
        partial(x)
    once = len(recorder.graphs)
    partial(torch.ones(4, 3))
    assert len(recorder.graphs) > once


def test_a_model_without_decisions_is_one_piece() -> None:
    recorder = Recorder()
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    partial = PartialModule(model, recorder)
    assert_same(partial, model, torch.randn(2, 3))
    assert len(partial.pieces) == 1


def test_an_error_of_a_piece_reaches_the_caller() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.count.add_(1)

    with pytest.raises(BufferMutationError, match="writes to buffer 'count_"):
        PartialModule(Counting(), Recorder())(torch.ones(2, 3))
