from dataclasses import dataclass, field

import pytest

from torch2rt.bench.errors import WorkerDiedError, WorkerTimeoutError
from torch2rt.bench.options import BenchOptions
from torch2rt.bench.protocol import Build, Built, Message, Refused, Turn, TurnDone
from torch2rt.bench.race import (
    QUALIFYING_TURNS,
    Disturbance,
    Entrant,
    build_entrant,
    quickest_variant,
    run_rounds,
)
from torch2rt.bench.source import ModelSource

OPTIONS = BenchOptions(rounds=6, warmup=2, settle_s=0.0)
ORDER = Build(ModelSource("factory", "a:b"), "c", "", "fp32", "cpu", 2, "r.npz", "f")


@dataclass
class FakeWorker:
    """Answers from a script; writes who was asked into a shared list."""

    name: str
    asked: list[str]
    median_ms: float = 1.0
    error: float = 0.0
    dies_at_turn: int | None = None
    build_answer: Message | Exception | None = None
    closed: bool = False
    turns: int = 0
    orders: list[Message] = field(default_factory=list)

    def ask(self, order: Message, timeout_s: float) -> Message:
        assert not self.closed
        assert timeout_s > 0
        self.orders.append(order)
        if isinstance(order, Turn):
            return self._turn()
        if isinstance(self.build_answer, Exception):
            raise self.build_answer
        return self.build_answer or Built("1.0", 0.1, self.error)

    def _turn(self) -> Message:
        if self.turns == self.dies_at_turn:
            raise WorkerDiedError(label=self.name, status="signal 9", log="")
        self.turns += 1
        self.asked.append(self.name)
        return TurnDone(self.median_ms, 5, 0.01, 0.001)

    def close(self) -> None:
        self.closed = True


def entrant(name: str, asked: list[str], **behaviour: object) -> Entrant:
    return Entrant(name, name, worker=FakeWorker(name, asked, **behaviour))  # type: ignore[arg-type]


def worker_of(item: Entrant) -> FakeWorker:
    assert isinstance(item.worker, FakeWorker)
    return item.worker


def test_every_round_gives_everybody_one_turn_in_changing_order() -> None:
    asked: list[str] = []
    entrants = [entrant(name, asked) for name in "abc"]
    run_rounds(entrants, OPTIONS, lambda: None)
    rounds = ["".join(asked[start : start + 3]) for start in range(0, len(asked), 3)]
    assert len(rounds) == OPTIONS.warmup + OPTIONS.rounds
    assert {"".join(sorted(order)) for order in rounds} == {"abc"}
    assert len(set(rounds)) > 1


def test_warmup_rounds_are_not_counted() -> None:
    one = entrant("a", [])
    run_rounds([one], OPTIONS, lambda: None)
    assert len(one.rounds_ms) == OPTIONS.rounds
    assert worker_of(one).turns == OPTIONS.rounds + OPTIONS.warmup


def test_the_same_seed_gives_the_same_order() -> None:
    orders = []
    for _ in range(2):
        asked: list[str] = []
        run_rounds([entrant(name, asked) for name in "abcd"], OPTIONS, lambda: None)
        orders.append(asked)
    assert orders[0] == orders[1]


def test_one_that_dies_is_dropped_and_the_others_go_on() -> None:
    asked: list[str] = []
    dying, steady = entrant("d", asked, dies_at_turn=4), entrant("s", asked)
    run_rounds([dying, steady], OPTIONS, lambda: None)
    assert dying.status == "failed"
    assert "signal 9" in dying.reason
    assert dying.rounds_ms == []
    assert len(steady.rounds_ms) == OPTIONS.rounds


def test_progress_ticks_once_per_round() -> None:
    ticks: list[None] = []
    run_rounds([entrant("a", [])], OPTIONS, lambda: ticks.append(None))
    assert len(ticks) == OPTIONS.rounds + OPTIONS.warmup


def test_idle_time_of_threads_that_spin_adds_up() -> None:
    one = entrant("a", [])
    run_rounds([one], OPTIONS, lambda: None)
    assert one.idle_cpu_s == pytest.approx(OPTIONS.rounds * 0.001)


@pytest.mark.parametrize("error", [0.5, float("inf"), float("nan")])
def test_a_wrong_result_is_never_timed(error: float) -> None:
    wrong = entrant("w", [], error=error)
    worker = worker_of(wrong)
    build_entrant(wrong, ORDER, OPTIONS)
    run_rounds([wrong], OPTIONS, lambda: None)
    assert wrong.status == "wrong result"
    assert worker.closed
    assert not any(isinstance(order, Turn) for order in worker.orders)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Refused("failed", "ValueError: no"), "failed"),
        (WorkerTimeoutError(label="x", seconds=1.0, log="still compiling"), "timeout"),
        (WorkerDiedError(label="x", status="exit status 7", log="ouch"), "failed"),
    ],
)
def test_what_cannot_be_built_is_out(answer: Message | Exception, status: str) -> None:
    out = entrant("x", [], build_answer=answer)
    worker = worker_of(out)
    build_entrant(out, ORDER, OPTIONS)
    assert out.status == status
    assert out.reason
    assert worker.closed


def test_the_quickest_variant_stays_and_the_others_close() -> None:
    slow, quick = entrant("slow", [], median_ms=2.0), entrant("quick", [], median_ms=1.0)
    worker = worker_of(slow)
    assert quickest_variant([slow, quick], OPTIONS) is quick
    assert worker.closed
    assert quick.also == ["slow 2 ms"]
    assert worker.turns == QUALIFYING_TURNS


def test_a_variant_that_failed_is_noted_beside_the_one_that_works() -> None:
    failed, works = entrant("failed", []), entrant("works", [])
    failed.drop("failed", "no kernel")
    assert quickest_variant([failed, works], OPTIONS) is works
    assert works.also == ["failed: failed: no kernel"]


def test_where_all_variants_fail_the_first_reason_stands() -> None:
    first, second = entrant("first", []), entrant("second", [])
    first.drop("failed", "one")
    second.drop("failed", "two")
    assert quickest_variant([first, second], OPTIONS).reason == "one"


def test_foreign_share_counts_only_what_others_used() -> None:
    assert Disturbance(0.0, 0.0, 0.0).foreign_share == 0.0
    assert Disturbance(wall_s=1.0, ours_s=2.0, busy_s=1.5).foreign_share == 0.0
    assert Disturbance(wall_s=10.0, ours_s=1.0, busy_s=2.0).foreign_share > 0.0
