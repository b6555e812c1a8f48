"""Our convolution kernels compile for every architecture, at the sizes of known networks."""

from __future__ import annotations

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_emulator import EmulatedDevice
from cuda_testing import TACTICS, BlobWeights, cuda_spec

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.tactic import Job
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.torch_values import constant_from_torch


class Found(Exception):
    """The job that a tactic asks for."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job


class AskedWeights(BlobWeights):
    def blob(self, key: str, job: Job) -> bytes:
        raise Found(job)


def source_of(
    name: str, kind: Convolution | Deconvolution, inputs: list[torch.Tensor], choice: int
) -> str:
    spec = cuda_spec(kind, inputs, "relu(add(i0,i1))", [1, 2])
    tactic = find_tactic(TACTICS, name)
    weights = AskedWeights({f"c{i}": constant_from_torch(inputs[i])[0] for i in (1, 2)})
    with preparing_for(EmulatedDevice()):
        assert tactic.supports(spec) is None
        chosen = spec.with_layouts(tactic.layouts(spec)[choice])
        with pytest.raises(Found) as found:
            tactic.prepare(chosen, weights)
    return str(found.value.job.source)


def convolution(size: int, stride: int, groups: int) -> Convolution:
    return Convolution(
        stride=(stride,) * 2, padding_before=(size // 2,) * 2, padding_after=(size // 2,) * 2,
        dilation=(1, 1), groups=groups,
    )


@pytest.mark.parametrize(("name", "x", "filters", "size", "stride", "groups", "choice"), [
    ("stem_128", (64, 3, 224, 224), 64, 7, 2, 1, 0),
    ("stem_256", (64, 3, 224, 224), 64, 7, 2, 1, 1),
    ("stem_64", (1, 3, 224, 224), 32, 3, 2, 1, 1),
    ("grouped_256", (64, 512, 14, 14), 512, 3, 1, 32, 0),
    ("grouped", (8, 128, 56, 56), 128, 3, 1, 32, 0),
    ("depthwise_1x1", (1, 960, 7, 7), 960, 3, 1, 960, 0),
    ("depthwise_2x2", (64, 96, 112, 112), 96, 3, 2, 96, 0),
    ("depthwise_2x4", (64, 32, 112, 112), 32, 3, 1, 32, 0),
    ("depthwise_4x4", (64, 240, 28, 28), 240, 5, 1, 240, 0),
    ("depthwise_2x7", (64, 384, 14, 14), 384, 3, 1, 384, 0),
    ("depthwise_2x2", (1, 32, 112, 112), 32, 3, 1, 32, 0),
    ("direct", (8, 7, 14, 14), 24, 3, 1, 1, 0),
])
def test_convolutions_compile(
    name: str, x: tuple[int, ...], filters: int, size: int, stride: int, groups: int, choice: int
) -> None:
    dtype = torch.bfloat16 if x[0] == 1 else torch.float16
    inputs = [
        torch.empty(x, dtype=dtype, device="meta"),
        torch.zeros(filters, x[1] // groups, size, size, dtype=dtype), torch.zeros(filters, 1, 1),
    ]
    kind = convolution(size, stride, groups)
    source = source_of(f"convolution.cuda.{name}", kind, inputs, choice)
    compile_for_all(source, "t2r_convolution")


def test_transposed_convolutions_compile() -> None:
    kind = Deconvolution(
        stride=(2, 2), padding_before=(1, 1), padding_after=(0, 0), dilation=(1, 1), groups=2
    )
    inputs = [torch.zeros(1, 8, 6, 6), torch.zeros(8, 4, 3, 3), torch.zeros(8, 1, 1)]
    compile_for_all(source_of("deconvolution.cuda.direct", kind, inputs, 0), "t2r_convolution")
