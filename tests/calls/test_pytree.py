from __future__ import annotations

import copy
import gc
import json
import pickle
import subprocess
import sys
import textwrap
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.calls.classes import ClassName
from torch2rt.calls.pytree import CallSpec, OutputSpec
from torch2rt.errors import CallError, PytreeError

A, B, C = torch.zeros(1), torch.ones(2), torch.full((3,), 2.0)
Pair = namedtuple("Pair", "left right")


@dataclass
class Result:
    logits: torch.Tensor
    loss: torch.Tensor | None = None
    seen: int = field(default=0, init=False)


@dataclass(frozen=True)
class Frozen:
    value: torch.Tensor


def forward(x: Any, scale: float = 2.0, *, mask: Any = None, **rest: Any) -> None: ...


def spread(first: Any, *others: Any) -> None: ...


def spec_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> CallSpec:
    return CallSpec.from_call(function, args, kwargs)[0]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


# ---- calls ---------------------------------------------------------------------------------


def test_positional_and_keyword_calls_give_the_same_order() -> None:
    spec = spec_of(forward, A, mask=B)
    assert spec.names == ("x", "mask")
    assert same(spec.flatten((C,), {"mask": B}), [C, B])
    assert same(spec.flatten((), {"mask": B, "x": C}), [C, B])
    assert same(spec.flatten((C, 2.0), {"mask": B}), [C, B])


def test_one_positional_tensor() -> None:
    spec = spec_of(forward, A)
    assert same(spec.flatten((B,), {}), [B])
    assert same(spec.flatten((), {"x": B}), [B])


def test_nested_arguments_are_named_by_their_path() -> None:
    spec = spec_of(forward, {"image": A, "boxes": [B, C]}, extra=(A,))
    assert spec.names == ("x.image", "x.boxes.0", "x.boxes.1", "extra.0")
    found = spec.flatten(({"boxes": [A, B], "image": C},), {"extra": (B,)})
    assert same(found, [C, A, B, B])


def test_unflatten_gives_the_example_call_back() -> None:
    spec = spec_of(forward, {"image": A}, 3.0, mask=[B], extra=C)
    assert spec.unflatten([C, A, B]) == (({"image": C}, 3.0), {"mask": [A], "extra": B})


def test_star_arguments() -> None:
    spec = spec_of(spread, A, B, C)
    assert spec.names == ("first", "others.0", "others.1")
    assert same(spec.flatten((C, B, A), {}), [C, B, A])
    assert spec.unflatten([A, B, C]) == ((A, B, C), {})
    with pytest.raises(CallError, match="'others' has other entries"):
        spec.flatten((A, B), {})
    with pytest.raises(CallError, match="'others' was not given"):
        spec_of(spread, A).flatten((A, B), {})


def test_constants_may_be_repeated_or_left_out_where_the_default_says_the_same() -> None:
    spec = spec_of(forward, A, 2.0, mask=None)
    for args, kwargs in (((B,), {}), ((B, 2.0), {}), ((B,), {"scale": 2.0, "mask": None})):
        assert same(spec.flatten(args, kwargs), [B])


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "argument 'x' is missing. The model takes: x, mask"),
        ((A,), {}, "argument 'mask' is missing"),
        ((A, 3.0), {"mask": B}, "'scale' was not given when the model was captured"),
        ((A,), {"mask": None}, "argument 'mask' must be a tensor, got None"),
        ((A, 2.0, B), {}, r"1 positional argument\(s\) too many"),
        ((A, 2.0, B), {"mask": B}, r"1 positional argument\(s\) too many"),
        ((A,), {"x": A, "mask": B}, "argument 'x' is given twice"),
        ((A,), {"mask": B, "maks": B}, "argument 'maks' was not given when"),
        ((1.5,), {"mask": B}, "argument 'x' must be a tensor, got 1.5"),
        (([A],), {"mask": B}, "argument 'x' must be a tensor, got a value of type list"),
    ],
)
def test_a_call_that_does_not_fit_names_the_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(CallError, match=message):
        spec_of(forward, A, mask=B).flatten(args, kwargs)


def test_unknown_keyword_of_a_closed_signature() -> None:
    with pytest.raises(CallError, match=r"unexpected argument 'second'\. The model takes: first"):
        spec_of(spread, A).flatten((A,), {"second": B})


def test_another_constant_or_structure_is_refused() -> None:
    spec = spec_of(forward, [A, {"k": B}], 3.0)
    with pytest.raises(CallError, match=r"'scale' was 3\.0 when the model was captured and is 2\."):
        spec.flatten(([A, {"k": B}],), {})
    with pytest.raises(CallError, match="argument 'x' must be a list of 2, got a tensor"):
        spec.flatten((A, 3.0), {})
    with pytest.raises(CallError, match=r"'x\.1' has other entries .* missing \['k'\], extra \['z"):
        spec.flatten(([A, {"z": B}], 3.0), {})


def test_an_example_that_forward_does_not_take() -> None:
    with pytest.raises(CallError, match=r"do not fit the model's forward: .*\(first, \*others\)"):
        spec_of(lambda first, *others: None)


@pytest.mark.parametrize("value", [{A}, object(), [torch.zeros(1).numpy()], {"k": {1, 2}}])
def test_unsupported_values_are_named(value: object) -> None:
    with pytest.raises(PytreeError, match=r"^x.*is not supported\. Use tensors"):
        spec_of(forward, value)


def test_a_nan_constant_equals_itself() -> None:
    spec = spec_of(forward, A, float("nan"))
    assert same(spec.flatten((A, float("nan")), {}), [A])


# ---- outputs -------------------------------------------------------------------------------

OUTPUTS = [
    (A, ("output",)),
    ((A, B), ("output.0", "output.1")),
    ([A, [B, None, 3]], ("output.0", "output.1.0")),
    ({"logits": A, "hidden": (B, C)}, ("logits", "hidden.0", "hidden.1")),
    (OrderedDict(out=A, aux=B), ("out", "aux")),
    (defaultdict(list, a=A), ("a",)),
    (Pair(A, B), ("left", "right")),
    (Result(A, None), ("logits",)),
    (Frozen(A), ("value",)),
    (torch.max(torch.ones(2, 2), 1), ("output.0", "output.1")),
    ({"a.0": A, "a": [B]}, ("a.0", "a.0_")),
    ({1: A, "dtype": torch.float16, "slice": slice(1, None)}, ("output.1",)),
]


@pytest.mark.parametrize(("value", "names"), OUTPUTS, ids=lambda v: type(v).__name__)
def test_outputs_come_back_as_they_were(value: Any, names: tuple[str, ...]) -> None:
    spec, tensors = OutputSpec.from_value(value)
    assert spec.names == names
    data = json.loads(json.dumps(spec.to_json()))
    copies = [pickle.loads(pickle.dumps(spec)), OutputSpec.from_json(data), copy.deepcopy(spec)]
    for other in (spec, *copies):
        assert other == spec
        rebuilt = other.rebuild(tensors)
        assert type(rebuilt) is type(value)
        again, found = OutputSpec.from_value(rebuilt)
        assert again == spec
        assert same(found, tensors)


def test_attributes_outside_of_init_come_back() -> None:
    result = Result(A)
    result.seen = 5
    spec, tensors = OutputSpec.from_value(result)
    assert spec.rebuild(tensors).seen == 5


def test_a_class_local_to_a_function_lives_as_long_as_its_process() -> None:
    @dataclass
    class Local:
        value: torch.Tensor

    spec, tensors = OutputSpec.from_value(Local(A))
    assert isinstance(copy.deepcopy(spec).rebuild(tensors), Local)
    assert isinstance(OutputSpec.from_json(spec.to_json()).rebuild(tensors), Local)
    pickled = pickle.dumps(spec)
    del spec, Local
    gc.collect()
    with pytest.raises(PytreeError, match=r"has no .*Local.*Import"):
        pickle.loads(pickled).rebuild(tensors)


def test_registered_classes_are_taken_apart_by_their_registration() -> None:
    class Box:
        def __init__(self, inside: object, label: str) -> None:
            self.inside, self.label = inside, label

    torch.utils._pytree.register_pytree_node(
        Box, lambda box: ([box.inside], box.label), lambda items, label: Box(items[0], label)
    )
    spec, tensors = OutputSpec.from_value((Box(A, "left"), B))
    rebuilt = spec.rebuild([B, C])
    assert same(tensors, [A, B])
    assert (rebuilt[0].inside is B, rebuilt[0].label, rebuilt[1] is C) == (True, "left", True)


def test_a_call_specification_goes_through_json_and_pickle() -> None:
    spec = spec_of(forward, {"image": A, "n": None}, 3.0, mask=Pair(B, 1), extra=torch.float16)
    for other in (
        CallSpec.from_json(json.loads(json.dumps(spec.to_json()))),
        pickle.loads(pickle.dumps(spec)),
        copy.deepcopy(spec),
    ):
        assert other == spec
        found = other.flatten(
            ({"image": C, "n": None}, 3.0), {"mask": Pair(A, 1), "extra": torch.float16}
        )
        assert same(found, [C, A])


def test_a_constant_that_json_cannot_hold_is_named() -> None:
    spec, _ = OutputSpec.from_value({"tensor": A, "rows": [range(3)]})
    with pytest.raises(PytreeError, match=r"output\.rows\.0: the value range\(0, 3\)"):
        spec.to_json()


# ---- files are not trusted -----------------------------------------------------------------


def test_a_file_names_classes_but_imports_nothing(tmp_path: Any) -> None:
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('ran code')")
    program = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from torch2rt.calls.pytree import OutputSpec
        spec = OutputSpec.from_json({{
            "kind": "dataclass", "keys": ["a"], "children": ["tensor"],
            "class": ["hostile_module", "Anything"]}})
        try:
            spec.rebuild([1])
        except TypeError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True,
        check=True,
    )
    assert "module hostile_module has not been imported. Import hostile_module" in done.stdout


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("dataclass", ["subprocess", "Popen"]), ("namedtuple", ["builtins", "tuple"]),
     ("object", ["subprocess", "Popen"]), ("registered", ["subprocess", "Popen"]),
     ("structseq", ["builtins", "list"]), ("defaultdict", ["subprocess", "Popen"])],
)
def test_a_file_cannot_call_what_is_no_container(kind: str, cls: list[str]) -> None:
    data = {"kind": kind, "keys": ["args"], "children": [{"constant": "touch /tmp/no"}],
            "class": cls}
    with pytest.raises(PytreeError, match=f"it is no {kind} here"):
        OutputSpec.from_json(data).rebuild([])  # type: ignore[arg-type]


def test_names_that_are_no_class_are_refused() -> None:
    with pytest.raises(PytreeError, match=r"os\.system is not a class"):
        ClassName("os", "system").resolve()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["tensor", "list", "dict", "torch", "float", "nan", "0x1p9999"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from([
            "kind", "keys", "children", "class", "context", "constant", "torch", "float", "device",
            "size", "complex", "slice", "tuple", "bytes", "parameters", "positional", "name",
            "tree", "default",
        ]),
        inner, max_size=5,
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_any_json_is_a_specification_or_a_value_error(data: Any) -> None:
    accepted = []
    for reader in (OutputSpec.from_json, CallSpec.from_json):
        try:
            accepted.append(reader(data))
        except ValueError:
            continue
    assert all(spec == type(spec).from_json(spec.to_json()) for spec in accepted)
