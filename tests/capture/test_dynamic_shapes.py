from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from torch2rt.capture import CapturedGraph, capture
from torch2rt.capture.check import compare, difference, relative_error
from torch2rt.capture.errors import CaptureError, DynamicShapeError
from torch2rt.capture.shapes import resized
from torch2rt.capture.trace import Tracer
from torch2rt.errors import PytreeError

Tensor = torch.Tensor


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Any = None) -> Any:
        return self.function(x) if y is None else self.function(x, y)


def ranges(captured: CapturedGraph) -> list[tuple[int, int | None, str, int]]:
    return [tuple(limits) for limits in captured.symbols.values()]


def assert_right_at(captured: CapturedGraph, model: nn.Module, *tensors: Tensor) -> None:
    expected = [tensor.clone() for tensor in tensors]
    assert compare(Tracer(model, captured.call_spec), captured, expected) is None


def _is_traced(x: Tensor) -> bool:
    return type(x) is not Tensor


# ---- a free batch is tried -----------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_free_from_one_on(batch: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    captured = capture(model, (torch.randn(batch, 3, 6, 6),), {})
    assert ranges(captured) == [(1, None, "input", 0)]
    assert captured.notes == []
    for size in (1, 2, 3, 7):
        assert_right_at(captured, model, torch.randn(size, 3, 6, 6))


def test_inputs_of_one_batch_share_a_symbol() -> None:
    model = Function(lambda x, y: (x.sum(1), y["a"].sum(1)))
    captured = capture(model, (torch.ones(1, 3),), {"y": {"a": torch.ones(1, 5)}})
    assert ranges(captured) == [(1, None, "x", 0)]
    sizes = [str(item.value.shape[0]) for item in captured.inputs]
    assert sizes == list(captured.symbols) * 2


def test_inputs_whose_first_axes_only_happen_to_agree() -> None:
    model = Function(lambda x, y: x @ y)  # y is (4, 4): its first axis is x's second
    captured = capture(model, (torch.randn(4, 4), torch.randn(4, 4)), {})
    assert_right_at(captured, model, torch.randn(4, 4), torch.randn(4, 4))
    for name, index, axis in ((limits[2], 0, limits[3]) for limits in ranges(captured)):
        assert (name, index, axis) == ("x", 0, 0)


def test_in_place_programs_of_symbolic_size() -> None:
    def function(x: Tensor) -> Tensor:
        h = x * 2
        h[:, 0] += 1
        left, right = h.chunk(2, 1)
        left.copy_(right)
        first, _ = h.split([1, h.size(0) - 1])
        first.mul_(3)
        h.view(h.size(0), 2, 2).transpose(1, 2)[:, 1].fill_(7)
        h.unbind(1)[3].zero_()
        return h.flatten(1).relu_()

    captured = capture(Function(function), (torch.randn(3, 4),), {})
    assert captured.symbols
    for size in (2, 3, 6):
        assert_right_at(captured, Function(function), torch.randn(size, 4))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.reshape(3, 8) + torch.ones(3, 8), "the model fixes its batch size"),
        (lambda x: (x * 2, x.shape[0]), "output.1: a Python number that depends on the size"),
        (lambda x: x.reshape(-1, 3, 8).sum(0), "the model fails there"),
        (
            lambda x: x * (2 if _is_traced(x) else 2 + (len(x) < 3)),
            "differs at sizes x[0]=2: output 'output' has relative error",
        ),
    ],
)
def test_a_batch_that_cannot_be_free_is_fixed_and_the_reason_noted(
    function: Callable[[Tensor], Any], reason: str
) -> None:
    x = torch.randn(3, 8)
    captured = capture(Function(function), (x,), {})
    assert captured.symbols == {}
    (note,) = captured.notes
    assert note.startswith("every size is fixed to the example's: ")
    assert reason in note
    assert_right_at(captured, Function(function), x)


def test_a_fixed_capture_is_compared_with_the_model_too() -> None:
    model = Function(lambda x: x.reshape(3, 8) * (2 if _is_traced(x) else 3))
    with pytest.raises(CaptureError, match="the captured graph differs from the model: output"):
        capture(model, (torch.randn(3, 8),), {})


def test_rank_zero_and_empty_inputs_have_no_batch() -> None:
    for x in (torch.tensor(3.0), torch.ones(0, 4)):
        captured = capture(Function(lambda x: x * 2), (x,), {})
        assert captured.symbols == {}
        assert captured.notes == [
            "every size is fixed to the example's: no input has a batch axis"
        ]


def test_size_one_is_left_out_where_the_model_treats_it_otherwise() -> None:
    captured = capture(Function(lambda x: x.squeeze()), (torch.randn(4, 3),), {})
    assert ranges(captured) == [(2, None, "x", 0)]
    captured = capture(Function(lambda x: x.squeeze()), (torch.randn(1, 3),), {})
    assert captured.symbols == {}


def test_random_numbers_are_drawn_alike_for_the_comparison() -> None:
    model = Function(lambda x: x + torch.rand_like(x))
    captured = capture(model, (torch.randn(3, 4),), {})
    assert ranges(captured) == [(1, None, "x", 0)]


# ---- dynamic_shapes ------------------------------------------------------------------------

FORMS: list[Any] = [
    {"x": {0: "batch", 2: (4, 64)}},
    {"x": {0: "batch", -1: ("width", 4, 64)}},
    {"x": ["batch", None, (4, 64)]},
    ({0: "batch", 2: (4, 64)},),
    {"x": {0: Dim("batch"), 2: Dim("width", min=4, max=64)}},
    {"x": {0: Dim.AUTO, 1: Dim.STATIC, 2: Dim.DYNAMIC(min=4, max=64)}},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms_of_dynamic_shapes(form: object) -> None:
    model = Function(lambda x: torch.softmax(x, -1).flatten(1))
    captured = capture(model, (torch.randn(1, 3, 8),), {}, dynamic_shapes=form)
    assert ranges(captured) == [(1, None, "x", 0), (4, 64, "x", 2)]
    for size in ((1, 3, 4), (5, 3, 64), (2, 3, 9)):
        assert_right_at(captured, model, torch.randn(size))


@pytest.mark.parametrize(
    "form",
    [
        {"x": {0: "batch"}, "y": {"a": {0: "batch"}, "b": None}},
        {"x": {0: "batch"}, "y.a": {0: "batch"}},
        ({0: "batch"}, {"a": {0: "batch"}}),
    ],
    ids=str,
)
def test_nested_inputs_and_axes_of_one_name(form: object) -> None:
    model = Function(lambda x, y: (x.sum(1), y["a"].sum(1) + y["b"].sum()))
    y = {"a": torch.ones(2, 5), "b": torch.ones(2), "c": 3}
    captured = capture(model, (torch.ones(2, 3), y), {}, dynamic_shapes=form)
    assert ranges(captured) == [(1, None, "x", 0)]
    assert captured.inputs[2].value.shape == (2,)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"z": {0: "batch"}}, "the model has no input 'z'; it takes x"),
        ({"x": {3: "batch"}}, "input 'x' of rank 2 has no axis 3"),
        ({"x": {0: 1.5}}, r"'x' axis 0: 1\.5 is no specification"),
        ({"x": {0: (5, 2)}}, r"'x' axis 0: the range 5\.\.2 is empty"),
        ({"x": None}, "it leaves every axis fixed"),
        ({"x": 7}, "7 for input 'x' is neither a dict nor a list"),
        ([None, None, None], r"3 entries for 1 argument"),
        ("batch", "'batch' is neither a dict nor a tuple"),
        ({"x": {0: "n", 1: "n"}}, "axis 0 of 'x' and axis 1 of 'x' have one name"),
    ],
)
def test_dynamic_shapes_that_make_no_sense(form: object, message: str) -> None:
    model = Function(lambda x: x * 2)
    with pytest.raises(DynamicShapeError, match=message):
        capture(model, (torch.ones(4, 3),), {}, dynamic_shapes=form)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            lambda x: x + torch.ones(3, 8), DynamicShapeError,
            r"marked x\.size\(\)\[0\] as dynamic but your code specialized it to be a constant \(3",
        ),
        (lambda x: (x, x.shape[0]), PytreeError, "depends on the size of the inputs"),
        (
            lambda x: x * (2 if _is_traced(x) else 2 + (len(x) < 3)),
            DynamicShapeError, "the captured graph differs from the model at",
        ),
    ],
)
def test_dynamic_shapes_are_obligatory(
    function: Callable[[Tensor], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        capture(Function(function), (torch.ones(3, 8),), {}, dynamic_shapes={"x": {0: "batch"}})


def test_a_range_that_the_model_narrows() -> None:
    model = Function(lambda x: x * 2 if x.shape[0] < 5 else x)
    with pytest.raises(DynamicShapeError, match="to range from 2 to 9; the model takes 2 to 4"):
        capture(model, (torch.ones(3, 8),), {}, dynamic_shapes={"x": {0: (2, 9)}})
    captured = capture(model, (torch.ones(3, 8),), {}, dynamic_shapes={"x": {0: (2, 4)}})
    assert ranges(captured) == [(1, 4, "x", 0)]


def test_sizes_that_the_model_takes_are_looked_for() -> None:
    model = Function(lambda x: x.reshape(x.shape[0] // 4, 4, -1).sum(1))
    captured = capture(model, (torch.randn(8, 3),), {}, dynamic_shapes={"x": {0: (4, 64)}})
    assert_right_at(captured, model, torch.randn(16, 3))


# ---- the pieces ----------------------------------------------------------------------------


def test_resized_repeats_and_tells_the_copies_apart() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    grown = resized(x, {0: 3})
    assert torch.equal(grown[:2], x)
    assert torch.equal(grown[2], x[0] * 15 / 16)
    assert torch.equal(resized(x, {0: 1}), x[:1])
    assert torch.equal(resized(torch.tensor([5, 6]), {0: 3}), torch.tensor([5, 6, 5]))


def test_difference_sees_value_shape_dtype_and_nan() -> None:
    one = torch.tensor([1.0, torch.nan, torch.inf])
    assert difference(["o"], [one], [one.clone()]) is None
    assert relative_error(torch.ones(4), torch.full((4,), 1.1)) == pytest.approx(0.1, rel=1e-5)
    for other in (
        torch.tensor([1.1, torch.nan, torch.inf]), torch.tensor([1.0, 2.0, torch.inf]),
        torch.tensor([1.0, torch.nan, -torch.inf]), one.double(), one[None],
    ):
        assert "output 'o'" in str(difference(["o"], [one], [other]))
    assert difference(["o"], [torch.tensor([1])], [torch.tensor([2])]) is not None
