"""Darknet's layers as modules, each built from its section and the shape it is given.

Shapes are ``(c, h, w)``. Source: Darknet's src/parser.c for the options, src/*_layer.c for what
they mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional

from torch2rt.plugins.darknet.cfg import Section
from torch2rt.plugins.region import RegionDecode
from torch2rt.plugins.reorg import Reorg

Shape: TypeAlias = "tuple[int, int, int]"

# Darknet on a GPU divides by sqrt(variance + 1e-5); its CPU code by sqrt(variance) + 1e-6.
BATCH_NORM_EPSILON = 1e-5
LEAKY_SLOPE = 0.1

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(LEAKY_SLOPE),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "mish": nn.Mish,
    "swish": nn.SiLU,
}
_UNREAD_FLAGS = ("binary", "xnor", "flipped", "antialiasing", "deform", "steps")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that ``.weights`` files hold. ``is_matrix``: FLOATS files store it transposed."""

    name: str
    tensor: torch.Tensor
    is_variance: bool = False
    is_matrix: bool = False


class Layer(nn.Module):
    """A layer that reads one tensor."""

    shape: Shape

    def stored(self) -> list[Stored]:
        """What ``.weights`` files hold of it, in their order."""
        return []


def activation(section: Section, default: str) -> nn.Module:
    """The module of an activation's name."""
    name = section.choice("activation", default)
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise section.error(f"the activation {name!r} is not one of {known}")
    return _ACTIVATIONS[name]()


class Convolution(Layer):
    """Convolution, batch norm, activation."""

    def __init__(self, section: Section, shape: Shape) -> None:
        super().__init__()
        for flag in _UNREAD_FLAGS:
            if section.integer(flag, 0):
                raise section.error(f"{flag}=1 is not read here")
        c, h, w = shape
        filters, size = section.integer("filters", 1, 1), section.integer("size", 1, 1)
        stride, groups = section.integer("stride", 1, 1), section.integer("groups", 1, 1)
        padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0)
        if c % groups or filters % groups:
            raise section.error(f"{groups} groups do not divide {c} channels and {filters} filters")
        has_norm = bool(section.integer("batch_normalize", 0))
        self.conv = nn.Conv2d(c, filters, size, stride, padding, groups=groups, bias=not has_norm)
        self.norm = nn.BatchNorm2d(filters, eps=BATCH_NORM_EPSILON) if has_norm else None
        self.activation = activation(section, "logistic")
        high, wide = ((n + 2 * padding - size) // stride + 1 for n in (h, w))
        self.shape = _checked(section, (filters, high, wide))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, filters, h', w']."""
        x = self.conv(x)
        x = x if self.norm is None else self.norm(x)
        x = self.activation(x)
        return x

    def stored(self) -> list[Stored]:
        """Biases; scales, means, variances; weights."""
        front = _stored_norm(self.norm) if self.norm is not None else []
        biases = self.conv.bias if self.norm is None else self.norm.bias
        assert biases is not None
        return [Stored("biases", biases), *front, Stored("weights", self.conv.weight)]


class Connected(Layer):
    """A fully connected layer over all of its input."""

    def __init__(self, section: Section, shape: Shape) -> None:
        super().__init__()
        has_norm = bool(section.integer("batch_normalize", 0))
        outputs = section.integer("output", 1, 1)
        self.linear = nn.Linear(shape[0] * shape[1] * shape[2], outputs, bias=not has_norm)
        self.norm = nn.BatchNorm1d(outputs, eps=BATCH_NORM_EPSILON) if has_norm else None
        self.activation = activation(section, "logistic")
        self.shape = (outputs, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, outputs, 1, 1]."""
        x = self.linear(x.flatten(1))
        x = x if self.norm is None else self.norm(x)
        x = self.activation(x)
        return x[:, :, None, None]

    def stored(self) -> list[Stored]:
        """Biases, weights; scales, means, variances."""
        biases = self.linear.bias if self.norm is None else self.norm.bias
        assert biases is not None
        weights = Stored("weights", self.linear.weight, is_matrix=True)
        end = _stored_norm(self.norm) if self.norm is not None else []
        return [Stored("biases", biases), weights, *end]


class MaxPool(Layer):
    """Windows over the image and, on the right and at the bottom, what is missing.

    ``padding`` is that of both sides together, by default size - 1: half of it, rounded down, comes
    before. So size 2 with stride 1 keeps the size of the image and pads on one side only.
    """

    def __init__(self, section: Section, shape: Shape) -> None:
        super().__init__()
        c, h, w = shape
        self.stride = section.integer("stride", 1, 1)
        self.size = section.integer("size", self.stride, 1)
        padding = section.integer("padding", self.size - 1)
        high, wide = ((n + padding - self.size) // self.stride + 1 for n in (h, w))
        self.shape = _checked(section, (c, high, wide))
        before = padding // 2
        after = [
            max(0, (out - 1) * self.stride + self.size - before - n)
            for out, n in ((wide, w), (high, h))
        ]
        self.padding = [before, after[0], before, after[1]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c, h', w']."""
        if any(self.padding):
            x = functional.pad(x, self.padding, value=float("-inf"))
        x = functional.max_pool2d(x, self.size, self.stride)
        return x


class AveragePool(Layer):
    """The mean of every channel."""

    def __init__(self, section: Section, shape: Shape) -> None:
        super().__init__()
        self.shape = (shape[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c, 1, 1]."""
        return x.mean((2, 3), keepdim=True)


class Upsample(Layer):
    """Every pixel ``stride`` times in both directions, times ``scale``."""

    def __init__(self, section: Section, shape: Shape) -> None:
        super().__init__()
        self.stride = section.integer("stride", 2, 1)
        self.scale = section.number("scale", 1.0)
        self.shape = _checked(
            section, (shape[0], shape[1] * self.stride, shape[2] * self.stride)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c, stride*h, stride*w]."""
        x = functional.interpolate(x, scale_factor=float(self.stride))
        return x if self.scale == 1.0 else x * self.scale


class Softmax(Layer):
    """Softmax over all of an image's numbers."""

    def __init__(self, section: Section, shape: Shape) -> None:
        super().__init__()
        if section.integer("groups", 1) != 1:
            raise section.error("groups other than 1 are not read here")
        self.temperature = section.number("temperature", 1.0)
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        parts = functional.softmax(x.flatten(1) / self.temperature, 1)
        return parts.reshape(x.shape)


class Nothing(Layer):
    """What matters in training only: dropout, cost."""

    def __init__(self, section: Section, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input."""
        return x


class ReorgLayer(Layer):
    """Space to depth in Darknet's own order."""

    def __init__(self, section: Section, shape: Shape) -> None:
        super().__init__()
        if section.integer("reverse", 0) or section.integer("flatten", 0):
            raise section.error("reverse and flatten are not read here")
        c, h, w = shape
        stride = section.integer("stride", 1, 1)
        if c % stride**2 or h % stride or w % stride:
            raise section.error(f"stride {stride} does not divide {c} channels of {h} x {w}")
        self.reorg = Reorg(stride)
        self.shape = (c * stride**2, h // stride, w // stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c*s*s, h/s, w/s]."""
        x = self.reorg(x)
        return x


class Region(Layer):
    """The head of YOLOv2: boxes and class scores of every anchor."""

    def __init__(self, section: Section, shape: Shape) -> None:
        super().__init__()
        count, classes = section.integer("num", 1, 1), section.integer("classes", 20, 1)
        if section.integer("coords", 4) != 4:
            raise section.error("coords other than 4 are not read here")
        for flag in ("background", "map", "tree"):
            if section.choice(flag, "0") != "0":
                raise section.error(f"{flag} is not read here")
        sizes = section.numbers("anchors") if "anchors" in section.options else [0.5] * 2 * count
        if len(sizes) != 2 * count:
            raise section.error(f"{count} anchors need {2 * count} numbers, there are {len(sizes)}")
        if shape[0] != count * (5 + classes):
            raise section.error(
                f"{count} anchors of {classes} classes need {count * (5 + classes)} channels, "
                f"there are {shape[0]}"
            )
        anchors = list(zip(sizes[::2], sizes[1::2], strict=True))
        self.decode = RegionDecode(anchors, classes, bool(section.integer("softmax", 0)))
        self.shape = shape

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[b, num*(5+classes), h, w] -> boxes [b, num*h*w, 4], scores [b, num*h*w, classes]."""
        boxes, scores = self.decode(x)
        return boxes, scores


LAYERS: dict[str, Callable[[Section, Shape], Layer]] = {
    "convolutional": Convolution, "connected": Connected, "maxpool": MaxPool,
    "avgpool": AveragePool, "upsample": Upsample, "softmax": Softmax, "dropout": Nothing,
    "cost": Nothing, "reorg": ReorgLayer, "region": Region,
}


def _stored_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> list[Stored]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return [
        Stored("scales", norm.weight), Stored("means", norm.running_mean),
        Stored("variances", norm.running_var, is_variance=True),
    ]


def _checked(section: Section, shape: Shape) -> Shape:
    if min(shape) < 1:
        raise section.error(f"its output would be {shape[0]} x {shape[1]} x {shape[2]}")
    return shape
