from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from torch2rt.calls.pytree import OutputSpec
from torch2rt.capture import CapturedGraph, capture
from torch2rt.capture.captured import module_path, source_line
from torch2rt.capture.check import difference
from torch2rt.capture.errors import (
    BufferMutationError,
    CaptureError,
    DataDependentError,
    MutationError,
)
from torch2rt.errors import CallError, PytreeError

Tensor = torch.Tensor
X = torch.linspace(-2, 2, 12).reshape(3, 4)


class Wrapped(nn.Module):
    """A function as a module, with a buffer, a parameter and a plain tensor to use."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.full((4,), 2.0))
        self.register_buffer("count", torch.zeros(4))
        self.register_buffer("scratch", torch.zeros(4), persistent=False)
        self.table = torch.arange(4.0)
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def nodes(captured: CapturedGraph, op: str = "call_function") -> list[fx.Node]:
    return [node for node in captured.graph_module.graph.nodes if node.op == op]


def assert_same(captured: CapturedGraph, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """The graph computes what the model in eval mode does, and leaves the inputs alone."""
    flat = captured.call_spec.flatten(args, kwargs)
    copies = [tensor.clone() for tensor in flat]
    found = captured.run(copies)
    assert difference(captured.call_spec.names, flat, copies) is None
    was_training = model.training
    with torch.no_grad():
        call = captured.call_spec.unflatten(copies)
        spec, expected = OutputSpec.from_value(model.eval()(*call[0], **call[1]))
    model.train(was_training)
    assert spec == captured.output_spec
    assert difference(spec.names, expected, found) is None


# ---- what is kept --------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image: Tensor, scale: float = 1.0) -> dict[str, Any]:
        hidden = torch.relu(self.norm(self.conv(image)))
        return {"hidden": hidden * scale, "size": 4, "none": None}


def test_a_model_in_training_mode_is_captured_as_eval_and_left_as_it_was() -> None:
    model = Block().train()
    model.norm.running_mean.uniform_()  # type: ignore[union-attr]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    image = torch.randn(2, 3, 6, 6, requires_grad=True)
    captured = capture(model, (image,), {"scale": 2.0})
    assert_same(captured, model, image.detach(), scale=2.0)
    assert model.training
    assert model.norm.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert image.grad is None


def test_state_is_named_and_shares_the_models_memory() -> None:
    model = Block()
    captured = capture(model, (torch.randn(2, 3, 6, 6),), {})
    by_name = dict(captured.state.values())
    assert set(by_name) == {
        "conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean",
        "norm.running_var",
    }
    for name, tensor in by_name.items():
        assert tensor.data_ptr() == model.state_dict()[name].data_ptr()
        assert not tensor.requires_grad
    placeholders = {node.name for node in nodes(captured, "placeholder")}
    assert placeholders == set(captured.state) | {item.placeholder for item in captured.inputs}


def test_nodes_keep_value_module_path_and_source_line() -> None:
    captured = capture(Block(), (torch.randn(2, 3, 6, 6),), {})
    origins = [(str(node.target), module_path(node)) for node in nodes(captured)]
    assert origins[:3] == [
        ("aten.conv2d.default", "conv"), ("aten.batch_norm.default", "norm"),
        ("aten.relu.default", ""),
    ]
    for node in nodes(captured):
        assert isinstance(node.meta["val"], Tensor)
        assert source_line(node).startswith("test_export.py:")


def test_outputs_keep_their_structure() -> None:
    image = torch.randn(2, 3, 6, 6)
    captured = capture(Block(), (image,), {})
    assert [output.name for output in captured.outputs] == ["hidden"]
    rebuilt = captured.output_spec.rebuild(captured.run([image]))
    assert list(rebuilt) == ["hidden", "size", "none"]
    assert (rebuilt["size"], rebuilt["none"]) == (4, None)


def test_shared_modules_and_tied_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first
            self.head = nn.Linear(4, 4)
            self.head.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(x)))

    model = Twice()
    captured = capture(model, (X,), {})
    assert_same(captured, model, X)
    pointers = {tensor.data_ptr() for _, tensor in captured.state.values()}
    assert len(pointers) == 3  # one weight, two biases


def test_outputs_that_are_inputs_parameters_and_one_another() -> None:
    model = Wrapped(lambda self, x, y: (y, self.weight, x[0], (z := x + 1), z, self.table))
    captured = capture(model, (X, X + 1), {})
    assert_same(captured, model, X, X + 1)
    assert captured.outputs[0].input_index == 1
    assert captured.outputs[0].node is None
    assert captured.outputs[3].node is captured.outputs[4].node


def test_one_tensor_given_twice_stays_two_inputs() -> None:
    model = Wrapped(lambda self, x, y: x * 2 + y)
    captured = capture(model, (X, X), {})
    assert_same(captured, model, X, X + 5)


def test_nested_inputs_and_constants() -> None:
    model = Wrapped(
        lambda self, batch, flag, *rest, mode="a": batch["x"][0] * (2 if flag else 3) + rest[0]
    )
    args = {"x": (X, 7)}, True, X
    captured = capture(model, args, {"mode": "b"})
    assert [item.name for item in captured.inputs] == ["args.0.x.0", "args.2"]
    assert_same(captured, model, *args, mode="b")


def test_values_that_are_not_numbers_pass_through() -> None:
    model = Wrapped(lambda self, x: torch.relu(x) + x.sum(0))
    captured = capture(model, (X,), {})
    assert_same(captured, model, torch.where(X > 1, torch.nan, X))
    assert_same(captured, model, torch.where(X > 1, torch.inf, X))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), ()])
def test_empty_and_scalar_inputs(shape: tuple[int, ...]) -> None:
    model = Wrapped(lambda self, x: (x * 2).sum())
    x = torch.ones(shape)
    assert_same(capture(model, (x,), {}), model, x)


def test_non_contiguous_inputs() -> None:
    model = Wrapped(lambda self, x: x.reshape(-1) + 1)
    captured = capture(model, (X.t(),), {})
    assert_same(captured, model, X.t())
    assert_same(captured, model, X.t().contiguous())


# ---- modes inside of forward ---------------------------------------------------------------


def test_regions_without_gradients_are_inlined() -> None:
    def forward(self: Wrapped, x: Tensor) -> Tensor:
        with torch.enable_grad():
            hidden = x * self.weight
            with torch.no_grad():
                hidden.add_(1)
            view = hidden[0]
        view.mul_(3)
        return hidden

    model = Wrapped(forward)
    captured = capture(model, (X,), {})
    assert not nodes(captured, "get_attr")
    assert_same(captured, model, X)


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_becomes_casts(enabled: bool) -> None:
    layer = nn.Linear(4, 4)

    def forward(self: Wrapped, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            return nn.functional.linear(x, self.layer.weight), x.mean()  # type: ignore[union-attr,arg-type]

    model = Wrapped(forward)
    model.layer = layer
    captured = capture(model, (X,), {})
    assert_same(captured, model, X)
    (first, _) = captured.run([X])
    assert first.dtype is (torch.bfloat16 if enabled else torch.float32)


# ---- hooks and attributes ------------------------------------------------------------------


def test_hooks_are_part_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    captured = capture(model, (X,), {})
    assert_same(captured, model, X)
    assert len(model[0]._forward_hooks) == 1


def test_attributes_that_cannot_be_copied_are_shared() -> None:
    model = Wrapped(lambda self, x: x + self.weight)
    model.lock = threading.Lock()  # type: ignore[assignment]
    assert_same(capture(model, (X,), {}), model, X)


def test_tensors_in_plain_attributes_need_not_be_leaves() -> None:
    model = Wrapped(lambda self, x: x + self.derived["a"][0])
    model.derived = {"a": [model.weight * 2]}  # type: ignore[assignment]
    assert_same(capture(model, (X,), {}), model, X)


def test_an_attribute_assigned_in_forward_is_noted() -> None:
    def forward(self: Wrapped, x: Tensor) -> Tensor:
        self.calls += 1
        return x + 1

    captured = capture(model := Wrapped(forward), (X,), {})
    assert "forward assigns the attribute 'calls'; the engine does not" in captured.notes
    assert model.calls == 0


def test_a_tensor_kept_by_forward_does_not_leak_into_the_model() -> None:
    def forward(self: Wrapped, x: Tensor) -> Tensor:
        if self.calls == 0:
            self.cache = self.weight * 3
            self.calls = 1
        return x + self.cache

    model = Wrapped(forward)
    captured = capture(model, (X,), {})
    assert not hasattr(model, "cache")
    assert_same(captured, model, X)
    assert any("'cache'" in note for note in captured.notes)


# ---- writes --------------------------------------------------------------------------------


def test_an_input_written_in_place_is_left_unchanged_with_a_note() -> None:
    model = Wrapped(lambda self, x: (x.add_(1), x * 2))
    captured = capture(model, (X.clone(),), {})
    assert_same(captured, model, X)
    note = "input 'args.0' was mutated in place by the model; the engine leaves it unchanged"
    assert note in captured.notes


def test_an_input_reshaped_in_place() -> None:
    model = Wrapped(lambda self, x: x.unsqueeze_(0).relu_())
    captured = capture(model, (X.clone(),), {})
    assert torch.equal(captured.run([X])[0], X.relu()[None])


class Counter(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = Wrapped(function)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda self, x: x + self.count.add_(1), "buffer 'inner.count'"),
        (lambda self, x: x + self.count[:2].fill_(1).sum(), "buffer 'inner.count'"),
        (lambda self, x: x + self.scratch.mul_(2), "buffer 'inner.scratch'"),
        (lambda self, x: x + self.table.add_(1), "tensor 'inner.table'"),
        (lambda self, x: x + self.weight.detach().clamp_(0, 1), "parameter 'inner.weight'"),
    ],
)
def test_writing_to_the_models_own_state_is_refused(
    function: Callable[[Any, Tensor], Tensor], named: str
) -> None:
    model = Counter(function)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(BufferMutationError, match=f"writes to {named} in forward .*aten") as info:
        capture(model, (X,), {})
    assert "in inner at test_export.py:" in str(info.value)
    assert "Pass the state in as an input" in str(info.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_assigning_a_buffer_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.count = self.count + 1
        return x + self.count

    with pytest.raises(BufferMutationError, match=r"buffer 'inner\.count' in forward \(assignment"):
        capture(Counter(forward), (X,), {})


def test_running_statistics_in_eval_mode_are_refused_only_if_they_change() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.count, self.weight.detach(), training=True)

    with pytest.raises(BufferMutationError, match=r"buffer 'inner\.count'.*batch_norm"):
        capture(Counter(forward), (X,), {})
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False))
    assert_same(capture(model, (X,), {}), model, X)


def test_in_place_operations_without_a_functional_form_are_refused() -> None:
    model = Counter(lambda self, x: x.clone().fill_diagonal_(0))
    with pytest.raises(MutationError, match=r"aten\.fill_diagonal_\.default in inner at test_exp"):
        capture(model, (X,), {})
    model = Counter(lambda self, x: x.clone().as_strided((2, 2), (1, 4)).add_(1))
    with pytest.raises(MutationError, match="it writes through as_strided"):
        capture(model, (X,), {})


# ---- refusals ------------------------------------------------------------------------------


def test_control_flow_by_values_names_the_line_and_the_way_out() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x

    with pytest.raises(DataDependentError, match=r"in inner at test_export\.py:\d+") as info:
        capture(Counter(forward), (X,), {})
    assert "torch2rt.convert_pieces(model)" in str(info.value)


def test_control_flow_operators_are_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: t + 1, lambda t: t - 1, (x,))

    with pytest.raises(CaptureError, match="it uses the operator cond"):
        capture(Counter(forward), (X,), {})


def test_an_error_of_the_model_itself_is_passed_on_with_its_place() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(5, 2)))
    with pytest.raises(CaptureError, match=r"Sequential in 1\.0.*\[3, 4\] X \[5, 2\]"):
        capture(model, (X,), {})


def test_inputs_that_forward_does_not_take() -> None:
    with pytest.raises(CallError, match="the example inputs do not fit the model's forward"):
        capture(Block(), (), {})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (({1, 2},), r"args\.0: a value of type builtins\.set is not supported"),
        ((object(),), r"args\.0: a value of type builtins\.object is not supported"),
        ((3,), "the example inputs: they hold no tensor"),
        ((X.to_sparse(),), r"args\.0: a tensor of layout torch\.sparse_coo is not supported"),
    ],
)
def test_inputs_that_no_engine_can_take(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PytreeError, match=message):
        capture(Wrapped(lambda self, *given: X), args, {})


def test_outputs_that_no_engine_can_give() -> None:
    with pytest.raises(PytreeError, match=r"output\.1: a value of type builtins\.set"):
        capture(Wrapped(lambda self, x: (x, {1})), (X,), {})
    with pytest.raises(CaptureError, match="it returns no tensor"):
        capture(Wrapped(lambda self, x: 3), (X,), {})


def test_lazy_modules_must_have_been_called() -> None:
    with pytest.raises(CaptureError, match=r"(?s)'0\.weight' has no shape.*Call the model once"):
        capture(nn.Sequential(nn.LazyLinear(3)), (X,), {})
