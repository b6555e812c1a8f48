"""The common check goes red for each kind of fault it is there to find."""

from collections.abc import Sequence

import pytest
import torch
from layer_testing import check_rule

from torch2rt.layers.softmax import Softmax
from torch2rt.network.tensor import TensorType


def model(x: torch.Tensor) -> torch.Tensor:
    return x.softmax(1)


def test_right_rule_passes() -> None:
    check_rule(model, torch.randn(2, 3))


def test_wrong_value_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def reference(self: Softmax, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return (torch.softmax(inputs[0], self.axis) + 1e-7,)

    monkeypatch.setattr(Softmax, "reference", reference)
    with pytest.raises(AssertionError, match="output 0"):
        check_rule(model, torch.randn(2, 3))


def test_reference_of_another_shape_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Softmax, "reference", lambda self, inputs: (inputs[0].softmax(1)[:, :1],))
    with pytest.raises(AssertionError, match="softmax"):
        check_rule(model, torch.randn(2, 3))


def test_inference_that_is_wrong_for_one_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(self: Softmax, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType((2, *inputs[0].shape[1:]), inputs[0].dtype),)

    monkeypatch.setattr(Softmax, "infer", infer)
    with pytest.raises(AssertionError, match="softmax"):
        check_rule(model, torch.randn(2, 3))


def test_fallback_is_found() -> None:
    with pytest.raises(AssertionError, match="scalar"):
        check_rule(lambda x: x.sum().softmax(0), torch.randn(2, 3))


def test_static_batch_is_found() -> None:
    with pytest.raises(AssertionError, match="is not dynamic"):
        check_rule(lambda x: (x + torch.ones(2, 1)).softmax(1), torch.randn(2, 3))


def test_unexpected_kinds_are_found() -> None:
    with pytest.raises(AssertionError, match="expected"):
        check_rule(model, torch.randn(2, 3), kinds={"reduce"})
