"""Triton tactics against the reference: by Triton's interpreter, and compiled on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import cuda_testing
import triton_cases
import triton_stored_cases
from triton_interpreter import run_cases

from torch2rt.backends.cuda.triton import tiles as triton_tiles

# A process that interprets takes seconds to start: it runs so many cases.
AT_ONCE = 20


def interpreted_cases() -> list[tuple[str, tuple[str, ...]]]:
    """(module, names), a few dozen names together."""
    rows = []
    for module, cases in triton_stored_cases.CASES.items():
        names = [*cases, *triton_cases.EPILOGUE_CASES.get(module, {})]
        rows += [
            (module, tuple(names[first : first + AT_ONCE]))
            for first in range(0, len(names), AT_ONCE)
        ]
    return rows


# One tile of each kind of kernel sees every case; all tiles see one, where they are large.
SEES_ALL = (
    "tma_64x64x64", "tma_64x32x128_split2", "pointer_64x64x64", "box_64x64x64",
    "box_32x64x64_split4", "gather_64x64x64", "patches_64x64x64", "tma_64x64", "pointer_64x64",
)


COMPILED = [
    (module, name)
    for table in (triton_stored_cases.CASES, triton_stored_cases.GPU_CASES)
    for module, cases in table.items() for name in cases
    if table is triton_stored_cases.GPU_CASES or name.endswith(SEES_ALL)
]


@pytest.mark.parametrize(
    ("module", "names"),
    [pytest.param(*row, id=f"{row[0]}-{row[1][0]}") for row in interpreted_cases()],
)
def test_interpreted(module: str, names: tuple[str, ...]) -> None:
    failed = run_cases(module, names)
    assert not failed, "\n\n".join(f"{name}\n{error}" for name, error in failed.items())


@pytest.fixture
def all_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every tile takes every layer."""
    for name in triton_cases.LIMITS:
        monkeypatch.setattr(triton_tiles, name, 1000)
    triton_tiles.rank_tiles.cache_clear()
    yield
    triton_tiles.rank_tiles.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("module", "name"), [pytest.param(*row, id="-".join(row)) for row in COMPILED]
)
def test_on_gpu(module: str, name: str, all_tiles: None) -> None:
    table = {**triton_stored_cases.CASES[module], **triton_stored_cases.GPU_CASES[module]}
    with cuda_testing.testing_on(cuda_testing.real_gpu()):
        table[name]()
