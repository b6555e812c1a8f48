"""Small models of three families, each with an engine, and faults planted into its tactics."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.buffer import array_at
from torch2rt.backends.cpu.backend import CpuBackend
from torch2rt.backends.spec import TensorSpec
from torch2rt.backends.tactic import Prepared
from torch2rt.module import RTModule


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = self.pool(torch.relu(self.body(x) + x))
        return self.head(x.mean((2, 3))).softmax(-1)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 24)
        self.norm = nn.LayerNorm(24)
        self.last = nn.Linear(24, 6)

    def forward(self, x):
        return self.last(self.norm(torch.tanh(self.first(x))))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x):
        split = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = [part.unflatten(-1, (4, 8)).transpose(1, 2) for part in split]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.mlp(x)


SHAPES = {Cnn: (2, 3, 16, 16), Mlp: (3, 12), Attention: (2, 5, 32)}
MODELS = {cls.__name__.lower(): cls for cls in SHAPES}


@dataclass(frozen=True)
class Case:
    """A model, its input, and its engine as a module."""

    model: nn.Module
    x: torch.Tensor
    rt: RTModule

    @property
    def steps(self) -> list[str]:
        """Names of the layers that run, in order; reformats are left out."""
        return [step.layer for step in self.rt.engine.plans[0].steps if step.layer]


class Faulty(Prepared):
    """A prepared tactic whose first output has the wrong sign."""

    def __init__(self, prepared, spec):
        self.prepared = prepared
        self.spec = spec.outputs[0]
        self.workspace_bytes = prepared.workspace_bytes
        self.may_overwrite = prepared.may_overwrite
        self.views = prepared.views
        self.needs_torch = prepared.needs_torch

    def bind(self, inputs, outputs, workspace, stream):
        flat = TensorSpec((self.spec.size_bytes // 4,), self.spec.dtype)
        result = outputs[0]

        def negate():
            array = array_at(result.address, flat)
            np.negative(array, out=array)

        return [*self.prepared.bind(inputs, outputs, workspace, stream), (negate, ())]


def _definer(cls):
    """The class that a tactic has its `prepare` from."""
    return next(base for base in cls.__mro__ if "prepare" in vars(base))


@pytest.fixture
def plant(monkeypatch):
    """``with plant(layer):`` makes every tactic get the layer of that name wrong."""

    @contextmanager
    def planted(name: str) -> Iterator[None]:
        def wrap(prepare):
            def faulty(self, spec, weights):
                prepared = prepare(self, spec, weights)
                hit = spec.name == name and not prepared.views
                return Faulty(prepared, spec) if hit else prepared

            return faulty

        with monkeypatch.context() as patch:
            # Once where it is defined: two faults in a row would undo each other.
            for cls in {_definer(type(tactic)) for tactic in CpuBackend(1).tactics.values()}:
                patch.setattr(cls, "prepare", wrap(cls.prepare))
            yield

    return planted




@pytest.fixture(scope="session")
def cases(tmp_path_factory) -> dict[str, Case]:
    """Every model with its engine, made once."""
    cache = tmp_path_factory.mktemp("inspect") / "timing.jsonl"
    made = {}
    for name, cls in MODELS.items():
        torch.manual_seed(0)
        model, x = cls().eval(), torch.randn(SHAPES[cls])
        rt = torch2rt.convert(model, x, timing_cache=cache, threads=1, progress=False)
        made[name] = Case(model, x, rt)
    return made
