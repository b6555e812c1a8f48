"""`bench`: a model side by side with every other way to run it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch2rt.bench.contenders import load_contender
from torch2rt.bench.csv_file import write_result
from torch2rt.bench.errors import BenchModelError
from torch2rt.bench.machine import machine_card
from torch2rt.bench.options import BenchOptions
from torch2rt.bench.priority import check_realtime
from torch2rt.bench.result import BenchResult
from torch2rt.bench.run import Run
from torch2rt.bench.source import ModelSource, save_model

if TYPE_CHECKING:
    from torch import nn

OURS = "torch2rt"
PEERS = ("eager", "compile", "onnxruntime", "openvino")
GPU_PEERS = ("eager", "graph", "compile", "max_autotune")


def bench(
    model: nn.Module | str,
    inputs: object = None,
    *,
    vs: Sequence[str] | None = None,
    precision: Sequence[str] = ("fp32",),
    device: str = "cpu",
    threads: int = 2,
    rounds: int = 20,
    warmup: int = 2,
    ours: bool = True,
    output_csv: str | Path | None = None,
    name: str | None = None,
    progress: bool = True,
    float64_reference: bool = False,
    realtime: bool = False,
    seed: int = 0,
    timing_cache: str | Path | None = None,
    tune_budget_s: float | None = None,
) -> BenchResult:
    """Measure torch2rt (unless ``ours`` is False) and the contenders in ``vs`` on one model.

    ``model`` is a module with the ``inputs`` of one call (a tensor, a tuple, or a mapping of
    keyword arguments), or names a factory that returns both: ``package.module:factory`` or
    ``path/to/file.py:factory``. ``vs`` holds names of contenders (default: `PEERS`, on a GPU
    `GPU_PEERS`) or ``module:Class`` of a `Contender` of your own. Each is built in a process of
    its own with ``threads`` threads, checked against eager fp32 (on a GPU and on request float64),
    and then timed in ``rounds`` interleaved rounds per precision; one that is missing, cannot run
    the model, or is wrong is a row that says so.
    On a GPU inputs and outputs stay there and times are those of CUDA events. Rows also go to
    ``output_csv``. ``realtime`` (root only) keeps a busy machine's noise out.

    Raises:
        BenchModelError: the model cannot be had from what was given.
        ReferenceRunError: the model does not run in eager.
        UnknownContenderError: a name in ``vs`` is unknown.
        ConfigError: an option cannot be used.
    """
    options = BenchOptions(
        tuple(precision), device, threads, rounds, warmup,
        use_float64=float64_reference or device.startswith("cuda"), realtime=realtime, seed=seed,
        timing_cache=str(timing_cache) if timing_cache is not None else None,
        tune_budget_s=tune_budget_s,
    )
    peers = vs if vs is not None else default_peers(device)
    names = ((OURS,) if ours else ()) + tuple(n for n in dict.fromkeys(peers) if n != OURS)
    result = _measure(model, inputs, names, options, name, progress)
    if output_csv is not None:
        write_result(result, Path(output_csv))
    return result


def default_peers(device: str) -> tuple[str, ...]:
    """Who is measured beside torch2rt unless the caller says."""
    return GPU_PEERS if device.startswith("cuda") else PEERS


def _measure(
    model: nn.Module | str,
    inputs: object,
    names: Sequence[str],
    options: BenchOptions,
    name: str | None,
    progress: bool,
) -> BenchResult:
    if options.realtime:
        check_realtime()
    contenders = {contender: load_contender(contender) for contender in names}
    card = machine_card()
    with tempfile.TemporaryDirectory(prefix="torch2rt-bench-") as folder:
        source, title = _source(model, inputs, Path(folder), options.seed)
        run = Run(source, name or title, contenders, options, Path(folder), progress)
        run.measure()
    return BenchResult(tuple(run.rows), card, run.rounds_ms)


def _source(
    model: nn.Module | str, inputs: object, folder: Path, seed: int
) -> tuple[ModelSource, str]:
    if isinstance(model, str):
        if inputs is not None:
            raise BenchModelError(
                source=model,
                reason="a factory returns its own inputs, and others were given",
                remedy="Give inputs=None, or the module itself",
            )
        return ModelSource("factory", model, seed), model.rpartition(":")[2]
    return save_model(model, inputs, folder / "model.pt", seed), type(model).__name__
