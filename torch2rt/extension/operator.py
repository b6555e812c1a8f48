"""The operator that stands for modules and `Plugin` objects in captured graphs.

    torch.ops.torch2rt.plugin([x, weight], "demo::scale", state)  ->  list of tensors

``state`` is text that the plugin makes of itself, so that a graph can be run wherever the plugin
is registered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torch2rt.errors import PluginError
from torch2rt.extension.registry import Definition, PluginCall, registered
from torch2rt.extension.user_code import call_without_data

_library = torch.library.Library("torch2rt", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "plugin(Tensor[] tensors, str name, str state) -> Tensor[]"
)


def _run(tensors: list[torch.Tensor], name: str, state: str) -> list[torch.Tensor]:
    return _own(_definition(name).run(PluginCall((), state), tensors), tensors)


def _fake(tensors: list[torch.Tensor], name: str, state: str) -> list[torch.Tensor]:
    definition = _definition(name)
    found = call_without_data(
        name, lambda: definition.fake(PluginCall((), state), tensors), definition.fake_remedy
    )
    return _own(found, tensors)


def _definition(name: str) -> Definition:
    definition = registered(name)
    if definition is None:
        raise PluginError(
            name=name, where="", reason="it was unregistered while a graph still calls it",
            remedy="Register it again",
        )
    return definition


def _own(
    found: Sequence[torch.Tensor], given: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Results that share no memory with the inputs, as an operator must give."""
    return [
        item.clone() if any(item is x or item._base is x for x in given) else item
        for item in found
    ]


_library.impl("plugin", _run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("torch2rt::plugin", _fake, lib=_library)


def call_plugin(
    tensors: Sequence[torch.Tensor], name: str, state: str
) -> list[torch.Tensor]:
    """The operator."""
    return list(torch.ops.torch2rt.plugin(list(tensors), name, state))
