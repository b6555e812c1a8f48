"""Whether a captured graph and its model agree, at the example's sizes and at others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from torch2rt.capture.captured import CapturedGraph, SymbolRange, place
from torch2rt.capture.shapes import resized
from torch2rt.capture.trace import EXPORT_FAILURES, Tracer

# Relative error (2-norm) by dtype. Graph and model run the same kernels; what remains is the
# order of additions, which a kernel may choose by alignment.
_ALLOWED = {torch.float64: 1e-9, torch.float16: 1e-2, torch.bfloat16: 2e-2}
_ALLOWED_OTHERWISE = 1e-5


class ModelFails(Exception):
    """The model itself does not run at some sizes."""


class WrongType(Exception):
    """A node's value is not of the shape or dtype that its fake value promises at these sizes."""


class CheckedRun(fx.Interpreter):
    """Runs a captured graph node by node, holding each value's type against its fake value's.

    Torch would not mind a shape or dtype that differs; everything built from the fake values would.
    """

    def __init__(self, captured: CapturedGraph, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__(captured.graph_module)
        given = dict(zip((item.name for item in captured.inputs), tensors, strict=True))
        self.sizes = {
            name: given[limits.input].size(limits.axis) for name, limits in captured.symbols.items()
        }
        self._known: dict[object, int | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Value of a node. WrongType where it is not as promised."""
        value = super().run_node(n)
        promised = n.meta.get("val")
        if isinstance(value, torch.Tensor) and isinstance(promised, torch.Tensor):
            expected = [self._number(size) for size in promised.shape]
            pairs = zip(expected, value.shape, strict=False)
            if len(expected) != value.dim() or any(a not in (None, b) for a, b in pairs):
                raise WrongType(
                    f"{n.target}{place(n)} gives shape {tuple(value.shape)} and not {expected}"
                )
            if value.dtype is not promised.dtype:
                raise WrongType(
                    f"{n.target}{place(n)} gives {value.dtype} and not {promised.dtype}"
                )
        return value

    def _number(self, size: object) -> int | None:
        """A size at these inputs, None for one that depends on values."""
        if not isinstance(size, torch.SymInt):
            return int(str(size))
        expression = size.node.expr
        if expression not in self._known:
            symbols = {symbol: self.sizes.get(str(symbol)) for symbol in expression.free_symbols}
            is_known = None not in symbols.values()
            self._known[expression] = int(expression.subs(symbols)) if is_known else None
        return self._known[expression]


def check_capture(
    tracer: Tracer, captured: CapturedGraph, tensors: list[torch.Tensor], tries: int = 1
) -> str | None:
    """Compare graph and model at the example's sizes, at others, and at 1.

    ``tries``: how many other sizes to look for one at which the model runs. Returns where they
    differ, None where they agree. Agreement at size 1 widens a symbol's range to it: a trace leaves
    1 out only because it was made at another size.
    """
    try:
        wrong = compare(tracer, captured, tensors)
        if wrong is not None:
            return f"at the example's sizes: {wrong}"
        wrong = _compare_elsewhere(tracer, captured, tensors, tries)
    except ModelFails as error:
        return str(error)
    for name, limits in captured.symbols.items():
        if limits.minimum <= 2 and _is_right_at_one(tracer, captured, tensors, name):
            captured.symbols[name] = limits._replace(minimum=1)
    return wrong


def _compare_elsewhere(
    tracer: Tracer, captured: CapturedGraph, tensors: list[torch.Tensor], tries: int
) -> str | None:
    candidates = {
        name: list(_other_sizes(limits, _size_of(tracer, limits, tensors)))[:tries]
        for name, limits in captured.symbols.items()
    }
    failure = ModelFails("and has no other size to compare at")
    for attempt in range(tries):
        sizes = {name: found[attempt % len(found)] for name, found in candidates.items() if found}
        if not sizes:
            break
        try:
            wrong = compare(tracer, captured, _at(captured, tensors, sizes))
        except ModelFails as error:
            failure = ModelFails(f"at sizes {_listing(captured, sizes)}: {error}")
        else:
            return None if wrong is None else f"at sizes {_listing(captured, sizes)}: {wrong}"
    raise failure


def _other_sizes(limits: SymbolRange, size: int) -> Iterator[int]:
    """Sizes to compare at, other than the example's; small ones first, they are cheap."""
    highest = limits.maximum or 2**31
    seen = {size, 1}
    for candidate in (2 if size > 2 else 3, size + 1, 2 * size, size // 2, limits.minimum, highest):
        fitting = min(max(candidate, limits.minimum), highest)
        if fitting not in seen and fitting < 2**31:
            seen.add(fitting)
            yield fitting


def _is_right_at_one(
    tracer: Tracer, captured: CapturedGraph, tensors: list[torch.Tensor], name: str
) -> bool:
    if _size_of(tracer, captured.symbols[name], tensors) == 1:
        return True  # the example itself
    try:
        return compare(tracer, captured, _at(captured, tensors, {name: 1})) is None
    except ModelFails:
        return False


def compare(
    tracer: Tracer, captured: CapturedGraph, tensors: list[torch.Tensor]
) -> str | None:
    """What is wrong with the graph at these tensors, None where it agrees with the model.

    Both run from the same random state. ModelFails where the model does not run.
    """
    try:
        with _same_random_numbers(tensors):
            spec, expected = tracer.run(tensors)
    except EXPORT_FAILURES as error:
        raise ModelFails(f"the model fails there ({_first_line(error)})") from error
    if spec != captured.output_spec:
        return "the model returns another structure there"
    try:
        with _same_random_numbers(tensors):
            found = captured.run(tensors, CheckedRun(captured, tensors).run)
    except WrongType as error:
        return _first_line(error)
    except EXPORT_FAILURES as error:
        return f"the graph fails there ({_first_line(error)})"
    return difference(spec.names, expected, found)


@contextmanager
def _same_random_numbers(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        torch.manual_seed(0)
        yield


def difference(
    names: Sequence[str], expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]
) -> str | None:
    """The first output that differs and how, None where all agree."""
    for name, want, got in zip(names, expected, found, strict=True):
        if want.shape != got.shape or want.dtype != got.dtype:
            return (
                f"output {name!r} is {want.dtype} {tuple(want.shape)} in the model and "
                f"{got.dtype} {tuple(got.shape)} in the graph"
            )
        error = relative_error(want, got)
        if not error <= _ALLOWED.get(want.dtype, _ALLOWED_OTHERWISE):
            return f"output {name!r} has relative error {error:.3g}"
    return None


def relative_error(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Norm of the difference over the norm of ``expected``; equal infinities and NaNs are equal."""
    if not expected.is_floating_point() and not expected.is_complex():
        return 0.0 if torch.equal(expected, found) else float("inf")
    wide = torch.complex128 if expected.is_complex() else torch.float64
    want, got = expected.detach().to(wide), found.detach().to(wide)
    same = (want == got) | (want.isnan() & got.isnan())
    gap = torch.where(same, torch.zeros_like(want), want - got)
    norm = torch.linalg.vector_norm(torch.where(want.isfinite(), want, torch.zeros_like(want)))
    return float(torch.linalg.vector_norm(gap) / norm.clamp(min=1e-30))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _size_of(tracer: Tracer, limits: SymbolRange, tensors: Sequence[torch.Tensor]) -> int:
    return tensors[tracer.call_spec.names.index(limits.input)].size(limits.axis)


def _at(
    captured: CapturedGraph, tensors: Sequence[torch.Tensor], sizes: dict[str, int]
) -> list[torch.Tensor]:
    """The tensors with every axis of these symbols resized."""
    found = []
    for item, tensor in zip(captured.inputs, tensors, strict=True):
        wanted = {
            axis: sizes[str(size)] for axis, size in enumerate(item.value.shape)
            if str(size) in sizes
        }
        found.append(resized(tensor, wanted))
    return found


def _listing(captured: CapturedGraph, sizes: dict[str, int]) -> str:
    return ", ".join(
        f"{captured.symbols[name].input}[{captured.symbols[name].axis}]={size}"
        for name, size in sizes.items()
    )
