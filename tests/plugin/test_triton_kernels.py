"""Triton kernels of users: compiled for all architectures, from their text, never a file's."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import sys
from pathlib import Path

import torch
from cuda_testing import check_cuda_tactic, cuda_spec, emulated
from tactic_testing import DictWeights
from torch import Tensor, nn

import torch2rt
from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.cuda.launch import F32, I32, In, Out
from torch2rt.backends.cuda.tactics.plugin_triton import RefusedJob, plugin_program
from torch2rt.backends.cuda.triton.kernel import TritonJob, unpack_blob
from torch2rt.backends.tactic import Unprepared
from torch2rt.capture.export import capture
from torch2rt.layers.plugin import Plugin
from torch2rt.layers.specialize import specialize_kind
from torch2rt.lower import lower
from torch2rt.network.dtype import DType
from torch2rt.plugin import TritonKernel, ceil_div, count, unregister

sys.path.insert(0, str(Path(__file__).parent))
import triton_kernels

ARGUMENTS = [In(0), Out(0), I32(12), F32(0.1)]
TACTIC = "plugin.triton.first"


@pytest.fixture
def kind():
    @torch2rt.plugin("t_triton::leaky", precisions=("fp32", "fp16"), triton=TritonKernel(
        triton_kernels.leaky, grid=lambda s, a: ceil_div(count(s.outputs[0]), 256),
        constants={"BLOCK": 256},
    ))
    def leaky(x: Tensor, slope: float) -> Tensor:
        return torch.where(x > 0, x, slope * x) / 2

    class Model(nn.Module):
        def forward(self, x):
            return leaky(x, 0.1)

    network = lower(capture(Model(), (torch.randn(3, 4),), {})).network
    (layer,) = network.layers
    return specialize_kind(layer.kind, {name: 3 for name in network.symbols})


def spec_of(kind: Plugin, dtype: torch.dtype = torch.float32):
    out = DType.FLOAT16 if dtype is torch.float16 else None
    return cuda_spec(kind, [torch.randn(3, 4).to(dtype)], out_dtype=out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0)])
def test_compiles_for_every_architecture(kind, dtype, capability):
    (((*row,),),) = kind.triton
    program = plugin_program(spec_of(kind, dtype), tuple(row), ARGUMENTS)
    pointer = "*fp16" if dtype is torch.float16 else "*fp32"
    assert program.parameters == (
        ("x", pointer), ("y", pointer), ("count", "i32"), ("slope", "fp32"), ("BLOCK", "constexpr")
    )
    assert program.divisors == (("x", 16), ("y", 16))
    _, image = unpack_blob(TritonJob(program, capability).run())
    assert image[:4] == b"\x7fELF"


def test_the_text_holds_what_the_kernel_names(kind):
    source = kind.triton[0][0][0]
    assert source.index("HALF = tl.constexpr(0.5)") < source.index("def halved")
    assert source.index("def halved") < source.index("def leaky")
    assert source.count("@triton.jit") == 2


def test_text_of_a_file_is_not_run(kind):
    """Where the plugin is not registered, or with other text, its kernel must be there compiled."""
    jobs = []

    class Weights(DictWeights):
        def blob(self, key, job):
            jobs.append(job)
            return job.run()

    tactic = find_tactic("torch2rt.backends.cuda.tactics", TACTIC)
    unregister("t_triton::leaky")
    with preparing_for(emulated().device), pytest.raises(
        Unprepared, match=r"must be compiled for this GPU, and Triton source of an engine file is "
        r"not run: import .*test_triton_kernels first"
    ):
        tactic.prepare(spec_of(kind), Weights({}))
    assert isinstance(jobs[0], RefusedJob)


def test_other_text_than_the_registered_is_not_run(kind):
    import dataclasses

    (((source, *rest),),) = kind.triton
    changed = dataclasses.replace(kind, triton=(((source + "import os\n", *rest),),))
    tactic = find_tactic("torch2rt.backends.cuda.tactics", TACTIC)

    class Weights(DictWeights):
        def blob(self, key, job):
            return job.run()

    with preparing_for(emulated().device), pytest.raises(Unprepared, match="is not run"):
        tactic.prepare(spec_of(changed), Weights({}))


def test_parameters_that_do_not_match_what_is_given(kind):
    (((*row,),),) = kind.triton
    with pytest.raises(Unprepared, match=r"leaky takes 4 parameters \(x, y, count, slope\) beside "
                       "its constants and is given 3: inputs, outputs, workspace, numbers"):
        plugin_program(spec_of(kind), tuple(row), ARGUMENTS[:3])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_gpu(kind, dtype):
    from cuda_testing import real_gpu, testing_on

    with testing_on(real_gpu()):
        check_cuda_tactic(
            TACTIC, kind, [torch.randn(3, 4).to(dtype)],
            out_dtype=DType.FLOAT16 if dtype is torch.float16 else None,
        )
