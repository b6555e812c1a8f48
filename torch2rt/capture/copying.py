"""A copy of a model in eval mode that shares its tensors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator

import torch
from torch import nn

from torch2rt.calls.constants import is_constant, same_constant
from torch2rt.capture.errors import CaptureError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def eval_copy(model: nn.Module) -> nn.Module:
    """Copy a model's modules and attributes, not its tensors, and set the copy to eval mode.

    Parameters, buffers and other tensors are the same objects, so nothing is held twice; the
    model's own mode, hooks and attributes stay as they are. Attributes that cannot be copied (a
    lock, an open file) are shared as well. CaptureError where the model cannot be copied.
    """
    _refuse_uninitialised(model)
    memo: dict[int, object] = {}
    modules = list(model.modules())
    owned = {id(module) for module in modules}
    for module in modules:
        for tensor in _tensors_in(vars(module)):
            memo[id(tensor)] = tensor
        for hook in _hooks_of(module):
            if not inspect.ismethod(hook) or id(hook.__self__) not in owned:
                memo[id(hook)] = hook  # not a part of the model: it may hold a whole trainer
    try:
        copied = copy.deepcopy(model, dict(memo))
    except (TypeError, RuntimeError, AttributeError):
        for module in modules:
            memo |= {id(value): value for value in _uncopyable(module, memo)}
        copied = _copy_or_raise(model, memo)
    return copied.train(False)


def _copy_or_raise(model: nn.Module, memo: dict[int, object]) -> nn.Module:
    try:
        return copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise CaptureError(
            model=type(model).__name__, where="", reason=f"it cannot be copied ({error})",
            remedy="copy.deepcopy(model) must work; remove the attribute it complains about.",
        ) from error


def _refuse_uninitialised(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise CaptureError(
                model=type(model).__name__, where="", reason=f"{name!r} has no shape yet",
                remedy="Call the model once on example inputs so that its lazy modules are set up.",
            )


def _tensors_in(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)


def _hooks_of(module: nn.Module) -> Iterator[object]:
    for name in _HOOKS:
        yield from vars(module).get(name, {}).values()


def _uncopyable(module: nn.Module, memo: dict[int, object]) -> Iterator[object]:
    """Attributes of a module, other than its sub-modules, that deepcopy cannot copy."""
    for name, value in vars(module).items():
        if name == "_modules":
            continue
        try:
            copy.deepcopy(value, dict(memo))
        except (TypeError, RuntimeError, AttributeError):
            yield value


class AttributeWatch:
    """Notices what a model's forward assigns to its modules.

    torch.export puts attributes back when it is done, so this looks while forward still runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._attributes = attributes(model)
        self._buffers = _buffers(model)

    def assigned_attributes(self) -> list[str]:
        """Names of plain values and tensors that are new or changed."""
        before, after = self._attributes, attributes(self._model)
        return sorted(
            name for name in after.keys() | before.keys()
            if name not in before or name not in after or not _is_same(before[name], after[name])
        )

    def assigned_buffers(self) -> list[str]:
        """Names of buffers that are other tensors than before."""
        after = _buffers(self._model)
        return [name for name, old in self._buffers.items() if after.get(name) is not old]


def attributes(model: nn.Module) -> dict[str, object]:
    """Plain values and tensors among the public attributes of all modules, by full name."""
    found: dict[str, object] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_"):
                continue
            if isinstance(value, torch.Tensor) or is_constant(value):
                found[f"{path}.{name}".lstrip(".")] = value
    return found


def _buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_buffers(remove_duplicate=False))


def _is_same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        return left is right
    return same_constant(left, right)
