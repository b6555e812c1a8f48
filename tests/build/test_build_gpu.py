"""Building on a GPU: compiled ahead, checked, timed, placed in runs, on streams."""

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.build.timing_cache import TimingCache

pytestmark = pytest.mark.gpu


class Block(nn.Module):
    """Three branches of one image, joined, and a slice of that."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(32, 32, 1)
        self.middle = nn.Sequential(nn.Conv2d(32, 16, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 1, 1))
        self.right = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(32, 16, 1))
        self.last = nn.Conv2d(40, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([self.left(x), self.middle(x), self.right(x)], 1).relu()
        return self.last(joined[:, 40:])


def test_a_block_of_branches_is_right_and_its_second_build_times_nothing(tmp_path) -> None:
    model = Block().eval().cuda()
    x = torch.randn(2, 32, 14, 14, device="cuda")
    engines = [
        torch2rt.convert(
            model, x, precision="fp16", timing_cache=TimingCache(tmp_path / "times.jsonl"),
            progress=False,
        )
        for _ in range(2)
    ]
    with torch.inference_mode():
        want = model(x)
        for engine in engines:
            error = (engine(x) - want).abs().max() / want.abs().max()
            assert float(error) < 5e-3
    plans = [engine.engine.plans[0] for engine in engines]
    assert all(plan.untuned == 0 for plan in plans)
    assert [s.tactic for s in plans[0].steps] == [s.tactic for s in plans[1].steps]


def test_close_rivals_race_in_the_plan_once(tmp_path) -> None:
    layers = [m for _ in range(8) for m in (nn.Linear(2048, 2048), nn.GELU())]
    model = nn.Sequential(*layers).half().eval().cuda()
    x = torch.randn(16384, 2048, device="cuda", dtype=torch.float16)
    path = tmp_path / "times.jsonl"
    plans, texts = [], []
    for _ in range(2):
        rt = torch2rt.convert(model, x, timing_cache=path, progress=False)
        plans.append(rt.engine.plans[0])
        texts.append(path.read_text())
    assert sum(step.time_us for step in plans[0].steps) > 500  # else nothing races
    assert [s.tactic for s in plans[0].steps] == [s.tactic for s in plans[1].steps]
    assert texts[0] == texts[1]
    assert texts[0].count('"tactic": "plan"') % 2 == 0
