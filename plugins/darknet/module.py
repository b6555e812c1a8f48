"""A network of Darknet as an `nn.Module`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from torch2rt.plugins.darknet.cfg import Section, read_cfg
from torch2rt.plugins.darknet.layers import LAYERS, Layer, Shape, Stored, activation
from torch2rt.plugins.darknet.weights import load_weights


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of the network: which earlier outputs it reads (-1: the network's input)."""

    kind: str
    sources: tuple[int, ...]
    shape: Shape


class Darknet(nn.Module):
    """The layers of a ``.cfg``, in evaluation mode.

    Input float32 [b, c, h, w], RGB in 0..1, of the size that ``[net]`` says. Output: that of the
    last layer; of a ``[region]`` it is (boxes [b, n, 4], scores [b, n, classes]).

    Example:
        >>> model = darknet.Darknet(darknet.read_cfg("yolov2.cfg"))
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        super().__init__()
        net = sections[0]
        self.input_shape: Shape = (
            net.integer("channels", 3, 1), net.integer("height", at_least=1),
            net.integer("width", at_least=1),
        )
        self.steps: list[Step] = []
        self.layers = nn.ModuleList()
        for index, section in enumerate(sections[1:]):
            module, step = self._build(index, section)
            if section.kind == "region" and index + 2 < len(sections):
                raise section.error("it is not the last layer")
            self.layers.append(module)
            self.steps.append(step)
        last_uses = {source: index for index, s in enumerate(self.steps) for source in s.sources}
        self._dead_after = [
            tuple(source for source, last in last_uses.items() if last == index)
            for index in range(len(self.steps))
        ]
        self.eval()

    def _build(self, index: int, section: Section) -> tuple[nn.Module, Step]:
        previous = self._shape(index - 1)
        if section.kind == "route":
            return self._route(index, section)
        if section.kind == "shortcut":
            source = self._earlier(index, section, section.integers("from"))[0]
            if self._shape(source) != previous:
                raise section.error(f"adds {self._shape(source)} to {previous}")
            step = Step("shortcut", (index - 1, source), previous)
            return activation(section, "linear"), step
        if section.kind not in LAYERS:
            known = ", ".join([*LAYERS, "route", "shortcut"])
            raise section.error(f"this layer is not read here; these are: {known}")
        layer = LAYERS[section.kind](section, previous)
        return layer, Step(section.kind, (index - 1,), layer.shape)

    def _route(self, index: int, section: Section) -> tuple[nn.Module, Step]:
        if section.integer("groups", 1) != 1:
            raise section.error("groups other than 1 are not read here")
        sources = self._earlier(index, section, section.integers("layers"))
        shapes = [self._shape(source) for source in sources]
        if len({shape[1:] for shape in shapes}) != 1:
            raise section.error(f"joins images of unequal sizes: {shapes}")
        channels = sum(shape[0] for shape in shapes)
        return nn.Identity(), Step("route", tuple(sources), (channels, *shapes[0][1:]))

    def _earlier(self, index: int, section: Section, numbers: list[int]) -> list[int]:
        """Layer numbers, the negative ones counted back from this layer."""
        sources = [number if number >= 0 else index + number for number in numbers]
        if not sources:
            raise section.error("it names no layers")
        for number, source in zip(numbers, sources, strict=True):
            if not 0 <= source < index:
                raise section.error(f"layer {number} is not one before this, layer {index}")
        return sources

    def _shape(self, index: int) -> Shape:
        return self.steps[index].shape if index >= 0 else self.input_shape

    def stored(self) -> list[Stored]:
        """Every tensor of a ``.weights`` file, in the file's order."""
        return [
            replace(stored, name=f"layers.{index}.{stored.name}")
            for index, layer in enumerate(self.layers)
            if isinstance(layer, Layer)
            for stored in layer.stored()
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The last layer's output."""
        outputs = {-1: x}
        for index, (layer, step) in enumerate(zip(self.layers, self.steps, strict=True)):
            found = [outputs[source] for source in step.sources]
            if step.kind == "route":
                outputs[index] = torch.cat(found, 1) if len(found) > 1 else found[0]
            elif step.kind == "shortcut":
                outputs[index] = layer(found[0] + found[1])
            else:
                outputs[index] = layer(found[0])
            for source in self._dead_after[index]:
                del outputs[source]
        return outputs[len(self.steps) - 1]


def load(
    cfg: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> Darknet:
    """A model of a ``.cfg`` file, with the numbers of a ``.weights`` file. DarknetError if damaged.

    Example:
        >>> model = darknet.load("yolov2.cfg", "yolov2.weights")
    """
    model = Darknet(read_cfg(cfg))
    if weights is not None:
        load_weights(model, weights)
    return model
