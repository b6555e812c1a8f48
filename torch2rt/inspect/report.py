"""What became of every node of the model, and why: fusions, refusals, tactics, times, bytes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch2rt.engine.context import step_spec
from torch2rt.engine.engine import Engine
from torch2rt.engine.plan import Plan
from torch2rt.inspect.roofline import floor_us, step_cost
from torch2rt.inspect.steps import shorten, step_title
from torch2rt.layers.plugin import Plugin
from torch2rt.network.layer import Layer

# What tactics of plugins run.
_WAYS = {
    "any.torch.reference": "by its body in torch",
    "plugin.python.arrays": "by its function of numpy arrays",
    "plugin.python.cupy": "by its function of CuPy arrays",
}


def report_text(engine: Engine) -> str:
    """The report as plain text."""
    sections = [
        [engine.describe()],
        _fallback_lines(engine),
        _plugin_lines(engine),
        _note_lines(engine),
        _choice_lines(engine),
        _quantized_lines(engine),
        _float_lines(engine),
        *(_plan_lines(engine, plan) for plan in engine.plans),
        _fusion_lines(engine),
        _layer_lines(engine),
        _refusal_lines(engine),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def report_data(engine: Engine) -> dict[str, Any]:
    """The report as JSON values."""
    return {
        "bindings": [str(b) for b in (*engine.bindings.inputs, *engine.bindings.outputs)],
        "precision": engine.precision,
        "device": engine.backend.fingerprint(),
        "layers": [
            {
                "layer": layer.name, "kind": layer.kind.name,
                "epilogue": layer.epilogue.text if layer.epilogue is not None else None,
                "from": [[o.module_path, o.op, o.source] for o in layer.origins],
            }
            for layer in engine.network.layers
        ],
        "plugins": [
            [layer.name, layer.kind.plugin, layer.kind.version, layer.kind.package]
            for layer in engine.network.layers if isinstance(layer.kind, Plugin)
        ],
        "plans": [plan.to_json() for plan in engine.plans],
        "steps": [[asdict(row) for row in step_rows(engine, plan)] for plan in engine.plans],
        **engine.report,
    }


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of a plan: what it costs and what it would at least.

    ``floor_us`` is the time of the device's peaks, ``share`` how much of the measured time that
    is; None where the peaks are not known. ``runner_up`` is the best tactic that lost.
    """

    layer: str
    kind: str
    tactic: str
    time_us: float
    bytes: int
    flops: int
    floor_us: float | None
    share: float | None
    runner_up: str | None
    runner_up_us: float | None


def step_rows(engine: Engine, plan: Plan) -> list[StepRow]:
    """The steps of a plan in order."""
    layers = {layer.name: layer for layer in engine.network.layers}
    peaks = engine.backend.peaks()
    rows = []
    for position, step in enumerate(plan.steps):
        spec = step_spec(plan, step, layers)
        cost = step_cost(spec)
        floor = floor_us(spec, peaks) if peaks is not None else None
        share = floor / step.time_us if floor is not None and step.time_us > 0 else None
        name, time_us = next(iter(plan.runners_up.get(step.layer, ())), (None, None))
        rows.append(StepRow(
            step_title(plan, position), spec.kind.name, step.tactic, step.time_us, cost.bytes,
            cost.flops, floor, share, name, time_us,
        ))
    return rows


def write_report(engine: Engine, path: str | os.PathLike[str]) -> None:
    """Write the report: as JSON when the name ends in ``.json``, else as text."""
    target = Path(path)
    if target.suffix == ".json":
        content = json.dumps(report_data(engine), indent=1) + "\n"
    else:
        content = report_text(engine)
    target.write_text(content, encoding="utf-8")


def _fallback_lines(engine: Engine) -> list[str]:
    rows = engine.report.get("fallbacks", [])
    if not rows:
        return ["fallback layers: none"]
    lines = [f"fallback layers: {len(rows)} node(s) run through PyTorch"]
    return lines + [
        f"  {op} at {path or '(top)'}{f' [{source}]' if source else ''}: {reason}"
        for op, path, source, reason in rows
    ]


def _plugin_lines(engine: Engine) -> list[str]:
    """Each plugin with the package it is of, and the ways it runs in the plans."""
    lines = []
    for layer in engine.network.layers:
        if not isinstance(layer.kind, Plugin):
            continue
        tactics = {
            step.tactic for plan in engine.plans for step in plan.steps if step.layer == layer.name
        }
        ways = " or ".join(_WAYS.get(name, f"by {name}") for name in sorted(tactics))
        has_kernels = engine.backend.name == "cuda" and (layer.kind.cuda or layer.kind.triton)
        if has_kernels and "any.torch.reference" in tactics:
            ways += ", for none of its kernels takes it or agrees with that: the log says why"
        lines.append(
            f"  {layer.name}: {layer.kind.plugin} version {layer.kind.version} of "
            f"{layer.kind.package}, {ways or 'not run'}"
        )
    return [f"plugins: {len(lines)}", *lines] if lines else []


def _note_lines(engine: Engine) -> list[str]:
    notes = engine.report.get("notes", [])
    verified = engine.report.get("verified")
    lines = [f"note: {note}" for note in notes]
    if verified:
        errors = ", ".join(f"{name} {error:.2g}" for name, error in verified.items())
        lines.append(f"verified against the model, relative error: {errors}")
    return lines


def _choice_lines(engine: Engine) -> list[str]:
    """Why layers have the precisions they have: the mixes that were tried, and times by layer."""
    choice = engine.report.get("choice")
    if choice is None:
        return []
    has_metric = any("metric" in point for point in choice["points"])
    title = "precision by time and accuracy" if has_metric else "precision by time"
    lines = [f"{title}:{' ' + choice['budget'] if has_metric else ''}"]
    for point in choice["points"]:
        metric = f", metric {point['metric']:.6g}" if "metric" in point else ""
        lines.append(f"  {point['name']}: {point['time_us']:.1f} us{metric}{_marks(point)}")
    lines.append(f"  {'layer':<40} {'precision':<9} {'8-bit us':>9} {'float us':>9}  because")
    for row in choice["layers"]:
        lines.append(
            f"  {shorten(row['layer'], 40):<40} {row['precision']:<9} {row['int8_us']:>9.1f} "
            f"{row['float_us']:>9.1f}  {row['why']}"
        )
    return lines


def _marks(point: dict[str, Any]) -> str:
    """What is to be said of a mix that was tried."""
    marks = ["chosen"] if point["is_chosen"] else []
    if not point.get("is_within", True):
        marks.append("beyond the budget")
    if point.get("is_on_curve"):
        marks.append("on the Pareto curve")
    return f" ({', '.join(marks)})" if marks else ""


def _quantized_lines(engine: Engine) -> list[str]:
    """What quantization loses, by layer."""
    rows = engine.report.get("quantized", [])
    if not rows:
        return []
    lines = [
        f"layers in 8 bits: {len(rows)}; SQNR of each result against the float32 network",
        f"  {'layer':<40} {'SQNR dB':>8} {'input range':>12} stored as",
    ]
    for row in rows:
        sqnr = "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        threshold = "-" if row["threshold"] is None else f"{row['threshold']:.4g}"
        lines.append(
            f"  {shorten(row['layer'], 40):<40} {sqnr:>8} {threshold:>12} {row['dtype']}"
        )
    return lines


def _float_lines(engine: Engine) -> list[str]:
    """The layers that stay in float for what their 8 bits would do to the outputs."""
    floats = engine.report.get("floats", {})
    if not floats:
        return []
    lines = [
        f"layers in float for their error: {len(floats)}; noise that their 8 bits would make",
        f"  {'layer':<40} {'dB of the outputs':>17}",
    ]
    return lines + [f"  {shorten(name, 40):<40} {noise:>17.1f}" for name, noise in floats.items()]


def _plan_lines(engine: Engine, plan: Plan) -> list[str]:
    shape = ", ".join(f"{n}={v}" for n, v in plan.symbols.items()) or "static shapes"
    total_us = sum(step.time_us for step in plan.steps)
    layers = {layer.name: layer for layer in engine.network.layers}
    rows = step_rows(engine, plan)
    lines = [
        f"plan for {shape}: {total_us:.1f} us measured over {len(plan.steps)} steps"
        + _of_floor(rows, total_us),
        f"  {'layer':<40} {'tactic':<32} {'us':>9} {'MB':>8} {'GFLOP':>8} {'of peak':>7}  "
        "runner-up; epilogue",
    ]
    if plan.untuned:
        lines.insert(1, f"  {plan.untuned} step(s) have a tactic that was not measured: the plan "
                     "was made on demand, or the time for tuning was spent (convert again with "
                     "the same timing cache to go on)")
    for row, step in zip(rows, plan.steps, strict=True):
        epilogue = layers[step.layer].epilogue if step.layer in layers else None
        share = f"{row.share:.0%}" if row.share is not None else "-"
        runner_up = f"{row.runner_up} {row.runner_up_us:.1f} us" if row.runner_up else "-"
        lines.append(
            f"  {shorten(row.layer, 40):<40} {row.tactic:<32} {row.time_us:>9.1f} "
            f"{row.bytes / 1e6:>8.3f} {row.flops / 1e9:>8.3f} {share:>7}  {runner_up}"
            + (f"; {epilogue.text}" if epilogue is not None else "")
        )
    lines += [f"  {shorten(name, 40):<40} shares memory, no step" for name in plan.viewed]
    return lines


def _of_floor(rows: list[StepRow], total_us: float) -> str:
    """The sum of what the steps would at least take, where the peaks are known."""
    floors = [row.floor_us for row in rows if row.floor_us is not None]
    if not floors or total_us <= 0:
        return ""
    return f"; the device's peaks allow {sum(floors):.1f} us ({sum(floors) / total_us:.0%} of it)"


def _fusion_lines(engine: Engine) -> list[str]:
    counts = Counter(rule for rule, _, _ in engine.report.get("fired", []))
    if not counts:
        return ["fusions that fired: none"]
    return ["fusions that fired: " + ", ".join(f"{r} x{n}" for r, n in counts.most_common())]


def _layer_lines(engine: Engine) -> list[str]:
    lines = ["what each layer was made from:"]
    for layer in engine.network.layers:
        lines.append(f"  {layer.name} ({layer.kind.name}) = {' + '.join(_origins(layer))}")
    return lines


def _origins(layer: Layer) -> Iterator[str]:
    for origin in layer.origins:
        source = f" [{origin.source}]" if origin.source else ""
        yield f"{origin.module_path or '(top)'}:{origin.op.removeprefix('aten.')}{source}"


def _refusal_lines(engine: Engine) -> list[str]:
    rows = engine.report.get("rejected", [])
    if not rows:
        return []
    return ["fusions that did not fire:"] + [
        f"  {rule} at {where or layer}: {reason}" for rule, layer, where, reason in rows
    ]
