"""Parts of tensors as runs: whatever is claimed, every element is where it says."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.backends.spec import Layout, TensorSpec
from torch2rt.backends.views import Part, pitched_part
from torch2rt.network.dtype import DType


def places(spec, offset=0):
    """Where each element lies, in elements."""
    grid = np.indices(spec.shape)
    return offset + sum(
        index * stride for index, stride in zip(grid, spec.strides, strict=True)
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_parts_are_where_they_are_said_to_be(data):
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=2, max_size=5)))
    layout = data.draw(st.sampled_from([Layout.PLAIN, Layout.CHANNELS_LAST]))
    spec = TensorSpec(shape, DType.FLOAT16, layout)
    if data.draw(st.booleans()):
        kept = data.draw(st.integers(1, spec.rank))
        run = int(np.prod([shape[axis] for axis in spec.memory_order[kept:]]))
        spec = spec.with_pitch(run, run + 8)
    starts, sizes, steps = [], [], []
    for length in shape:
        starts.append(data.draw(st.integers(0, length - 1)))
        sizes.append(data.draw(st.integers(1, length - starts[-1])))
        is_stepped = 2 * (sizes[-1] - 1) + starts[-1] < length
        steps.append(data.draw(st.sampled_from([1, 2] if is_stepped else [1])))
    part = pitched_part(spec, starts, sizes, steps)
    if part is None:
        return
    ends = [start + size * step for start, size, step in zip(starts, sizes, steps, strict=True)]
    wanted = places(spec)[tuple(map(slice, starts, ends, steps))]
    inner = TensorSpec(tuple(sizes), spec.dtype, layout)
    if part.pitch:
        inner = inner.with_pitch(part.run, part.pitch)
    assert (places(inner, part.offset_bytes // 2) == wanted).all()


def test_channels_of_an_image_are_runs():
    spec = TensorSpec((2, 24, 3, 5), DType.FLOAT16, Layout.CHANNELS_LAST)
    assert pitched_part(spec, (0, 8, 0, 0), (2, 16, 3, 5), (1,) * 4) == Part(16, 16, 24)
    assert pitched_part(spec, (0, 0, 1, 0), (2, 24, 2, 5), (1,) * 4) == Part(240, 240, 360)
    assert pitched_part(spec, (1, 0, 1, 0), (1, 24, 2, 5), (1,) * 4) == Part(960)
    assert pitched_part(spec, (0, 0, 0, 1), (2, 8, 3, 2), (1,) * 4) is None


def test_alignment():
    assert Part(16, 8, 24).is_aligned(2, 16)
    assert not Part(8, 8, 24).is_aligned(2, 16)
    assert not Part(16, 4, 24).is_aligned(2, 16)
    assert Part(48).is_aligned(2, 16)
