"""Random programs of views and in-place operations: the captured graph computes what eager does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from torch2rt.calls.pytree import CallSpec
from torch2rt.capture import functionalise
from torch2rt.capture.check import difference
from torch2rt.capture.errors import MutationError
from torch2rt.capture.trace import Tracer

Tensor = torch.Tensor
Operation = Callable[[Tensor, Tensor, int], Tensor]

VIEWS: dict[str, Operation] = {
    "select": lambda a, b, k: a.select(k % a.dim(), k % a.size(k % a.dim())),
    "select_last": lambda a, b, k: a.select(-1, -1),
    "slice": lambda a, b, k: a[..., k % 3 : k % 3 + 3],
    "slice_step": lambda a, b, k: a[k % 2 :: 2],
    "slice_all": lambda a, b, k: a[:],
    "narrow": lambda a, b, k: a.narrow(0, k % a.size(0), 1),
    "transpose": lambda a, b, k: a.transpose(0, -1),
    "permute": lambda a, b, k: a.permute(*range(1, a.dim()), 0),
    "movedim": lambda a, b, k: a.movedim(0, -1),
    "t": lambda a, b, k: a.t(),
    "view": lambda a, b, k: a.view(2, -1),
    "flatten": lambda a, b, k: a.flatten(),
    "reshape": lambda a, b, k: a.reshape(-1, 2),
    "unflatten": lambda a, b, k: a.unflatten(0, (2, -1)),
    "unsqueeze": lambda a, b, k: a.unsqueeze(k % (a.dim() + 1)),
    "squeeze": lambda a, b, k: a.squeeze(),
    "chunk": lambda a, b, k: a.chunk(2, k % a.dim())[-1],
    "split": lambda a, b, k: a.split(2, -1)[0],
    "split_sizes": lambda a, b, k: a.split([1, a.size(0) - 1])[k % 2],
    "unbind": lambda a, b, k: a.unbind(-1)[k % a.size(-1)],
    "tensor_split": lambda a, b, k: a.tensor_split(2, -1)[k % 2],
    "diagonal": lambda a, b, k: a.diagonal(),
    "detach": lambda a, b, k: a.detach(),
    "dropout": lambda a, b, k: nn.functional.dropout(a, 0.5, training=False)[...],
    "contiguous": lambda a, b, k: a.contiguous(),
    "to": lambda a, b, k: a.to(torch.float32),
    "view_as": lambda a, b, k: a.view_as(b),
    "expand": lambda a, b, k: a.expand(2, *a.shape),
    "view_as_complex": lambda a, b, k: torch.view_as_real(torch.view_as_complex(a)),
}
WRITES: dict[str, Operation] = {
    "relu_": lambda a, b, k: a.relu_(),
    "add_": lambda a, b, k: a.add_(b),
    "add_scalar_": lambda a, b, k: a.add_(k, alpha=2),
    "mul_": lambda a, b, k: a.mul_(b + 1),
    "sub_double_": lambda a, b, k: a.sub_(b.double() * 0.5),
    "clamp_": lambda a, b, k: a.clamp_(-1, 1),
    "copy_": lambda a, b, k: a.copy_(b),
    "copy_double_": lambda a, b, k: a.copy_(b.double() + k),
    "fill_": lambda a, b, k: a.fill_(k),
    "fill_tensor_": lambda a, b, k: a.fill_(b.sum()),
    "zero_": lambda a, b, k: a.zero_(),
    "masked_fill_": lambda a, b, k: a.masked_fill_(b > 0, k),
    "index_put_": lambda a, b, k: a.index_put_((torch.tensor([0, 1]),), b.mean()),
    "setitem": lambda a, b, k: _set_item(a, k),
    "augmented": lambda a, b, k: _augment(a, k),
    "unsqueeze_": lambda a, b, k: a.unsqueeze_(0),
    "squeeze_": lambda a, b, k: a.squeeze_(),
    "transpose_": lambda a, b, k: a.transpose_(0, -1),
    "out": lambda a, b, k: torch.add(b, k, out=a) if a.shape == b.shape else a.neg_(),
    "index_add_": lambda a, b, k: a.index_add_(0, torch.tensor([0]), b[:1]),
}
READS: dict[str, Operation] = {
    "relu": lambda a, b, k: a.relu(),
    "add": lambda a, b, k: a + b,
    "clone": lambda a, b, k: a.clone(),
    "cat": lambda a, b, k: torch.cat((a, b)),
    "sum": lambda a, b, k: a.sum(0),
}
OPERATIONS = VIEWS | WRITES | READS
Step = tuple[str, int, int, int]
STEPS = st.lists(
    st.tuples(
        # In-place operations are what is tested: draw them as often as all the rest.
        st.one_of(st.sampled_from(sorted(WRITES)), st.sampled_from(sorted(VIEWS | READS))),
        st.integers(0, 9), st.integers(0, 9), st.integers(0, 4),
    ),
    min_size=2, max_size=14,
)


def _set_item(a: Tensor, k: int) -> Tensor:
    a[k % a.size(0)] = k
    return a


def _augment(a: Tensor, k: int) -> Tensor:
    a[..., 0] += k
    return a


def execute(steps: list[Step], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Run a program on a growing pool of tensors and return the pool."""
    pool = [x, y, x * 2]
    for name, left, right, number in steps:
        other = pool[right % len(pool)]
        if name in WRITES:
            other = other.clone()  # what x.add_(x[0]) means depends on the order of eager's loops
        pool.append(OPERATIONS[name](pool[left % len(pool)], other, number))
    return tuple(pool)


def runnable(steps: list[Step], x: Tensor, y: Tensor) -> list[Step]:
    """The steps that eager accepts, in order, on copies of the inputs."""
    kept: list[Step] = []
    for step in steps:
        try:
            execute([*kept, step], x.clone(), y.clone())
        except (RuntimeError, IndexError, ValueError, TypeError, ArithmeticError):
            continue
        kept.append(step)
    return kept


class Program(nn.Module):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return execute(self.steps, x, y)


def disagreement(steps: list[Step]) -> str | None:
    """How graph and eager differ on a program, None where they agree."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 6, generator=generator)
    y = torch.randn(4, 6, generator=generator)
    program = Program(runnable(steps, x, y))
    spec, tensors = CallSpec.from_call(program.forward, (x, y), {})
    captured = Tracer(program, spec).trace(tensors)
    for node in captured.graph_module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable, node.target
    given = [x.clone(), y.clone()]
    found = captured.run(given)
    assert torch.equal(given[0], x)
    assert torch.equal(given[1], y)
    return difference(captured.output_spec.names, program(x.clone(), y.clone()), found)


@given(STEPS)
@settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_random_programs_agree_with_eager(steps: list[Step]) -> None:
    try:
        wrong = disagreement(steps)
    except MutationError as error:
        # Refused, not guessed: eager fills expanded tensors, and complex views need unit strides.
        is_known = "expand" in str(error) or "view_as_complex" in str(error)
        wrong = None if is_known else str(error)
    assert wrong is None


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_a_write_through_a_view_reaches_every_alias(name: str) -> None:
    assert disagreement([("view", 2, 0, 0), (name, 2, 2, 1), ("add_scalar_", 4, 0, 2)]) is None


@pytest.mark.parametrize("name", sorted(WRITES))
def test_a_write_to_a_view_of_a_view(name: str) -> None:
    steps: list[Step] = [("transpose", 2, 0, 0), ("slice_step", 3, 0, 1), (name, 4, 4, 1)]
    assert disagreement([*steps, ("add", 2, 2, 0)]) is None


def test_the_comparison_sees_a_wrong_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functionalise, "unview", lambda emitter, view, source, base, new: base)
    assert disagreement([("select", 2, 0, 0), ("add_scalar_", 3, 0, 2)]) is not None
