"""Which oneDNN configuration runs the convolutions of ResNet-50, ResNet-18, MobileNetV2 fastest.

    chrt -f 5 python tests/bench/onednn_conv_sweep.py --output tests/bench/results/x.csv

Per distinct layer (batch 1, relu or clip as post-op, residual as binary or sum post-op): every
implementation of every activation layout; 1x1 layers also as matmul and inner product; the
expansions of MobileNetV2 also with the depthwise layer fused. Then whole chains of convolutions in
network order, each result read by the next layer, per policy. One CSV row each; "sum" rows add
layers up per policy, "chain" rows are timed as a whole. `--isa` and `--prefer-ymm` limit the code
and are named in the column "code". Rows are appended to a file that exists.
"""

import argparse
import csv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from onednn_sweep_candidates import candidates, fused_candidates
from onednn_sweep_cases import NETWORKS, Conv, unique
from onednn_sweep_measure import Arena, Candidate, machine_line, time_candidates, time_chains

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.onednn import Arg, DataType

ARENA_BYTES = 320 << 20
SLOT_BYTES = 12 << 20
COLUMNS = (
    "network", "layer", "count", "channels", "size", "filters", "kernel", "stride", "groups",
    "data_type", "variant", "layout", "implementation", "cold_us", "hot_us", "gflops", "best",
)  # fmt: skip

Timed = dict[Conv, list[Candidate]]
# A policy narrows the candidates of a layer down to one; None where it has nothing for it.
Policy = Callable[[list[Candidate]], Candidate | None]


def first_of(layout: str, residual: str = "binary") -> Policy:
    """oneDNN's favourite for an activation layout, residuals added the given way."""
    variants = ("convolution", f"convolution {residual}")

    def choose(found: list[Candidate]) -> Candidate | None:
        fitting = [one for one in found if one.layout == layout and one.variant in variants]
        return fitting[0] if fitting else None

    return choose


def best_of(layout: str, *, products: bool = True) -> Policy:
    """The fastest for an activation layout ("" for any), matrix products included or not."""

    def choose(found: list[Candidate]) -> Candidate | None:
        fitting = [one for one in found if layout in ("", one.layout)]
        if not products:
            fitting = [one for one in fitting if one.variant.startswith("convolution")]
        return min(fitting, key=lambda one: one.cold_us, default=None)

    return choose


POLICIES: dict[str, Policy] = {
    "any: oneDNN's favourite": first_of("any"),
    "acdb: oneDNN's favourite": first_of("acdb"),
    "acdb: oneDNN's favourite, residual by sum": first_of("acdb", "sum"),
    "acdb: fastest convolution": best_of("acdb", products=False),
    "acdb: fastest, matmul and inner product allowed": best_of("acdb"),
    "aBcd16b: oneDNN's favourite": first_of("aBcd16b"),
    "aBcd16b: fastest convolution": best_of("aBcd16b"),
    "aBcd8b: fastest convolution": best_of("aBcd8b"),
    "fastest per layer whatever the layout, reformats not counted": best_of(""),
}


class Report:
    """Rows of the CSV, written as they come, behind those of earlier runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.data_type = DataType[options.data_type]
        self._run = (options.data_type, options.isa or ("ymm" if options.prefer_ymm else ""))
        self._totals_only = options.totals_only
        is_new = not options.output.exists()
        self._file = options.output.open("a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if is_new:
            self._file.write(machine_line(options.threads))
            self._writer.writerow(COLUMNS)

    def layer(self, network: str, names: list[str], layer: Conv, found: list[Candidate]) -> None:
        """One row per candidate of a layer."""
        if not found or self._totals_only:
            return
        best = min(found, key=lambda candidate: candidate.cold_us)
        for one in found:
            where = (network, names[0], len(names), layer.channels, layer.size, layer.filters)
            window = (layer.kernel, layer.stride, layer.groups)
            what = (one.variant, one.layout, one.implementation)
            speed = layer.flops / one.cold_us / 1e3
            taken = (f"{one.cold_us:.1f}", f"{one.hot_us:.1f}", f"{speed:.0f}", int(one is best))
            self._writer.writerow((*where, *window, *self._run, *what, *taken))
        self._file.flush()

    def total(
        self, network: str, kind: str, policy: str, cold_us: float, hot_us: float | None
    ) -> None:
        """A row for a whole network."""
        hot = "" if hot_us is None else f"{hot_us:.0f}"
        taken = (f"{cold_us:.0f}", hot, "", "")
        self._writer.writerow((network, kind, *[""] * 7, *self._run, policy, "", "", *taken))
        self._file.flush()


def sweep_layers(network: str, report: Report, arena: Arena, stream: onednn.Stream) -> Timed:
    """Time every candidate of every distinct layer."""
    timed: Timed = {}
    for layer, names in unique(NETWORKS[network]()).items():
        found = list(candidates(layer, report.data_type))
        time_candidates(found, arena, stream)
        report.layer(network, names, layer, found)
        timed[layer] = found
    return timed


def sweep_fused(network: str, report: Report, arena: Arena, stream: onednn.Stream) -> None:
    """Time every distinct pair of an expansion and its depthwise layer as one primitive."""
    layers = list(NETWORKS[network]())
    pairs: dict[tuple[Conv, Conv], list[str]] = {}
    for expand, depthwise in pairwise(layers):
        if depthwise.groups > 1 and expand.kernel == 1:
            name = f"{expand.name} with depthwise"
            pairs.setdefault((expand.shape, depthwise.shape), []).append(name)
    for (expand, depthwise), names in pairs.items():
        found = list(fused_candidates(expand, depthwise, report.data_type))
        time_candidates(found, arena, stream)
        report.layer(network, names, expand, found)


def report_sums(network: str, timed: Timed, report: Report) -> None:
    """Add the layers up under every policy."""
    counts = {layer: len(names) for layer, names in unique(NETWORKS[network]()).items()}
    for name, policy in POLICIES.items():
        chosen = {layer: policy(found) for layer, found in timed.items()}
        picked = [(counts[layer], one) for layer, one in chosen.items() if one is not None]
        if len(picked) == len(counts):
            cold = sum(count * one.cold_us for count, one in picked)
            hot = sum(count * one.hot_us for count, one in picked)
            report.total(network, "sum", name, cold, hot)


def sweep_chains(network: str, timed: Timed, report: Report, stream: onednn.Stream) -> None:
    """Time whole networks' convolutions in order, per policy, and once more on huge pages."""
    chains: dict[str, list[onednn.BoundCall]] = {}
    for name, policy in POLICIES.items():
        chosen = {layer: policy(found) for layer, found in timed.items()}
        if name.startswith("fastest") or None in chosen.values():
            continue
        layers = [chosen[layer.shape] for layer in NETWORKS[network]()]
        descs = [one.desc for one in layers if one is not None]
        chains[name] = bind_chain(descs, Arena(ARENA_BYTES), stream)
        if name.startswith("acdb: oneDNN's favourite"):
            huge = Arena(ARENA_BYTES, huge=True)
            chains[f"{name}, on huge pages"] = bind_chain(descs, huge, stream)
    for name, taken_us in time_chains(chains).items():
        report.total(network, "chain", name, taken_us, None)


def bind_chain(
    descs: list[onednn.PrimitiveDesc], arena: Arena, stream: onednn.Stream
) -> list[onednn.BoundCall]:
    """The steps of a network: layer i reads what i - 1 wrote; a residual is what i - 2 wrote."""
    slots = [arena.take(SLOT_BYTES) for _ in range(4)]
    primitives: dict[int, onednn.Primitive] = {}
    calls = []
    for index, desc in enumerate(descs):
        primitive = primitives.setdefault(id(desc), onednn.Primitive(desc))
        memories = {
            int(Arg.src): arena.memory(desc.src, at=slots[index % 3]),
            int(Arg.dst): arena.memory(desc.dst, at=slots[(index + 1) % 3]),
            int(Arg.weights): arena.memory(desc.weights),
        }
        scratchpad = desc.scratchpad
        if scratchpad is not None:
            memories[Arg.scratchpad] = arena.memory(scratchpad, at=slots[3])
        for arg, place in ((Arg.bias, None), (onednn.post_op_arg(0), slots[(index + 2) % 3])):
            wanted = desc.arg_desc(arg)
            if wanted is not None:
                memories[int(arg)] = arena.memory(wanted, at=place)
        calls.append(onednn.bind(primitive, stream, memories))
    return calls


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--data-type", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=[isa.name for isa in onednn.Isa])
    parser.add_argument("--prefer-ymm", action="store_true")
    parser.add_argument("--totals-only", action="store_true", help="write no rows of layers")
    return parser.parse_args()


def main() -> None:
    """Sweep the chosen networks."""
    options = arguments()
    if options.isa:
        onednn.set_max_isa(onednn.Isa[options.isa])
    if options.prefer_ymm:
        onednn.prefer_ymm()
    onednn.set_threads(options.threads)
    report = Report(options)
    arena, stream = Arena(ARENA_BYTES), onednn.Stream()
    for network in options.networks:
        timed = sweep_layers(network, report, arena, stream)
        sweep_fused(network, report, arena, stream)
        report_sums(network, timed, report)
        sweep_chains(network, timed, report, stream)


if __name__ == "__main__":
    main()
