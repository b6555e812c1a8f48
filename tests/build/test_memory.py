"""The memory plan against an overlap checker that knows nothing of how it was made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.build.memory import ALIGNMENT, Block, live_bytes, plan_memory

fuzz = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def problems(blocks: list[Block], offsets: list[int], arena_bytes: int) -> list[str]:
    """What is wrong with a plan, found by colouring bytes step by step."""
    found = []
    for offset in offsets:
        if offset % 64 or offset < 0:
            found.append(f"offset {offset} is not aligned")
    steps = range(min((b.first for b in blocks), default=0),
                  max((b.last for b in blocks), default=-1) + 1)
    for step in steps:
        owner = np.full(arena_bytes, -1)
        for index, (block, offset) in enumerate(zip(blocks, offsets, strict=True)):
            if not block.first <= step <= block.last:
                continue
            mine = owner[offset:offset + block.size_bytes]
            if len(mine) != block.size_bytes:
                found.append(f"block {index} ends outside the arena")
            if (mine != -1).any():
                found.append(f"blocks {index} and {mine.max()} share bytes at step {step}")
            mine[:] = index
    return found


def most_alive(blocks: list[Block]) -> int:
    """The largest sum of aligned sizes at one step, the slow way."""
    steps = {step for b in blocks for step in (b.first, b.last)}
    return max(
        (sum(-(-b.size_bytes // 64) * 64 for b in blocks if b.first <= step <= b.last)
         for step in steps),
        default=0,
    )


@pytest.mark.parametrize(
    ("offsets", "arena", "problem"),
    [
        ([0, 0], 128, "share bytes at step 1"),
        ([0, 64], 100, "outside"),
        ([0, 32], 128, "not aligned"),
        ([64, 0], 128, None),
    ],
)
def test_the_checker_sees_what_is_wrong(
    offsets: list[int], arena: int, problem: str | None
) -> None:
    found = problems([Block(64, 0, 1), Block(64, 1, 2)], offsets, arena)
    assert (problem in str(found)) if problem else found == []


blocks_of_any_kind = st.lists(
    st.builds(
        lambda size, first, life: Block(size, first, first + life),
        st.integers(0, 700) | st.sampled_from([1, 63, 64, 65, 128]),
        st.integers(0, 20), st.integers(0, 8) | st.just(0),
    ),
    max_size=30,
)


@fuzz
@given(blocks_of_any_kind)
def test_no_two_blocks_share_bytes(blocks: list[Block]) -> None:
    offsets, arena_bytes = plan_memory(blocks)
    assert problems(blocks, offsets, arena_bytes) == []
    assert live_bytes(blocks) == most_alive(blocks) <= arena_bytes
    assert arena_bytes <= sum(-(-b.size_bytes // ALIGNMENT) * ALIGNMENT for b in blocks)
    assert plan_memory(blocks) == (offsets, arena_bytes)


def test_nothing_needs_nothing() -> None:
    assert plan_memory([]) == ([], 0)
    assert live_bytes([]) == 0
    assert plan_memory([Block(0, 0, 5), Block(0, 0, 5)]) == ([0, 0], 0)


def test_blocks_that_do_not_meet_share_bytes() -> None:
    assert plan_memory([Block(100, 0, 1), Block(100, 2, 3)]) == ([0, 0], 128)
    assert plan_memory([Block(100, 0, 2), Block(100, 2, 3)])[1] == 256


def test_the_smallest_gap_that_fits_is_taken() -> None:
    walls_and_gaps = [
        Block(3072, 0, 9), Block(2048, 0, 0), Block(1920, 0, 9), Block(1024, 0, 0), Block(960, 0, 9)
    ]
    offsets, _ = plan_memory([*walls_and_gaps, Block(640, 5, 5)])
    assert offsets[5] == offsets[3]


# ---- lives as real networks have them; made by hand --------------


def chain(sizes: list[int]) -> list[Block]:
    return [Block(size, step, step + 1) for step, size in enumerate(sizes)]


def resnet50(batch: int = 1) -> list[Block]:
    """Bottlenecks: the block's input lives until the residual add three steps later."""
    blocks, step = [Block(batch * 64 * 112 * 112 * 4, 0, 1)], 1
    size, channels, previous = 56, 64, Block(batch * 64 * 56 * 56 * 4, 1, 2)
    for stage, count in enumerate([3, 4, 6, 3]):
        for index in range(count):
            stride = 2 if stage and not index else 1
            start = step + 1
            wide, narrow = channels * 4, channels
            before, size = size, size // stride
            a = Block(batch * narrow * before**2 * 4, start, start + 1)
            b = Block(batch * narrow * size**2 * 4, start + 1, start + 2 + (index == 0))
            down = [Block(batch * wide * size**2 * 4, start + 2, start + 3)] if not index else []
            end = start + 2 + (index == 0)
            blocks += [Block(previous.size_bytes, previous.first, end), a, b, *down]
            previous = Block(batch * wide * size**2 * 4, end, end + 1)
            step = end
        channels *= 2
    return [*blocks, previous]


def mobilenet_v2() -> list[Block]:
    """Inverted residuals: expand, depthwise, project; the narrow input waits for the add."""
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
             (6, 160, 3, 2), (6, 320, 1, 1)]
    blocks, step, channels, size = [], 0, 32, 112
    previous = Block(32 * 112 * 112 * 4, 0, 1)
    for expand, out, count, first_stride in table:
        for index in range(count):
            stride = first_stride if not index else 1
            adds = stride == 1 and channels == out
            wide, before = channels * expand, size
            size //= stride
            blocks += [
                Block(previous.size_bytes, previous.first, step + (3 if adds else 1)),
                Block(wide * before**2 * 4, step + 1, step + 2),
                Block(wide * size**2 * 4, step + 2, step + 3),
            ]
            step, channels = step + 3, out
            previous = Block(out * size**2 * 4, step, step + 1)
    return [*blocks, previous]


def inception(stages: int = 9) -> list[Block]:
    """Four branches written into one concat buffer that lives from the first to the next stage."""
    blocks, step = [], 0
    for stage in range(stages):
        pixels = (28, 14, 7)[stage * 3 // stages] ** 2 * 4
        blocks.append(Block((256 + 64 * stage) * pixels, step, step + 11))
        blocks += [Block(c * pixels, step + at, step + at + 1)
                   for c, at in ((96 + 16 * stage, 2), (16 + 4 * stage, 4), (192, 6))]
        step += 6
    return blocks


def transformer(layers: int = 12, tokens: int = 128, width: int = 768) -> list[Block]:
    """Residual stream, q k v, scores, the wide inner activation."""
    blocks, item = [], tokens * width * 4
    for step in range(0, 8 * layers, 8):
        blocks += [Block(item, step, step + 5)]
        blocks += [Block(item, step + i, step + 4) for i in (1, 2, 3)]
        blocks += [Block(12 * tokens * tokens * 4, step + 4, step + 4)]
        blocks += [Block(item, step + 4, step + 5), Block(item, step + 5, step + 8)]
        blocks += [Block(4 * item, step + 6, step + 7), Block(item, step + 7, step + 8)]
    return blocks


def unet() -> list[Block]:
    """Encoder features that wait for the decoder, longest for the largest."""
    depth, blocks = 5, []
    for level in range(depth):
        size = 64 * 256 * 256 * 4 >> level
        blocks += [Block(size, 2 * level, 2 * level + 1),
                   Block(size, 2 * level + 1, 4 * depth - 2 * level),
                   Block(size, 4 * depth - 2 * level - 1, 4 * depth - 2 * level),
                   Block(size, 4 * depth - 2 * level, 4 * depth - 2 * level + 1)]
    return blocks


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param(chain([100_000 >> i for i in range(12)]), id="shrinking chain"),
        pytest.param(chain([1000 << i for i in range(12)]), id="growing chain"),
        pytest.param(chain([4096, 65536, 1024] * 20), id="wide and narrow"),
        pytest.param(resnet50(), id="resnet50"),
        pytest.param(resnet50(8), id="resnet50 batch 8"),
        pytest.param(mobilenet_v2(), id="mobilenet_v2"),
        pytest.param(inception(), id="inception"),
        pytest.param(transformer(), id="transformer"),
        pytest.param(unet(), id="unet"),
    ],
)
@pytest.mark.parametrize("has_workspaces", [False, True])
def test_the_arena_stays_near_its_lower_bound(blocks: list[Block], has_workspaces: bool) -> None:
    if has_workspaces:
        sizes = np.random.default_rng(0).integers(0, 300_000, max(b.last for b in blocks) + 1)
        blocks = blocks + [Block(int(size), step, step) for step, size in enumerate(sizes)]
    small = [Block(-(-b.size_bytes // 4096), b.first, b.last) for b in blocks]
    assert problems(small, *plan_memory(small)) == []
    offsets, arena_bytes = plan_memory(blocks)
    assert not any(
        a.first <= b.last and b.first <= a.last and x < y + b.size_bytes and y < x + a.size_bytes
        for i, (a, x) in enumerate(zip(blocks, offsets, strict=True))
        for b, y in zip(blocks[:i], offsets, strict=False)
        if a.size_bytes and b.size_bytes
    )
    assert arena_bytes <= 1.10 * most_alive(blocks)
