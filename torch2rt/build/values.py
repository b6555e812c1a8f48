"""The values of a plan in its storage: declared, touched by the steps, placed by views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch2rt.backends.spec import Layout
from torch2rt.build.action import Action, Cause, Key
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


def is_whole(action: Action) -> bool:
    """Whether its result is just the memory of its operand, as of a reshape."""
    views = action.option.views
    sizes = {spec.size_bytes for spec in (*action.spec.inputs, *action.spec.outputs)}
    return len(views) == 1 and not views[0].offset_bytes and not views[0].pitch and len(sizes) == 1


def place_views(
    storage: StoragePlan, action: Action, causes: dict[Key, Cause],
    copy_us: Callable[[Action], float], *, may_join: bool,
) -> bool:
    """Whether all views of an action are placed, and noted in ``causes``; else none is.

    In place of a reshaped value, what was reshaped is placed.
    """
    before = storage.snapshot() if len(action.option.views) > 1 else None
    found: dict[Key, Cause] = {}
    own = Cause(action, copy_us(action))
    ends = {"input": action.inputs, "output": action.outputs}
    for view in action.option.views:
        (inner_role, inner_index), (outer_role, outer_index) = view.inner, view.outer
        inner, outer = storage.all_of(ends[inner_role][inner_index]), ends[outer_role][outer_index]
        assert isinstance(inner, Key)
        size = inner.tensor.dtype.itemsize_bytes
        earlier = storage.parent(inner)
        reason = storage.place_inside(
            inner, outer, view.offset_bytes, view.run * size, view.pitch * size,
            may_join=may_join and inner in causes,
        )
        if reason is not None:
            if before is not None:
                storage.restore(before)
            return False
        if earlier is None:
            found[inner] = own
        else:
            assert isinstance(earlier, Key)
            both = Cause(action, min(own.limit_us, causes[inner].limit_us), joins=True)
            found[earlier] = found[outer] = both
    causes.update(found)
    return True
