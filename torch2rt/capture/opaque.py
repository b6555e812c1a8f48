"""Modules that a capture does not look into: each call becomes one node.

    y = self.plugin(x, scale=2.0)      y = torch2rt.opaque([x], "neck.plugin#3")[0]

The node runs the module itself, in torch; whoever lowers the graph finds the module, the structure
of its arguments and that of its outputs in `CapturedGraph.opaque` under the node's second argument.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from torch2rt.calls.pytree import CallSpec, OutputSpec


@dataclass(eq=False)
class OpaqueCall:
    """One call of an opaque module: ``path`` names the module in the model.

    ``output_spec`` is known once the call has run.
    """

    path: str
    module: nn.Module
    forward: Callable[..., Any]
    call_spec: CallSpec
    output_spec: OutputSpec | None = None

    def run(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The module on the tensors of ``call_spec.names`` -> those of ``output_spec.names``."""
        args, kwargs = self.call_spec.unflatten(tensors)
        self.output_spec, found = OutputSpec.from_value(self.forward(*args, **kwargs))
        return [item.clone() if any(item is given for given in tensors) else item for item in found]


# A call lives as long as a captured graph that holds it.
_calls: WeakValueDictionary[str, OpaqueCall] = WeakValueDictionary()
_numbers = itertools.count()
_library = torch.library.Library("torch2rt", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("opaque(Tensor[] tensors, str key) -> Tensor[]")  # type: ignore[no-untyped-call]


def _run(tensors: list[torch.Tensor], key: str) -> list[torch.Tensor]:
    return _calls[key].run(tensors)


_library.impl("opaque", _run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("torch2rt::opaque", _run, lib=_library)


def make_opaque(
    model: nn.Module, classes: tuple[type[nn.Module], ...]
) -> dict[str, OpaqueCall]:
    """Replace ``forward`` of the outermost modules of these classes, in place.

    Returns the calls by key; it fills while the model runs.
    """
    calls: dict[str, OpaqueCall] = {}
    for path, module in list(_outermost(model, classes, "")):
        module.forward = _opaque_forward(path, module, calls)
    return calls


def _outermost(
    module: nn.Module, classes: tuple[type[nn.Module], ...], path: str
) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, classes):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _outermost(child, classes, f"{path}.{name}".lstrip("."))


def _opaque_forward(
    path: str, module: nn.Module, calls: dict[str, OpaqueCall]
) -> Callable[..., Any]:
    forward = module.forward

    def call(*args: Any, **kwargs: Any) -> Any:
        call_spec, tensors = CallSpec.from_call(forward, args, kwargs)
        key = f"{path}#{next(_numbers)}"
        opaque = calls[key] = _calls[key] = OpaqueCall(path, module, forward, call_spec)
        found = torch.ops.torch2rt.opaque(tensors, key)
        assert opaque.output_spec is not None
        return opaque.output_spec.rebuild(found)

    return call
