"""rt.refit: a model's new weights in an engine, by its plans, without timing; or why not."""

import threading

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.cpu.backend import CpuBackend
from torch2rt.build.timing_cache import TimingCache
from torch2rt.engine.engine import Engine
from torch2rt.errors import NotBuiltError, RefitError, VerificationError


class Net(nn.Module):
    """Norms that fold, siblings that merge, a linear layer, and an argument of integers."""

    def __init__(self, channels=8):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.left, self.right = nn.Conv2d(channels, 8, 1), nn.Conv2d(channels, 8, 1)
        self.scale, self.head = nn.Parameter(torch.rand(8, 1, 1)), nn.Linear(16, 5)

    def forward(self, x, shift):
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.cat([self.left(y) * self.scale, self.right(y).tanh()], 1)
        return {"logits": self.head(y.mean((2, 3))) + shift[:, None]}


def trained(seed, make=Net):
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) - 0.4 * (tensor.dim() > 1))
    return model


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TimingCache(tmp_path_factory.mktemp("refit") / "timing.jsonl")


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SHIFT = torch.tensor([1, 2])


@pytest.fixture
def convert(cache, monkeypatch):
    """`convert`, after which nothing may be timed."""

    def made(model, inputs=(X, SHIFT), **options):
        rt = torch2rt.convert(
            model, inputs, threads=1, timing_cache=cache, progress=False, **options
        )
        monkeypatch.setattr(CpuBackend, "time_calls_us", _refuse)
        return rt

    return made


def _refuse(*_, **__):
    raise AssertionError("a tactic is timed")


def error(rt, model, x=X, shift=SHIFT):
    with torch.no_grad():
        got, want = rt(x, shift)["logits"], model(x, shift)["logits"]
    return float((got - want).norm() / want.norm())


LOST = {"fp32": 1e-5, "bf16": 0.02, "int8_weights": 0.02}


@pytest.mark.parametrize("precision", [*LOST, {"head": "fp32", "*": "bf16"}], ids=str)
def test_an_engine_takes_new_weights_by_its_plans(precision, convert):
    first, second = trained(1), trained(2)
    rt = convert(first, precision=precision)
    before, plans = rt.engine, rt.engine.plans
    limit = LOST.get(str(precision), 0.02)
    assert rt.refit(second) is rt
    assert error(rt, second) < limit
    assert error(rt, first) > 5 * limit
    assert rt.engine.plans == plans
    assert rt.engine.precision == before.precision
    assert error(torch2rt.RTModule(before), first) < limit  # whoever has the old engine keeps it


def test_other_batches_take_the_new_weights_too(convert):
    rt = convert(trained(1), profiles=[{"x": (2, 3, 8, 8), "shift": (2,)},
                                       {"x": (3, 3, 8, 8), "shift": (3,)}])
    many = torch.randn(5, 3, 8, 8), torch.arange(5)
    three = torch.randn(3, 3, 8, 8), torch.arange(3)
    rt(*many)
    second = trained(2)
    rt.refit(second)
    for x, shift in (many, three):
        assert error(rt, second, x, shift) < 1e-5


def test_sizes_that_are_free_by_name_stay_free(convert):
    shapes = {"x": {0: ("batch", 1, 16), 2: ("height", 4, 64)}, "shift": {0: ("batch", 1, 16)}}
    rt = convert(trained(1), dynamic_shapes=shapes)
    second = trained(2)
    rt.refit(second)
    assert error(rt, second, torch.randn(4, 3, 12, 8), torch.arange(4)) < 1e-5


def test_an_engine_from_its_file_takes_new_weights_and_is_saved_with_them(convert, tmp_path):
    second = trained(2)
    convert(trained(1), precision={"head": "fp32", "*": "bf16"}).save(tmp_path / "a.engine")
    loaded = torch2rt.load(tmp_path / "a.engine")
    loaded.refit(second).save(tmp_path / "b.engine")
    assert error(torch2rt.load(tmp_path / "b.engine"), second) < 0.02
    assert error(torch2rt.load(tmp_path / "a.engine"), second) > 0.1


def test_examples_of_the_user_are_what_the_engine_is_verified_on(convert):
    rt, second = convert(trained(1)), trained(2)
    rt.refit(second, (X, SHIFT))
    assert error(rt, second) < 1e-5
    rt.refit(second, {"x": X, "shift": SHIFT})
    assert "the weights were replaced by refit" in rt.report()
    assert rt.report().count("the weights were replaced") == 1


def test_weights_that_end_wrong_are_found(convert, monkeypatch):
    rt = convert(trained(1))
    before = rt.engine
    monkeypatch.setattr(Engine, "with_constants", lambda self, network: before)
    with pytest.raises(VerificationError, match="made-up inputs"):
        rt.refit(trained(2))
    assert rt.engine is before
    rt.refit(trained(2), verify=False)


def test_a_calibrated_engine_that_stayed_float_takes_new_weights(convert):
    batches = [{"x": X, "shift": SHIFT} for _ in range(4)]
    rt = convert(
        trained(1), precision="auto", calibration=batches, max_drop=1e-6, verify=False
    )
    assert rt.engine.precision == "fp32"
    second = trained(2)
    rt.refit(second)
    assert error(rt, second) < 1e-5


def test_calls_go_on_meanwhile(convert):
    first, second = trained(1), trained(2)
    rt = convert(first)
    with torch.no_grad():
        wanted = [model(X, SHIFT)["logits"] for model in (first, second)]
    wrong, stop = [], threading.Event()

    def call():
        while not stop.is_set():
            got = rt(X, SHIFT)["logits"]
            if not any(torch.allclose(got, want, atol=1e-4) for want in wanted):
                wrong.append(got)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    rt.refit(second)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert error(rt, second) < 1e-5


# ---- what is refused ---------------------------------------------------------------------------


def test_what_is_no_model_is_refused(convert):
    rt = convert(trained(1))
    with pytest.raises(RefitError, match=r"a state dict does not say how .*load_state_dict"):
        rt.refit(trained(2).state_dict())
    with pytest.raises(RefitError, match=r"str is no nn\.Module"):
        rt.refit("weights.pt")


def test_an_engine_in_8_bits_is_refused(convert):
    calibration = [{"x": X, "shift": SHIFT}]
    rt = convert(trained(1), precision={"*": "int8"}, calibration=calibration, verify=False)
    with pytest.raises(RefitError, match="8 bits, by ranges that belong to its weights"):
        rt.refit(trained(2))


def test_another_structure_is_refused_with_what_differs(convert):
    rt = convert(trained(1))
    before = rt.engine
    with pytest.raises(RefitError, match=r"float32\[8,8,1,1\].*float32\[8,12,1,1\]"):
        rt.refit(trained(2, lambda: Net(12)))
    assert rt.engine is before
    assert error(rt, trained(1)) < 1e-5


class Wide(Net):
    def forward(self, x, shift, more=None):
        return super().forward(x, shift)


def test_other_arguments_are_refused(convert):
    rt = convert(trained(1))
    with pytest.raises(RefitError, match=r"the model takes .*, the engine "):
        rt.refit(trained(2, Wide))


class Powers(nn.Module):
    """A parameter of one number, which becomes a literal, and a bias that may vanish."""

    def __init__(self, power=1.5, bias=0.5):
        super().__init__()
        self.power, self.head = nn.Parameter(torch.tensor(power)), nn.Linear(4, 3)
        nn.init.constant_(self.head.bias, bias)

    def forward(self, x):
        return self.head(x).tanh() * self.power


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Powers(power=2.5), r"the engine has '%head .*,1\.5\).*, the model gives '%head .*,2\.5\)"),
        (Powers(bias=0.0), r"the engine has 'constant @head.bias: float32\[3\]'"),
    ],
    ids=["literal", "zeros"],
)
def test_numbers_that_folding_looks_at_are_refused(model, message, convert):
    rt = convert(Powers().eval(), torch.randn(2, 4))
    with pytest.raises(RefitError, match=message):
        rt.refit(model)
    other, x = Powers().eval(), torch.randn(2, 4)
    assert torch.allclose(rt.refit(other)(x), other(x).detach(), atol=1e-5)


def test_a_module_without_an_engine_has_nothing_to_refit():
    with pytest.raises(NotBuiltError):
        torch2rt.convert(trained(1), progress=False).refit(trained(2))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_graphs_run_the_new_weights(precision, cache):
    first, second, x, shift = (t.cuda() for t in (trained(1), trained(2), X, SHIFT))
    rt = torch2rt.convert(
        first, (x, shift), precision=precision, timing_cache=cache, progress=False
    )
    rt(x, shift)
    rt.refit(second)
    limit = 1e-5 if precision == "fp32" else 0.01
    for _ in range(2):
        assert error(rt, second, x, shift) < limit
    assert error(rt, first, x, shift) > 5 * limit
