"""Views: tensors inside each other's memory, dense and pitched."""

from dataclasses import replace

import pytest
import torch
from cuda_testing import TACTICS, assert_refused, check_cuda_tactic, cuda_spec

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.spec import Layout
from torch2rt.backends.tactic import View
from torch2rt.layers.concat import Concat
from torch2rt.layers.reshape import Reshape
from torch2rt.layers.slice import Slice
from torch2rt.layers.transpose import Transpose

F16 = torch.float16


def numbers(*shape, dtype=F16):
    return torch.arange(torch.Size(shape).numel()).reshape(shape).remainder(120).to(dtype)


def views_of(name, kind, inputs):
    return [made.views for made in check_cuda_tactic(name, kind, inputs, exact=True)]


def test_channels_are_concatenated_in_place_for_any_batch():
    last, plain = views_of(
        "concat.cuda.view", Concat(1), [numbers(2, 16, 3, 5), numbers(2, 8, 3, 5)]
    )
    assert last == (
        View(("input", 0), ("output", 0), 0, 16, 24),
        View(("input", 1), ("output", 0), 32, 8, 24),
    )
    assert plain == (
        View(("input", 0), ("output", 0), 0, 240, 360),
        View(("input", 1), ("output", 0), 480, 120, 360),
    )


def test_a_class_token_is_written_before_the_patches():
    (views,) = views_of("concat.cuda.view", Concat(1), [numbers(2, 1, 16), numbers(2, 6, 16)])
    assert views == (
        View(("input", 0), ("output", 0), 0, 16, 112),
        View(("input", 1), ("output", 0), 32, 96, 112),
    )


def test_batches_follow_each_other_densely():
    views = views_of("concat.cuda.view", Concat(0), [numbers(2, 8, 3, 5), numbers(1, 8, 3, 5)])
    assert len(views) == 2  # layouts
    assert views[0] == (
        View(("input", 0), ("output", 0), 0), View(("input", 1), ("output", 0), 480)
    )


@pytest.mark.parametrize(("shapes", "axis", "constants"), [
    ([(2, 12, 3, 5), (2, 16, 3, 5)], 1, []),
    ([(2, 16, 3, 5), (2, 8, 3, 5)], 1, [1]),
    ([(3,), (8,)], 0, []),
])
def test_concats_that_are_copied(shapes, axis, constants):
    inputs = [numbers(*shape) for shape in shapes]
    assert_refused("concat.cuda.view", Concat(axis), inputs, constants=constants, reason="")


@pytest.mark.parametrize(("shape", "starts", "sizes", "steps", "views"), [
    # Channels of an image: pitched in channels-last, and for one image dense when row-major.
    ((2, 48, 3, 5), (0, 16, 0, 0), (2, 32, 3, 5), (1, 1, 1, 1),
     [(32, 32, 48), (480, 480, 720)]),
    ((1, 48, 4, 4), (0, 16, 0, 0), (1, 32, 4, 4), (1, 1, 1, 1), [(32, 32, 48), (512, 0, 0)]),
    # Rows, every second one too; the first token; a third of the last axis.
    ((6, 8), (1, 0), (4, 8), (1, 1), [(16, 0, 0)]),
    ((6, 8), (1, 0), (3, 8), (2, 1), [(16, 8, 16)]),
    ((2, 7, 16), (0, 0, 0), (2, 1, 16), (1, 1, 1), [(0, 16, 112)]),
    ((2, 7, 48), (0, 0, 16), (2, 7, 16), (1, 1, 1), [(32, 16, 48)]),
    ((4, 5, 6, 8), (0, 0, 0, 0), (4, 5, 1, 8), (1, 1, 1, 1), [(0, 40, 240), (0, 8, 48)]),
    ((4, 8, 6, 5), (0, 0, 5, 0), (4, 8, 1, 5), (1, 1, 1, 1), [(400, 40, 240)]),
])
def test_slice(shape, starts, sizes, steps, views):
    made = views_of("slice.cuda.view", Slice(starts, sizes, steps), [numbers(*shape)])
    assert [(v.offset_bytes, v.run, v.pitch) for (v,) in made] == views


@pytest.mark.parametrize(("shape", "starts", "sizes", "steps"), [
    ((2, 48, 3, 5), (0, 4, 0, 0), (2, 32, 3, 5), (1, 1, 1, 1)),  # not aligned
    ((2, 48, 3, 5), (0, 8, 0, 0), (2, 12, 3, 5), (1, 1, 1, 1)),  # half vectors
    ((3, 4, 5, 8), (0, 1, 1, 0), (3, 2, 2, 8), (1, 1, 1, 1)),  # two distances
    ((64,), (63,), (64,), (-1,)),
])
def test_slices_that_are_copied(shape, starts, sizes, steps):
    assert_refused("slice.cuda.view", Slice(starts, sizes, steps), [numbers(*shape)],
                   reason="aligned runs")


def test_a_slice_of_a_pitched_tensor():
    tactic = find_tactic(TACTICS, "slice.cuda.view")
    spec = cuda_spec(Slice((0, 0, 8), (2, 7, 8), (1, 1, 1)), [numbers(2, 7, 16)])
    pitched = spec.inputs[0].with_pitch(16, 48)
    spec = replace(spec, inputs=(pitched,))
    assert tactic.takes_pitch(spec)
    assert tactic.prepare(spec, None).views == (View(("output", 0), ("input", 0), 16, 8, 48),)


@pytest.mark.parametrize(("shape", "target", "count"), [
    ((2, 8, 3, 5), (2, 120), 1), ((2, 8, 3, 5), (2, 8, 15, 1), 2),
    ((2, 8, 3, 5), (2, 8, 15), 2), ((6, 4), (3, 8), 1),
    ((2, 8, 1, 1), (2, 8), 2),
])
def test_reshape(shape, target, count):
    assert len(views_of("reshape.cuda.view", Reshape(target), [numbers(*shape)])) == count


def test_a_reshape_keeps_runs():
    tactic = find_tactic(TACTICS, "reshape.cuda.view")
    spec = cuda_spec(Reshape((2, 7, 2, 8)), [numbers(2, 7, 16)])
    pitched = replace(spec, inputs=(spec.inputs[0].with_pitch(16, 48),))
    assert tactic.takes_pitch(pitched)
    assert tactic.prepare(pitched, None).views == (View(("output", 0), ("input", 0), 0, 16, 48),)
    wide = cuda_spec(Reshape((2, 112)), [numbers(2, 7, 16)])
    pitched = replace(wide, inputs=(wide.inputs[0].with_pitch(16, 48),))
    assert not tactic.takes_pitch(pitched)


@pytest.mark.parametrize(("shape", "permutation", "layouts"), [
    ((2, 20, 3, 5), (0, 2, 3, 1), [(Layout.CHANNELS_LAST, Layout.PLAIN)]),
    ((2, 3, 5, 20), (0, 3, 1, 2), [(Layout.PLAIN, Layout.CHANNELS_LAST)]),
    ((1, 6), (1, 0), [(Layout.PLAIN, Layout.PLAIN)]),
    ((2, 8, 15), (0, 2, 1), [
        (Layout.PLAIN, Layout.CHANNELS_LAST), (Layout.CHANNELS_LAST, Layout.PLAIN)
    ]),
])
def test_transpose(shape, permutation, layouts):
    kind = Transpose(permutation)
    assert len(views_of("transpose.cuda.view", kind, [numbers(*shape)])) == len(layouts)
    choices = find_tactic(TACTICS, "transpose.cuda.view").layouts(
        cuda_spec(kind, [numbers(*shape)])
    )
    assert [(choice.inputs[0], choice.outputs[0]) for choice in choices] == layouts


def test_transposes_that_are_copied():
    assert_refused("transpose.cuda.view", Transpose((1, 0)), [numbers(4, 6)], reason="order")
