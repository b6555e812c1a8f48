"""Triangles of matrices."""

import pytest
import torch
from layer_testing import check_rule

from torch2rt.layers.triangle import Triangle
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_triangles() -> None:
    check_rule(
        lambda x: (x.tril(), x.triu(), x.tril(-1), x.triu(2), (x > 0).tril(1)),
        torch.randn(3, 4, 5),
    )


def test_a_vector_has_none() -> None:
    with pytest.raises(ValueError, match="no triangle"):
        Triangle(upper=True).infer([TensorType((3,), DType.FLOAT32)])
