"""What holds for all our strided kernels: 64-bit offsets where they are needed, constants."""

import pytest
import torch
from cuda_testing import check_cuda_tactic

from torch2rt.kernels.cuda import strided
from torch2rt.layers.adaptive_pool import AdaptivePool
from torch2rt.layers.argreduce import ArgReduce
from torch2rt.layers.cumulative import Cumulative
from torch2rt.layers.group_norm import GroupNorm
from torch2rt.layers.layer_norm import LayerNorm
from torch2rt.layers.pool import Pool
from torch2rt.layers.reduce import Reduce
from torch2rt.layers.softmax import Softmax

pytestmark = pytest.mark.usefixtures("cuda_device")
WINDOW = Pool("max", (3, 3), (2, 2), (1, 1), (1, 1), (1, 1))


KINDS = [
    ("pool.cuda.direct", WINDOW),
    ("adaptive_pool.cuda.direct", AdaptivePool("mean", (3, 4))),
    ("reduce.cuda.walk", Reduce("mean", (2, 3))), ("reduce.cuda.walk", Reduce("max", (1,))),
    ("softmax.cuda.walk", Softmax(1)), ("softmax.cuda.walk", Softmax(3)),
    ("layer_norm.cuda.warp", LayerNorm(1, 1e-5)), ("group_norm.cuda.walk", GroupNorm(4, 1e-5)),
    ("argreduce.cuda.walk", ArgReduce("max", 1)), ("cumulative.cuda.walk", Cumulative("sum", 3)),
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_wide_offsets(name, kind, monkeypatch):
    monkeypatch.setattr(strided, "MAX_SPAN", 1)
    check_cuda_tactic(name, kind, [torch.randn(2, 16, 7, 24).half()])


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_constant_input(name, kind):
    check_cuda_tactic(name, kind, [torch.randn(2, 16, 7, 24).half()], constants=[0])
