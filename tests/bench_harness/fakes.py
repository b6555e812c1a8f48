"""Contenders and models that behave as told, loaded by workers as ``fakes.py:Name``."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from torch2rt.bench import BuildRequest, Contender

FILE = Path(__file__)


def spec(cls: type[Contender] | Callable[[], object]) -> str:
    return f"{FILE}:{cls.__name__}"


def linear() -> tuple[nn.Module, torch.Tensor]:
    return nn.Linear(4, 3), torch.randn(2, 4)


def not_a_pair() -> nn.Module:
    return nn.Linear(4, 3)


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(f"broken on {tuple(x.shape)}")


def broken() -> tuple[nn.Module, torch.Tensor]:
    return Broken(), torch.randn(1)


class Right(Contender):
    """Runs the model, slowly enough to tell the variants apart."""

    name = "right"
    packages: ClassVar = ("torch",)
    variants: ClassVar = {"fp32": ("slow", "quick")}
    delays: ClassVar = {"slow": 0.03, "quick": 0.001}

    def build(self, request: BuildRequest) -> Callable[[], object]:
        def call() -> object:
            time.sleep(self.delays[request.variant])
            with torch.no_grad():
                return request.loaded.model(*request.loaded.args)

        return call


class Single(Right):
    variants: ClassVar = {"fp32": ("only",)}
    delays: ClassVar = {"only": 0.002}


class OnlyQuickWorks(Right):
    def build(self, request: BuildRequest) -> Callable[[], object]:
        if request.variant == "slow":
            raise NotImplementedError("no slow variant\nhere")
        return super().build(request)


class Wrong(Single):
    def build(self, request: BuildRequest) -> Callable[[], object]:
        right = super().build(request)
        return lambda: right() * 1.01  # type: ignore[operator]


class Raising(Single):
    def build(self, request: BuildRequest) -> Callable[[], object]:
        raise ValueError("cannot do\nthis model")


class Dying(Single):
    def build(self, request: BuildRequest) -> Callable[[], object]:
        os.write(2, b"last words of the deceased")
        os._exit(7)


class Hanging(Single):
    def build(self, request: BuildRequest) -> Callable[[], object]:
        time.sleep(60)
        raise AssertionError("unreachable")


class Absent(Single):
    packages: ClassVar = ("no-such-distribution", "torch")


class NoContender:
    name = "none"
