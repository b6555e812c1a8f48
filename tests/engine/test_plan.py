"""Plans as JSON: what is written is read, and what makes no sense is refused."""

import json
from dataclasses import replace

import pytest

from torch2rt.backends.spec import Layout, TensorSpec
from torch2rt.engine.plan import Plan, PlanStep, PlanTensor, Storage
from torch2rt.network.dtype import DType

SPEC = TensorSpec((2, 8, 3, 3), DType.FLOAT16, Layout.CHANNELS_LAST)
PITCHED = SPEC.with_pitch(8, 24)
# 18 pixels of 24 channels, of which 8 are its own.
PITCHED_BYTES = (17 * 24 + 8) * 2


def plan(arena_bytes: int = PITCHED_BYTES) -> Plan:
    tensors = (
        PlanTensor("x", SPEC, Storage("input", "x", 0)),
        PlanTensor("a", PITCHED, Storage("arena", "", 0)),
        PlanTensor("b", PITCHED, Storage("output", "y", 16)),
    )
    steps = (
        PlanStep("first", "t", (0,), (1,), 0, 1.5),
        PlanStep("second", "t", (0,), (2,), 0, 2.5, 1),
        PlanStep("third", "t", (1,), (2,), 0, 2.5, 0, (1,)),
    )
    return Plan({}, tensors, steps, arena_bytes, arena_bytes, untuned=1)


def test_pitched_tensors_streams_and_waits_are_written_and_read() -> None:
    data = json.loads(json.dumps(plan().to_json()))
    assert Plan.from_json(data) == plan()
    assert plan().stream_count == 2


def test_dense_plans_of_one_stream_are_written_as_ever() -> None:
    step = PlanStep("l", "t", (0,), (0,), 0, 1.0)
    dense = replace(plan(), tensors=plan().tensors[:1], steps=(step,))
    data = dense.to_json()
    assert [len(row) for row in (*data["tensors"], *data["steps"])] == [6, 6]
    del data["untuned"]
    assert Plan.from_json(data) == replace(dense, untuned=0)


def test_the_gaps_of_a_pitched_tensor_lie_inside_the_arena() -> None:
    with pytest.raises(ValueError, match="past the arena"):
        Plan.from_json(plan(PITCHED_BYTES - 1).to_json())


@pytest.mark.parametrize(
    ("run", "pitch"),
    [(7, 24), (8, 4), (0, 24), (-8, 24), (8, "24"), (True, 24), (8, None)],
)
def test_runs_that_are_no_whole_axes_are_refused(run: object, pitch: object) -> None:
    data = plan().to_json()
    data["tensors"][1][6:] = [run, pitch]
    with pytest.raises((ValueError, TypeError)):
        Plan.from_json(data)


@pytest.mark.parametrize("row", [[1, "b"], [-1, []], [99, []], [0, [2]], [0, [-1]], [0, [3]], [0]])
def test_waits_for_steps_that_do_not_come_before_are_refused(row: list[object]) -> None:
    data = plan().to_json()
    data["steps"][2][6:] = row
    with pytest.raises((ValueError, TypeError)):
        Plan.from_json(data)
