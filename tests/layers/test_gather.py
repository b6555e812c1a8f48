"""Elements chosen along an axis."""

import pytest
import torch
from layer_testing import check_rule

from torch2rt.layers.gather import Gather
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_gather() -> None:
    index = torch.tensor([[[0, 1, 4], [2, 2, 0]]]).expand(3, 2, 3).contiguous()
    check_rule(lambda x, i: (x.gather(2, i), x.gather(-1, i[:, :, :1])), torch.randn(3, 2, 5),
               index, kinds={"gather", "slice"})


def test_take_along_dim_broadcasts() -> None:
    index = torch.tensor([[[0], [1], [1]], [[1], [0], [0]], [[1], [1], [0]]])
    check_rule(lambda x, i: torch.take_along_dim(x, i, 1), torch.randn(3, 2, 5), index,
               dynamic=False)
    check_rule(lambda x, i: torch.take_along_dim(x, i), torch.randn(3, 4),
               torch.tensor([5, 0, 11]), dynamic=False)


def test_ranks_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="gather along axis 0"):
        Gather(0).infer([TensorType((3, 4), DType.FLOAT32), TensorType((3,), DType.INT64)])
