"""One run of `bench`: the reference, then per precision the builds, the rounds and the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from torch2rt.bench.contenders import Contender, refusal
from torch2rt.bench.errors import (
    BenchModelError,
    ReferenceRunError,
    WorkerDiedError,
    WorkerTimeoutError,
)
from torch2rt.bench.options import BenchOptions
from torch2rt.bench.process import WorkerProcess
from torch2rt.bench.protocol import Build, MakeReference, ReferenceMade, Refused
from torch2rt.bench.race import (
    Disturbance,
    Entrant,
    build_entrant,
    quickest_variant,
    run_rounds,
)
from torch2rt.bench.result import NO_MODEL, OK, BenchRow, with_error_ratios, with_ratios
from torch2rt.bench.source import FACTORY_REMEDY, ModelSource
from torch2rt.bench.statistics import median, summarise

# Idle threads or other processes that use more of the machine than this are told in the notes.
NOTEWORTHY_SHARE = 0.05


class Run:
    """What the steps of one call of `bench` share; ``rows`` and ``rounds_ms`` grow."""

    def __init__(
        self,
        source: ModelSource,
        name: str,
        contenders: Mapping[str, Contender],
        options: BenchOptions,
        folder: Path,
        progress: bool,
    ) -> None:
        self.source = source
        self.name = name
        self.contenders = contenders
        self.options = options
        self.folder = folder
        self.progress = progress
        self.reference = folder / "reference.npz"
        self.batch = 0
        self.rows: list[BenchRow] = []
        self.rounds_ms: dict[tuple[str, str], tuple[float, ...]] = {}

    def measure(self) -> None:
        """Everything, one precision after the other, so that memory is held by one at a time."""
        self._make_reference()
        for precision in self.options.precision:
            self._race(precision)

    def _make_reference(self) -> None:
        """Run eager once, in a process that ends before anything is timed."""
        options = self.options
        worker = WorkerProcess("reference", self.folder / "reference", options.threads)
        order = MakeReference(
            self.source, str(self.reference), options.threads, options.device, options.use_float64
        )
        try:
            answer = worker.ask(order, options.build_timeout_s)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            raise ReferenceRunError(reason=str(error)) from error
        finally:
            worker.close()
        if isinstance(answer, Refused) and answer.status == NO_MODEL:
            raise BenchModelError(
                source=self.source.where, reason=answer.reason, remedy=FACTORY_REMEDY
            )
        if isinstance(answer, Refused):
            raise ReferenceRunError(reason=answer.reason)
        if isinstance(answer, ReferenceMade):
            self.batch = answer.batch

    def _race(self, precision: str) -> None:
        """Build all contenders at one precision, run the rounds, add the rows."""
        entrants: list[Entrant] = []
        started = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with self._bar(f"{self.name} {precision}: build", len(self.contenders)) as bar:
                for name in self.contenders:
                    entrants.append(self._enter(name, precision))
                    bar.update()
            total = self.options.warmup + self.options.rounds
            with self._bar(f"{self.name} {precision}: rounds", total) as bar:
                disturbance = run_rounds(entrants, self.options, bar.update)
        finally:
            for entrant in entrants:
                entrant.close()
        rows = [self._row(entrant, precision, disturbance, started) for entrant in entrants]
        rounds_ms = {entrant.contender: tuple(entrant.rounds_ms) for entrant in entrants}
        self.rows += with_ratios(with_error_ratios(rows), rounds_ms)
        self.rounds_ms |= {(precision, name): times for name, times in rounds_ms.items()}

    def _bar(self, text: str, total: int) -> tqdm[None]:
        return tqdm(total=total, desc=text, disable=not self.progress)

    def _enter(self, name: str, precision: str) -> Entrant:
        """Build every variant of a contender and keep the quickest."""
        contender = self.contenders[name]
        refused = refusal(contender, precision, self.options.device)
        if refused is not None:
            return Entrant(name, status=refused.status, reason=refused.reason)
        variants = contender.variants_on(self.options.device)[precision]
        built = [self._build(name, item, precision) for item in variants]
        return quickest_variant(built, self.options)

    def _build(self, contender: str, variant: str, precision: str) -> Entrant:
        label = f"{contender.rpartition(':')[2]} {variant} {precision}".replace("  ", " ")
        folder = self.folder / label.replace(" ", "-")
        worker = WorkerProcess(label, folder, self.options.threads)
        entrant = Entrant(contender, variant, worker=worker)
        order = Build(
            self.source,
            contender,
            variant,
            precision,
            self.options.device,
            self.options.threads,
            str(self.reference),
            str(folder),
            self.options.realtime,
            self.options.timing_cache,
            self.options.tune_budget_s,
        )
        build_entrant(entrant, order, self.options, self.contenders[contender].build_limit_s)
        return entrant

    def _row(
        self, entrant: Entrant, precision: str, disturbance: Disturbance, started: str
    ) -> BenchRow:
        base = BenchRow(
            self.name,
            self.batch,
            precision,
            entrant.contender,
            is_peer=self.contenders[entrant.contender].is_peer,
            variant=entrant.variant,
            version=entrant.version,
            status=entrant.status,
            error=entrant.error,
            build_s=entrant.build_s,
            notes="; ".join(_notes(entrant, disturbance)),
            measured_at=started,
        )
        if entrant.status != OK or not entrant.rounds_ms:
            return base
        summary = summarise(entrant.rounds_ms)
        return replace(
            base,
            median_ms=summary.median_ms,
            p10_ms=summary.p10_ms,
            p90_ms=summary.p90_ms,
            rounds=summary.rounds,
            latency_ms=median(entrant.latencies_ms) if entrant.latencies_ms else None,
        )


def _notes(entrant: Entrant, disturbance: Disturbance) -> list[str]:
    notes = [entrant.reason] if entrant.reason else []
    if entrant.also:
        notes.append(f"also {', '.join(entrant.also)}")
    if disturbance.wall_s and entrant.idle_cpu_s > NOTEWORTHY_SHARE * disturbance.wall_s:
        notes.append(f"its idle threads used {entrant.idle_cpu_s:.2g} s of processor time")
    if disturbance.foreign_share > NOTEWORTHY_SHARE:
        notes.append(f"other processes took {disturbance.foreign_share:.0%} of the machine")
    return notes
