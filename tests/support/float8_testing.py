"""What tests of float8 share: a device in name, ranges, networks with float8 inserted."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import torch
from fake_backend import FakeBackend
from torch import nn

import torch2rt
from torch2rt.capture.export import capture
from torch2rt.lower import lower
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.verify import verify
from torch2rt.passes.base import Log
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.float8 import insert_float8
from torch2rt.quantize.table import Range

EVERYWHERE = {"*": "fp8"}
# A float8 has 3 bits of mantissa: numbers between 2^e and 2^(e+1) are off by 2^e / 8 / sqrt(12),
# evenly, which beside their own size, spread evenly over the octave, is 1 / 8 / sqrt(12) / 1.53.
FACTOR_LOSS = 1 / 8 / 12**0.5 / 1.53
# Both factors of a product are off so; sums of many keep the ratio.
PRODUCT_LOSS = 2**0.5 * FACTOR_LOSS


class Pretended(FakeBackend):
    """A device in name, whose layers run by their references."""

    name = "cuda"
    reason: str | None = None
    checks_candidates = True

    def lacks_float8(self) -> str | None:
        """Why it has no float8, as the test says."""
        return self.reason


class Table(dict[str, Range]):
    """Ranges by name, none edited."""

    def range(self, name: str) -> Range | None:
        """The range of a tensor."""
        return self.get(name)

    def is_edited(self, name: str) -> bool:
        """Never."""
        return False


def convert(
    model: nn.Module, x: torch.Tensor, folder: Path, precision: object = EVERYWHERE,
    **options: object,
) -> torch2rt.RTModule:
    """An engine on the pretended device, calibrated with its example."""
    return torch2rt.convert(
        model, x, precision=precision, device="cuda", progress=False,
        timing_cache=folder / "times.jsonl", **{"calibration": [x], **options},
    )


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative error in norm."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


def lowered(model: nn.Module, *inputs: torch.Tensor) -> Network:
    """The optimised float32 network, as it is calibrated."""
    network = lower(capture(model.eval(), inputs, {})).network
    optimize(network, merge_siblings=False)
    return network


def inserted(
    model: nn.Module, *inputs: torch.Tensor,
    overrides: Callable[[Layer], str | None] = lambda _: None, unknown: Collection[str] = (),
) -> tuple[Network, Log]:
    """The network in float8, every tensor within 8 but the ``unknown``, of which nothing is."""
    network, log = lowered(model, *inputs), Log()
    produced = [t for layer in network.layers for t in layer.outputs]
    names = {t.name for t in (*network.inputs.values(), *produced)}
    table = Table({name: Range(8.0, False) for name in names - {*unknown}})
    insert_float8(network, table, overrides=overrides, log=log)
    verify(network)
    return network, log
