import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import needs_onednn

from torch2rt.backends.cpu.onednn import (
    DataType,
    Memory,
    MemoryDesc,
    OneDNNArgumentError,
    OneDNNError,
    allocate,
    channel_blocked_tag,
    channels_last_tag,
    data_type_of,
    layout,
    pack,
    unpack,
)

pytestmark = needs_onednn


def test_plain_strides_and_size():
    desc = MemoryDesc.plain((2, 3, 4), DataType.bf16)
    assert desc.strides == (12, 4, 1)
    assert desc.size_bytes == 48
    assert desc.is_plain
    assert str(desc) == "bf16 2x3x4 abc"


def test_blocks_round_channels_up():
    desc = MemoryDesc.tagged((1, 20, 5, 5), DataType.f32, "aBcd16b")
    assert desc.padded_dims == (1, 32, 5, 5)
    assert desc.inner_blocks == ((1, 16),)
    assert desc.size_bytes == 32 * 25 * 4
    assert desc.tag == "aBcd16b"
    assert not desc.is_plain


def test_any_has_no_size_and_no_strides():
    desc = MemoryDesc.any((1, 3), DataType.f32)
    assert desc.is_any
    assert desc.size_bytes == 0
    assert desc.tag == "any"


def test_equality_is_the_library_s():
    nhwc = MemoryDesc.tagged((1, 8, 5, 5), DataType.f32, "acdb")
    assert nhwc == MemoryDesc.plain((1, 8, 5, 5), DataType.f32, (200, 1, 40, 8))
    assert hash(nhwc) == hash(MemoryDesc.plain((1, 8, 5, 5), DataType.f32, (200, 1, 40, 8)))
    assert nhwc != MemoryDesc.plain((1, 8, 5, 5), DataType.f32)
    assert nhwc != MemoryDesc.tagged((1, 8, 5, 5), DataType.bf16, "acdb")
    assert nhwc != "acdb"


@pytest.mark.parametrize("ndim", [1, 2, 3, 4, 5, 6])
def test_every_named_layout_comes_back_by_its_name(ndim):
    names = layout.tag_values(ndim)
    assert len(names) == len(set(names.values()))
    for name in names:
        assert layout.rank(name) == ndim
        assert MemoryDesc.tagged((128,) * ndim, DataType.s8, name).tag == name


def test_activation_tags():
    assert [channels_last_tag(n) for n in (2, 3, 4, 5)] == ["ab", "acb", "acdb", "acdeb"]
    assert channel_blocked_tag(4, 16) == "aBcd16b"
    for ndim in (3, 4, 5):
        assert channel_blocked_tag(ndim, 8) in layout.tag_values(ndim)


def test_unknown_layouts_are_named():
    with pytest.raises(OneDNNArgumentError, match="unknown layout 'aBcd17b'"):
        MemoryDesc.tagged((1, 2, 3, 4), DataType.f32, "aBcd17b")


def test_wrong_rank_of_a_layout_is_an_error():
    with pytest.raises(OneDNNError, match=r"describing f32 \(1, 2\) as aBcd16b"):
        MemoryDesc.tagged((1, 2), DataType.f32, "aBcd16b")


def test_strides_and_dims_must_match_in_number():
    with pytest.raises(ValueError, match="1 strides for 2 dims"):
        MemoryDesc.plain((2, 3), DataType.f32, (1,))
    with pytest.raises(ValueError, match="13 dims, at most 12"):
        MemoryDesc.plain((1,) * 13, DataType.f32)


def test_permute_is_torch_s():
    desc = MemoryDesc.plain((2, 3, 4), DataType.f32).permute((2, 0, 1))
    assert desc.dims == (4, 2, 3)
    assert desc.strides == (1, 12, 4)


def test_reshape_keeps_bytes_or_refuses():
    desc = MemoryDesc.plain((2, 3, 4), DataType.f32)
    assert desc.reshape((6, 4)).strides == (4, 1)
    with pytest.raises(OneDNNError, match="reshaping f32 2x3x4 bac to"):
        MemoryDesc.tagged((2, 3, 4), DataType.f32, "bac").reshape((6, 4))


def test_submemory_lives_inside_its_parent():
    parent = MemoryDesc.tagged((2, 48, 5, 5), DataType.f32, "aBcd16b")
    part = parent.submemory((2, 16, 5, 5), (0, 32, 0, 0))
    assert part.offset_elements == 32 * 25
    assert part.tag == "aBcd16b*"
    assert part.size_bytes == parent.size_bytes
    window = parent.submemory((2, 16, 5, 5), (0, 0, 0, 0))
    assert window.offset_elements == 0
    assert window.strides == part.strides


def test_pack_writes_into_a_submemory_s_place(rng):
    whole = MemoryDesc.tagged((1, 32, 3, 3), DataType.f32, "aBcd16b")
    memory = allocate(whole)
    value = rng.standard_normal((1, 16, 3, 3), np.float32)
    packed = pack(value, MemoryDesc.tagged((1, 16, 3, 3), DataType.f32, "aBcd16b"))
    start = whole.submemory((1, 16, 3, 3), (0, 16, 0, 0)).offset_elements * 4
    memory.owner[start : start + packed.owner.nbytes] = packed.owner
    np.testing.assert_array_equal(unpack(memory)[:, 16:], value)
    assert not unpack(memory)[:, :16].any()


shapes = st.lists(st.integers(1, 20), min_size=4, max_size=4)


@settings(deadline=None)
@given(shapes, st.sampled_from(["abcd", "acdb", "aBcd16b", "aBcd8b", "bcda", "ABcd16b16a"]))
def test_pack_and_unpack_are_inverse(shape, tag):
    value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    memory = pack(value, MemoryDesc.tagged(shape, DataType.f32, tag))
    np.testing.assert_array_equal(unpack(memory), value)


@settings(deadline=None)
@given(shapes)
def test_padding_is_zero_after_packing(shape):
    """Kernels read whole blocks, so what fills a block up must be zero."""
    value = np.ones(shape, np.float32)
    memory = pack(value, MemoryDesc.tagged(shape, DataType.f32, "aBcd16b"))
    assert memory.owner.view(np.float32).sum() == np.prod(shape)


def test_pack_reads_views_where_they_lie(rng):
    value = rng.standard_normal((4, 6), np.float32)
    for view in (value.T, value[::2, 1:], value[:, ::-1]):
        desc = MemoryDesc.plain(view.shape, DataType.f32)
        np.testing.assert_array_equal(unpack(pack(view, desc)), view)


def test_pack_checks_shape_and_type():
    desc = MemoryDesc.plain((2, 3), DataType.f32)
    with pytest.raises(ValueError, match=r"array is \(3, 2\), desc is f32 2x3 ab"):
        pack(np.zeros((3, 2), np.float32), desc)
    with pytest.raises(ValueError, match="uint16 has no single oneDNN type"):
        data_type_of(np.zeros(3, np.uint16))


def test_empty_tensors_have_no_bytes():
    desc = MemoryDesc.plain((0, 3), DataType.f32)
    assert desc.size_bytes == 0
    assert unpack(pack(np.zeros((0, 3), np.float32), desc)).shape == (0, 3)


def test_too_few_bytes_are_refused():
    desc = MemoryDesc.tagged((1, 3, 2, 2), DataType.f32, "aBcd16b")
    with pytest.raises(OneDNNArgumentError, match="48 bytes given, f32 1x3x2x2 aBcd16b takes 256"):
        Memory.of_array(desc, np.zeros((1, 3, 2, 2), np.float32))
