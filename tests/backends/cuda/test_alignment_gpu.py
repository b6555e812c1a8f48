"""Inputs that start anywhere: part of a batch is copied before kernels load vectors of it."""

import numpy as np
import pytest
import torch

import torch2rt

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def rt(tmp_path_factory):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval().cuda()
    cache = tmp_path_factory.mktemp("timing") / "t.jsonl"
    x = torch.randn(2, 3, 5, 7, device="cuda")
    return model, torch2rt.convert(model, x, timing_cache=cache, progress=False)


def test_torch_tensors(rt):
    model, engine = rt
    whole = torch.randn(3, 3, 5, 7, device="cuda")
    part = whole[1:]
    assert part.data_ptr() % 16
    with torch.no_grad():
        torch.testing.assert_close(engine(part), model(part), rtol=1e-3, atol=1e-4)


def test_cupy_arrays(rt):
    cupy = pytest.importorskip("cupy")
    model, engine = rt
    whole = np.random.default_rng(0).standard_normal((3, 3, 5, 7)).astype(np.float32)
    part = cupy.asarray(whole)[1:]
    assert part.data.ptr % 16
    (result,) = engine.engine.run({engine.engine.bindings.inputs[0].name: part}).values()
    with torch.no_grad():
        want = model(torch.from_numpy(whole[1:]).cuda()).cpu().numpy()
    np.testing.assert_allclose(cupy.asnumpy(result), want, rtol=1e-3, atol=1e-4)
