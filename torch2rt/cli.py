"""The command line: torch2rt convert | run | bench | inspect | verify | doctor."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torch2rt.errors import ConfigError, Torch2rtError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 1 with the error on standard error, 2 for wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("torch2rt").setLevel(logging.DEBUG if options.verbose else logging.WARNING)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (Torch2rtError, OSError) as error:
        if options.verbose:
            raise
        sys.stderr.write(f"torch2rt: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torch2rt", description=__doc__)
    parser.add_argument("-v", "--verbose", action="store_true", help="log steps, show tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_run(commands)
    _add_bench(commands)
    _add_inspect(commands)
    _add_verify(commands)
    doctor = commands.add_parser("doctor", help="what this machine offers")
    doctor.set_defaults(command=_doctor)
    return parser


_DEVICE = "cpu, cuda or cuda:1; default: what the engine was built for"
_MODEL = "package.module:factory or file.py:factory; the factory returns (model, example inputs)"


def _add_convert(commands: Any) -> None:
    command = commands.add_parser("convert", help="convert a model and save the engine")
    command.add_argument("model", help=_MODEL)
    command.add_argument("-o", "--output", required=True, help="engine file to write")
    command.add_argument(
        "--precision", default="fp32",
        help="fp32 (default), bf16, int8, int8_weights, auto; on a GPU also tf32, fp16, fp8"
    )
    command.add_argument(
        "--calibration", metavar="DATA", help="for int8 and fp8: a table (.json); for these and "
        "auto: the factory, as for the model, of a DataLoader or another iterable of input batches",
    )
    command.add_argument(
        "--calibration-method", default="outputs",
        help="outputs (default), percentile, entropy, entropy_doubling, minmax, mse, best",
    )
    command.add_argument(
        "--calibration-batches", type=int, metavar="N", help="take at most so many batches"
    )
    command.add_argument("--save-calibration", metavar="FILE.json", help="also write the table")
    command.add_argument(
        "--metric", metavar="FUNCTION", help="for auto: package.module:function or "
        "file.py:function, of outputs and a batch, higher is better"
    )
    command.add_argument(
        "--max-drop", type=float, metavar="X", help="for auto: how far the metric may "
        "fall; for int8: the relative error of the outputs"
    )
    command.add_argument("--device", help="cpu, cuda or cuda:1; default: where the model is")
    command.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    command.add_argument("--fallback", default="torch", help="torch (default) or error")
    command.add_argument("--timing-cache", help="file of measured times")
    command.add_argument(
        "--tune-budget", type=float, metavar="S", help="seconds for timing tactics; default: all"
    )
    command.add_argument("--no-verify", action="store_true", help="do not compare with the model")
    command.add_argument("--report", help="also write the report here (.json or text)")
    command.set_defaults(command=_convert)


def _add_engine(command: argparse.ArgumentParser) -> None:
    """What commands need to load an engine."""
    command.add_argument("engine", help="engine file")
    command.add_argument("--device", help=_DEVICE)
    command.add_argument("--plugins", action="append", default=[], metavar="MODULE",
                         help="import this module first: it registers plugins of the engine")


def _add_run(commands: Any) -> None:
    command = commands.add_parser("run", help="run an engine file, without torch")
    _add_engine(command)
    command.add_argument("--input", action="append", default=[], metavar="NAME=FILE.npy",
                         help="one per input; random where left out")
    command.add_argument("--output", metavar="FILE.npz", help="write the outputs here")
    command.set_defaults(command=_run)


def _add_bench(commands: Any) -> None:
    from torch2rt.bench.command import add_arguments
    from torch2rt.bench.command import main as bench

    command = commands.add_parser("bench", help="measure side by side with other run times")
    add_arguments(command)
    command.set_defaults(command=bench)


def _add_inspect(commands: Any) -> None:
    command = commands.add_parser("inspect", help="describe an engine file")
    _add_engine(command)
    command.add_argument("--report", action="store_true", help="every layer, fusion and refusal")
    command.add_argument("--profile", action="store_true", help="time every step now")
    command.add_argument("--network", action="store_true", help="the network as text")
    command.set_defaults(command=_inspect)


def _add_verify(commands: Any) -> None:
    command = commands.add_parser("verify", help="compare an engine file with its model")
    _add_engine(command)
    command.add_argument("model", help=_MODEL)
    command.set_defaults(command=_verify)


def _convert(options: argparse.Namespace) -> int:
    from torch2rt.bench.source import ModelSource
    from torch2rt.convert import convert

    folders = (
        ("--output", options.output), ("--report", options.report),
        ("--save-calibration", options.save_calibration),
    )
    for option, path in folders:
        _check_folder(option, path)
    loaded = ModelSource("factory", options.model).load()
    rt = convert(
        loaded.model, (loaded.args, loaded.kwargs), precision=options.precision,
        calibration=_calibration(options.calibration),
        calibration_method=options.calibration_method,
        calibration_batches=options.calibration_batches, device=options.device,
        threads=options.threads, fallback=options.fallback, timing_cache=options.timing_cache,
        tune_budget_s=options.tune_budget, verify=not options.no_verify,
        metric=_metric(options.metric), max_drop=options.max_drop,
        progress=sys.stderr.isatty(),
    )
    rt.save(options.output)
    if options.report:
        rt.report(options.report)
    if options.save_calibration and rt.calibration_table is not None:
        rt.calibration_table.save(options.save_calibration)
    _write(rt.engine.describe())
    return 0


def _calibration(given: str | None) -> Any:
    """The path of a table, or what a factory makes."""
    from torch2rt.bench.source import import_object

    if given is None or given.endswith(".json"):
        return given
    factory = import_object(given)
    if not callable(factory):
        raise ConfigError(
            option="--calibration", value=given, reason="it is not callable",
            remedy="Name a function that returns a DataLoader, or a table's .json file.",
        )
    return factory()


def _metric(given: str | None) -> Any:
    from torch2rt.bench.source import import_object

    return import_object(given) if given is not None else None


def _run(options: argparse.Namespace) -> int:
    from torch2rt.engine.engine import Engine

    engine = Engine.load(options.engine, options.device, options.plugins)
    given = dict(_named_file(text) for text in options.input)
    inputs = {**_random_inputs(engine), **given}
    outputs = engine.run(inputs)
    for name, array in outputs.items():
        _write(f"{name}: {array.dtype}{list(array.shape)} {_summary(array)}")
    if options.output:
        np.savez(options.output, **outputs)  # type: ignore[arg-type]
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from torch2rt.engine.engine import Engine
    from torch2rt.inspect.profile import profile_engine
    from torch2rt.inspect.report import report_text
    from torch2rt.network.text import text

    engine = Engine.load(options.engine, options.device, options.plugins)
    _write(report_text(engine) if options.report else engine.describe())
    if options.network:
        _write(text(engine.network))
    if options.profile:
        inputs = _random_inputs(engine)
        _write(str(profile_engine(engine, [inputs[b.name] for b in engine.bindings.inputs])))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from torch2rt.bench.source import ModelSource
    from torch2rt.module import load

    loaded = ModelSource("factory", options.model).load()
    rt = load(options.engine, options.device, options.plugins)
    args = tuple(_placed(value, rt) for value in loaded.args)
    kwargs = {name: _placed(value, rt) for name, value in loaded.kwargs.items()}
    off = rt.bisect(loaded.model.to(rt.engine.backend.device), *args, **kwargs)
    if off is None:
        _write("the engine agrees with the model")
        return 0
    if not off.is_off:
        _write(
            "the engine disagrees with the model, but every layer computes what it should: the "
            "model has other weights than the one converted, or rounding adds up"
        )
        return 1
    _write(
        f"the engine disagrees with the model; first layer that is off: {off.layer} ({off.kind}, "
        f"{off.tactic}) at {off.where}: relative error {off.error:.3g}, allowed {off.allowed:.3g}"
    )
    return 1


def _placed(value: Any, rt: Any) -> Any:
    """A tensor on the engine's device; anything else as it is."""
    return value.to(rt.engine.backend.device) if hasattr(value, "to") else value


def _doctor(options: argparse.Namespace) -> int:
    from torch2rt.inspect.doctor import doctor_lines

    for line in doctor_lines():
        _write(line)
    return 0


def _check_folder(option: str, path: str | None) -> None:
    """ConfigError unless a file can be made there: said before the work, not after it."""
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise ConfigError(
            option=option, value=path, reason="its folder does not exist",
            remedy="Make the folder first.",
        )


def _named_file(text: str) -> tuple[str, Any]:
    name, separator, path = text.partition("=")
    if not separator or not Path(path).is_file():
        raise _bad_input(text, "not NAME=FILE.npy of an existing file")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _bad_input(text, "the file holds no numpy array") from error
    if not isinstance(array, np.ndarray):
        raise _bad_input(text, "the file holds several arrays")
    return name, array


def _bad_input(text: str, reason: str) -> ConfigError:
    return ConfigError(
        option="--input", value=text, reason=reason,
        remedy="Save the one array with numpy.save.",
    )


def _random_inputs(engine: Any) -> dict[str, Any]:
    """Random floats and zeros for integers, at the shapes the engine is tuned for."""
    from torch2rt.network.dim import substitute, symbols_of

    generator = np.random.default_rng(0)
    tuned = engine.plans[0].symbols if engine.plans else {}
    inputs = {}
    for binding in engine.bindings.inputs:
        names = set().union(*(symbols_of(dim) for dim in binding.type.shape))
        symbols = {name: tuned.get(name, 2) for name in names}
        shape = tuple(substitute(dim, symbols) for dim in binding.type.shape)
        dtype = binding.type.dtype.numpy
        is_float = dtype.kind == "f"
        inputs[binding.name] = (
            generator.standard_normal(shape).astype(dtype) if is_float else np.zeros(shape, dtype)
        )
    return inputs


def _summary(array: Any) -> str:
    flat = array.reshape(-1)
    head = ", ".join(f"{value:.6g}" for value in flat[:4].tolist())
    return f"[{head}{', ...' if flat.size > 4 else ''}]"


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
