"""Several axes indexed together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_testing import check_rule

from torch2rt.layers.index import Index
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

ROWS = torch.tensor([[0], [2]])
COLUMNS = torch.tensor([1, -1, 0])


def test_indexing_together() -> None:
    check_rule(
        lambda x: (x[:, ROWS, COLUMNS], x[ROWS, :, COLUMNS], x[ROWS, COLUMNS],
                   x[:, :, COLUMNS, COLUMNS], x[:, torch.arange(3), :, COLUMNS]),
        torch.randn(3, 3, 4, 5),
    )


def test_the_last_token_of_every_sequence() -> None:
    check_rule(lambda x, n: x[torch.arange(x.shape[0]), n], torch.randn(3, 5, 4),
               torch.tensor([4, 0, 2]))


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 3), min_size=1), st.sampled_from([(), (2,), (3, 1)]))
def test_infer_is_what_the_reference_gives(chosen: set[int], shape: tuple[int, ...]) -> None:
    axes = tuple(sorted(chosen))
    types = [TensorType((2, 3, 4, 5), DType.FLOAT32)]
    types += [TensorType(shape, DType.INT64)] * len(axes)
    indices = [torch.ones(shape, dtype=torch.int64) for _ in axes]
    (inferred,) = Index(axes).infer(types)
    (value,) = Index(axes).reference([torch.zeros(2, 3, 4, 5), *indices])
    assert inferred.shape == tuple(value.shape)


def test_bad_axes_are_refused() -> None:
    types = [TensorType((2, 3), DType.FLOAT32)] + [TensorType((2,), DType.INT64)] * 2
    with pytest.raises(ValueError, match="index of"):
        Index((1, 0)).infer(types)
    with pytest.raises(ValueError, match="one index tensor each"):
        Index((0,)).infer(types)
