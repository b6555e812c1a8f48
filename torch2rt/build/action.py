"""What a plan is made of while it is planned: values, and actions that read and write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch2rt.backends.spec import LayerSpec, Layout
from torch2rt.build.measure import Option
from torch2rt.network.tensor import Tensor


class Key(NamedTuple):
    """A value of the plan: a tensor in a layout; ``copy`` names the output it is a copy for."""

    tensor: Tensor
    layout: Layout
    copy: str = ""


@dataclass
class Action:
    """A layer or a reformat with its option, and the values it reads and writes.

    ``spec`` is the option's, but for operands that turn out to lie in wider tensors.
    """

    layer: str
    option: Option
    inputs: list[Key]
    outputs: list[Key]
    spec: LayerSpec
    time_us: float

    @property
    def is_view(self) -> bool:
        """Whether it only places values in each other's memory."""
        return bool(self.option.views)

    @property
    def is_pitched(self) -> bool:
        """Whether an operand lies in runs inside a wider tensor."""
        return self.spec is not self.option.spec

    def use(self, option: Option, spec: LayerSpec, time_us: float) -> None:
        """Run it so."""
        self.option, self.spec, self.time_us = option, spec, time_us


@dataclass(frozen=True, eq=False)
class Cause:
    """Why a value lies inside another: a view, and the time it may cost its neighbours.

    ``joins``: the view wants a value that lies inside a third, so that all three lie in a wider
    block.
    """

    view: Action
    limit_us: float
    joins: bool = False
