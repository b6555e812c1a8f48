"""The values of a plan in its storage: declared, touched by the steps, placed by views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch2rt.backends.spec import Layout
from torch2rt.backends.tactic import View
from torch2rt.build.action import Action, Key
from torch2rt.build.storage import StoragePlan
from torch2rt.engine.specs import tensor_spec
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor


def declare_values(
    network: Network, symbols: Mapping[str, int], actions: Sequence[Action]
) -> StoragePlan:
    """Every value that the actions touch, where it comes from or goes to, and when."""
    storage = StoragePlan()
    inputs = {tensor: name for name, tensor in network.inputs.items()}
    outputs: dict[Tensor, str] = {}
    for name, tensor in network.outputs.items():
        outputs.setdefault(tensor, name)
    keys = [key for action in actions for key in (*action.inputs, *action.outputs)]
    for key in dict.fromkeys(keys):
        size = tensor_spec(key.tensor, symbols).with_layout(key.layout).size_bytes
        storage.declare(key, size, *_place(key, inputs, outputs))
    for step, action in enumerate(actions):
        for key in action.inputs:
            storage.read(key, step)
        for key in () if action.is_view else action.outputs:
            storage.written(key, step)
    return storage


def _place(
    key: Key, inputs: Mapping[Tensor, str], outputs: Mapping[Tensor, str]
) -> tuple[str, str]:
    """Place and name of a value before anything is placed inside anything."""
    is_plain = key.layout is Layout.PLAIN
    if key.tensor.is_constant and not key.copy:
        return "constant", key.tensor.name
    if key.copy:
        return "output", key.copy
    if key.tensor in inputs and is_plain:
        return "input", inputs[key.tensor]
    if key.tensor in outputs and is_plain:
        return "output", outputs[key.tensor]
    return "arena", ""


def inner_value(storage: StoragePlan, action: Action, view: View) -> Key:
    """The value that a view places inside another: of a reshaped one, what was reshaped."""
    role, index = view.inner
    key = storage.all_of((action.inputs if role == "input" else action.outputs)[index])
    assert isinstance(key, Key)
    return key


def place_view(storage: StoragePlan, action: Action, view: View) -> bool:
    """Whether the one value now lies inside the other."""
    inner = inner_value(storage, action, view)
    role, index = view.outer
    outer = (action.inputs if role == "input" else action.outputs)[index]
    size = inner.tensor.dtype.itemsize_bytes
    reason = storage.place_inside(
        inner, outer, view.offset_bytes, view.run * size, view.pitch * size
    )
    return reason is None
