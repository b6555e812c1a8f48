"""Storage links: each refusal by itself, then random programs executed in the planned memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.build.piece import Piece
from torch2rt.build.storage import FinishedStorage, StoragePlan
from torch2rt.engine.plan import Storage

fuzz = settings(max_examples=500, deadline=None, derandomize=True, database=None)


def plan_of(**sizes: int) -> StoragePlan:
    """Arena values by size; names that start with in, out or const lie at the caller."""
    storage = StoragePlan()
    places = {"in": "input", "out": "output", "const": "constant"}
    for name, size in sizes.items():
        place = next((places[p] for p in places if name.startswith(p)), "arena")
        storage.declare(name, size, place, name if place != "arena" else "")
    return storage


def run(storage: StoragePlan, *steps: tuple[str, str]) -> StoragePlan:
    """Steps as (names read, names written), separated by spaces."""
    for number, (reads, writes) in enumerate(steps):
        for name in reads.split():
            storage.read(name, number)
        for name in writes.split():
            storage.written(name, number)
    return storage


# ---- views --------------------------------------------------------------------------------------


def test_a_concat_is_written_in_place() -> None:
    storage = run(plan_of(a=64, b=128, both=192), ("", "a"), ("", "b"), ("both", ""))
    assert storage.place_inside("a", "both", 0) is None
    assert storage.place_inside("b", "both", 64) is None
    done = storage.finish([0, 0, 0])
    assert done.storage["a"] == done.storage["both"] == Storage("arena", "", 0)
    assert done.storage["b"] == Storage("arena", "", 64)
    assert done.arena_bytes == done.live_bytes == 192


def test_offsets_add_up_through_nested_views() -> None:
    storage = run(plan_of(slice=8, part=32, whole=128), ("", "whole"), ("slice", ""))
    assert storage.place_inside("slice", "part", 16) is None
    assert storage.place_inside("part", "whole", 64) is None
    assert storage.root("slice") == ("whole", 80)
    assert storage.finish([0, 0]).storage["slice"] == Storage("arena", "", 80)


def test_what_was_reshaped_is_placed_for_its_reshape() -> None:
    storage = plan_of(made=64, flat=64, part=16, concat=192)
    assert storage.place_inside("flat", "made", 0) is None
    assert storage.place_inside("part", "flat", 16) is None
    assert storage.all_of("flat") == "made"
    assert storage.all_of("part") == "part"
    assert storage.place_inside(storage.all_of("flat"), "concat", 32, 16, 48) is None
    assert storage.place("flat")[1] == Piece(32, 64, 16, 48)
    assert storage.all_of("flat") == "made"


def test_a_view_of_an_input_lies_at_the_caller() -> None:
    storage = run(plan_of(input=64, row=16), ("row", ""))
    assert storage.place_inside("row", "input", 48) is None
    done = storage.finish([0])
    assert done.storage["row"] == Storage("input", "input", 48)
    assert done.arena_bytes == 0


def test_an_output_takes_the_place_of_the_whole_it_views() -> None:
    storage = run(plan_of(x=64, output=64), ("", "x"), ("x", ""))
    assert storage.place_inside("output", "x", 0) is None
    done = storage.finish([0, 0])
    assert done.storage["x"] == done.storage["output"] == Storage("output", "output", 0)
    assert done.arena_bytes == 0


@pytest.mark.parametrize(
    ("inner", "outer", "offset", "reason"),
    [
        ("small", "whole", 100, "does not fit"),
        ("whole", "small", 0, "does not fit"),
        ("const", "whole", 0, "own memory"),
        ("small", "const", 0, "own memory"),
        ("input", "whole", 0, "memory of the caller"),
        ("output", "whole", 0, "only part"),
        ("output", "input", 0, "share memory"),
        ("output", "output2", 0, "share memory"),
        ("whole", "whole", 0, "inside the other"),
        ("taken", "whole", 0, "already lies inside"),
        ("holder", "taken", 0, "inside the other"),
    ],
)
def test_views_that_are_refused(inner: str, outer: str, offset: int, reason: str) -> None:
    storage = plan_of(small=32, whole=128, const=128, input=64, output=64, output2=64,
                      taken=64, holder=64)
    assert storage.place_inside("taken", "holder", 0) is None
    before = {name: storage.root(name) for name in storage.values}
    assert reason in str(storage.place_inside(inner, outer, offset))
    assert {name: storage.root(name) for name in storage.values} == before


def test_two_outputs_do_not_become_one() -> None:
    storage = plan_of(x=64, out1=64, out2=64)
    assert storage.place_inside("out1", "x", 0) is None
    assert "share memory" in str(storage.place_inside("out2", "x", 0))


# ---- overwriting --------------------------------------------------------------------------------


def test_a_result_takes_over_what_nobody_reads_any_more() -> None:
    storage = run(plan_of(x=64, y=64), ("", "x"), ("x", "y"), ("y", ""))
    assert storage.overwrite("y", "x", 1)
    done = storage.finish([0, 0, 0])
    assert done.storage["y"] == done.storage["x"]
    assert done.arena_bytes == 64


@pytest.mark.parametrize(
    ("steps", "prepare"),
    [
        pytest.param([("x", "y"), ("x", "")], None, id="read later"),
        pytest.param([("x", "y"), ("row", "")], ("row", "x"), id="a part is read later"),
        pytest.param([("x x", "y")], None, id="read twice, as in conv(x) + x"),
        pytest.param([("x row", "y")], ("row", "x"), id="a part is read too, as in x - x[:1]"),
        pytest.param([("x", "y")], ("x", "wide"), id="the operand is a part"),
        pytest.param([("x", "y")], ("y", "wide"), id="the result is a part"),
        pytest.param([("x", "y")], ("output", "x"), id="the operand became an output"),
        pytest.param([("x", "y")], ("output", "y"), id="the result became an output"),
    ],
)
def test_overwriting_that_is_refused(
    steps: list[tuple[str, str]], prepare: tuple[str, str] | None
) -> None:
    storage = run(plan_of(x=64, y=64, row=16, wide=128, output=64), ("", "x"), *steps)
    if prepare is not None:
        assert storage.place_inside(*prepare, 0) is None
    assert not storage.overwrite("y", "x", 1)
    assert storage.root("y") != ("x", 0)


@pytest.mark.parametrize("operand", ["input", "const", "small", "output"])
def test_operands_that_are_not_overwritten(operand: str) -> None:
    storage = run(plan_of(input=64, const=64, small=32, output=64, y=64), (operand, "y"))
    assert not storage.overwrite("y", operand, 0)


def test_one_operand_is_not_overwritten_twice() -> None:
    storage = run(plan_of(x=64, y=64, z=64), ("", "x"), ("x", "y z"), ("z", ""))
    assert storage.overwrite("y", "x", 1)
    assert not storage.overwrite("z", "x", 1)


# ---- lives --------------------------------------------------------------------------------------


def test_workspaces_lie_beside_what_is_alive() -> None:
    storage = run(plan_of(x=64, y=64), ("", "x"), ("x", "y"), ("y", ""))
    done = storage.finish([0, 100, 0])
    offsets = {done.storage["x"].offset_bytes, done.storage["y"].offset_bytes}
    assert offsets | {done.workspace_offsets[1]} == {0, 128, 192} or done.arena_bytes == 256
    assert done.live_bytes == 256


def test_a_concat_lives_from_its_first_part_on() -> None:
    storage = run(plan_of(both=128, b=64, a=64, c=128), ("", "c"), ("c", "a"), ("c", "b"),
                  ("both", ""))
    assert storage.place_inside("a", "both", 0) is None
    assert storage.place_inside("b", "both", 64) is None
    assert storage.finish([0] * 4).arena_bytes == 256


def test_a_result_that_nobody_reads_still_has_memory_while_it_is_written() -> None:
    storage = run(plan_of(x=64, unread=64), ("", "x"), ("x", "unread"))
    assert storage.finish([0, 0]).arena_bytes == 128


def test_values_that_no_step_touches_take_no_memory() -> None:
    done = run(plan_of(x=64, ghost=640), ("", "x")).finish([0])
    assert done.arena_bytes == 64


# ---- random programs ----------------------------------------------------------------------------


@dataclass
class Program:
    """Steps of (reads, writes, workspace); what each value is made of; what steps overwrite."""

    storage: StoragePlan = field(default_factory=StoragePlan)
    sizes: dict[str, int] = field(default_factory=dict)
    meaning: dict[str, Callable[[Mapping[str, bytes]], bytes]] = field(default_factory=dict)
    steps: list[tuple[list[str], list[str], int]] = field(default_factory=list)
    views: list[list[tuple[str, str, int]]] = field(default_factory=list)

    def declare(self, size: int, place: str = "arena") -> str:
        name = f"v{len(self.sizes)}"
        self.sizes[name] = size
        self.storage.declare(name, size, place, name if place != "arena" else "")
        return name

    def compute(self, reads: list[str], writes: list[str], workspace: int) -> None:
        for name in reads:
            self.storage.read(name, len(self.steps))
        for name in writes:
            self.storage.written(name, len(self.steps))
        self.steps.append((reads, writes, workspace))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Steps, slices, reshapes and concats over inputs; the last values are outputs."""
    program = Program()
    size = st.sampled_from([16, 64, 64, 64, 128])
    names = [program.declare(draw(size), "input") for _ in range(2)]
    for _ in range(draw(st.integers(1, 12))):
        recent = st.sampled_from(names[-6:])
        place = draw(st.sampled_from(["arena", "arena", "arena", "output"]))
        kind = draw(st.sampled_from(["step", "step", "step", "slice", "reshape", "concat"]))
        reads = draw(st.lists(recent, min_size=1, max_size=3))
        if kind == "step":
            writes = [program.declare(draw(size), place)]
            writes += [program.declare(draw(size)) for _ in range(draw(st.integers(0, 1)))]
            program.compute(reads, writes, draw(st.sampled_from([0, 0, 100])))
        elif kind == "concat":
            writes = [program.declare(sum(program.sizes[name] for name in reads), place)]
            ends = np.cumsum([0, *(program.sizes[name] for name in reads)])
            links = [(name, writes[0], int(at)) for name, at in zip(reads, ends, strict=False)]
            _view(program, links, reads, writes[0],
                  lambda known, reads=tuple(reads): b"".join(known[name] for name in reads))
        else:
            source = reads[0]
            count = program.sizes[source] // (2 if kind == "slice" else 1)
            start = program.sizes[source] - count
            writes = [program.declare(count, place)]
            _view(program, [(writes[0], source, start)], [source], writes[0],
                  lambda known, source=source, start=start: known[source][start:])
        names += writes
    return program


def _view(
    program: Program, links: list[tuple[str, str, int]], reads: list[str], result: str,
    meaning: Callable[[Mapping[str, bytes]], bytes],
) -> None:
    """A view if it can be placed (as the builder does: all of it or, here, a copy step)."""
    saved = {name: (v.parent, v.place, v.binding) for name, v in program.storage.values.items()}
    if all(program.storage.place_inside(*link) is None for link in links):
        program.meaning[result] = meaning
        for name in reads:
            program.storage.read(name, len(program.steps))
        program.steps.append(([], [], 0))
        return
    for name, (parent, place, binding) in saved.items():
        value = program.storage.values[name]
        value.parent, value.place, value.binding = parent, place, binding
    program.compute(list(dict.fromkeys(reads)), [result], 0)


class Memory:
    """The arena and the caller's buffers, all garbage at first."""

    def __init__(self, program: Program, done: FinishedStorage) -> None:
        self.program, self.done = program, done
        self.rng = np.random.default_rng(0)
        self.arena = self.garbage(done.arena_bytes)
        self.bindings = {name: self.garbage(size) for name, size in program.sizes.items()}

    def garbage(self, size: int) -> np.ndarray:
        return self.rng.integers(0, 256, size, dtype=np.uint8)

    def at(self, name: str) -> np.ndarray:
        storage = self.done.storage[name]
        base = self.arena if storage.place == "arena" else self.bindings[storage.name]
        view = base[storage.offset_bytes:storage.offset_bytes + self.program.sizes[name]]
        assert view.size == self.program.sizes[name], f"{name} ends outside {storage}"
        return view


class Meant(dict[str, bytes]):
    """What each value should hold: inputs and results as written, views as they are made up."""

    def __init__(self, program: Program, memory: Memory) -> None:
        self.program = program
        inputs = [n for n, v in program.storage.values.items() if v.place == "input"]
        super().__init__({name: memory.at(name).tobytes() for name in inputs})

    def __missing__(self, name: str) -> bytes:
        self[name] = self.program.meaning[name](self)
        return self[name]


def execute(program: Program, overwrites: dict[int, str]) -> None:
    """Run the steps in planned memory; every read must find what was meant to be there."""
    done = program.storage.finish([workspace for _, _, workspace in program.steps])
    memory = Memory(program, done)
    meant = Meant(program, memory)
    for step, (reads, writes, workspace) in enumerate(program.steps):
        at = done.workspace_offsets[step]
        assert at + workspace <= done.arena_bytes
        memory.arena[at:at + workspace] = memory.garbage(workspace)
        for name in reads:
            assert memory.at(name).tobytes() == meant[name], f"step {step} misses {name}"
        for name in writes:
            meant[name] = memory.garbage(program.sizes[name]).tobytes()
            memory.at(name)[:] = np.frombuffer(meant[name], np.uint8)
        for name in (*(name for name in reads if name != overwrites.get(step)), *writes):
            assert memory.at(name).tobytes() == meant[name], f"step {step} destroys {name}"
    for name in program.sizes:
        if done.storage[name].place != "arena":
            assert memory.at(name).tobytes() == meant[name], f"binding {name} is destroyed"


@fuzz
@given(programs())
def test_every_step_of_a_random_program_finds_its_inputs(program: Program) -> None:
    overwrites = {}
    for step, (reads, writes, _) in enumerate(program.steps):
        for name in reads:
            if writes and program.storage.overwrite(writes[0], name, step):
                overwrites[step] = name
                break
    execute(program, overwrites)
