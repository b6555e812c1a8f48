"""Arguments of users' kernels: tensors, workspace, numbers, operands of the epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.launch import F32, I32, I64, Argument, Out, Work
from torch2rt.backends.plugins import plugin_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared, Weights

_LARGEST = 2**31 - 1


def launch_arguments(
    spec: LayerSpec, weights: Weights, numbers: Sequence[Any]
) -> list[Argument]:
    """What a kernel of the plugin is given, in order."""
    arguments: list[Argument] = [
        operand(spec, weights, index) for index in range(spec.main_count)
    ]
    arguments += [Out(index) for index in range(len(spec.outputs))]
    if launch_size(plugin_of(spec).workspace):
        arguments.append(Work())
    arguments += [number_argument(number) for number in numbers]
    extras = range(spec.main_count, len(spec.inputs))
    return [*arguments, *(operand(spec, weights, index) for index in extras)]


def number_argument(number: Any) -> Argument:
    """A number of the plugin. Unprepared where it does not fit its type."""
    match number:
        case ("int64", value):
            return I64(launch_size(value, signed=True))
        case float():
            return F32(number)
    value = launch_size(number, signed=True)
    if not -_LARGEST - 1 <= value <= _LARGEST:
        raise Unprepared(f"{value} is no 32-bit integer: give Int64({value}) among its numbers")
    return I32(value)


def launch_size(size: Any, *, signed: bool = False) -> int:
    """A size of a launch at concrete shapes. Unprepared for anything else."""
    if isinstance(size, int) and (signed or size >= 0):
        return size
    raise Unprepared(f"{size!r} is no size of a launch")
