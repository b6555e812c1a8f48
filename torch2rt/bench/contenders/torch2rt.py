"""Our own engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import torch

from torch2rt.bench.contenders.adapter import calibration_samples, cast_floats, cast_loaded
from torch2rt.bench.contenders.base import BuildRequest, Contender
from torch2rt.bench.source import LoadedModel

_GPU_DTYPES = {
    "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float16, "fp8": torch.float16,
    "int8_weights": torch.float16,
}
_CALIBRATED = ("int8", "fp8")
_INT8_DROP = 1.0


class Torch2rt(Contender):
    """``torch2rt.convert`` and a call of the module it returns, inputs in the model's dtype."""

    name = "torch2rt"
    packages: ClassVar = ()  # it is what runs, installed or not
    variants: ClassVar = {p: ("engine",) for p in ("fp32", "bf16", "int8", "int8_weights")}
    cuda_variants: ClassVar = {p: ("engine",) for p in ("fp32", "tf32", *_GPU_DTYPES)}
    devices: ClassVar = ("cpu", "cuda")
    is_peer = False
    times_while_building = True
    # The module that `build` made, for its report.
    module: torch.nn.Module | None = None

    def build(self, request: BuildRequest) -> Callable[[], object]:
        """Convert with the default options; the timing cache is cold unless one is given.

        In int8, no layer stays in float for its error: peers keep none, and errors are reported.
        """
        import torch2rt

        # torch.export takes other operators apart where inference mode is on.
        with torch.inference_mode(False), torch.no_grad():
            loaded = request.loaded
            dtype = torch.float32
            if request.is_on_gpu:
                # What the others are given too: a half model reads half inputs.
                dtype = _GPU_DTYPES.get(request.precision, torch.float32)
                loaded = cast_loaded(loaded, dtype, request.device)
            engine = torch2rt.convert(
                loaded.model,
                dict(loaded.kwargs) if loaded.kwargs else loaded.args,
                precision=request.precision,
                device=request.device,
                timing_cache=request.timing_cache or request.folder / "timing_cache.json",
                threads=request.threads,
                tune_budget_s=request.tune_budget_s,
                progress=False,
                calibration=_calibration(loaded) if request.precision in _CALIBRATED else None,
                max_drop=_INT8_DROP if request.precision == "int8" else None,
            )
            args = tuple(cast_floats(v, dtype, request.device) for v in loaded.args)
            kwargs = {k: cast_floats(v, dtype, request.device) for k, v in loaded.kwargs.items()}

        self.module = engine

        def call() -> object:
            return engine(*args, **kwargs)

        return call

    def context(self) -> AbstractContextManager[object]:
        """An engine refuses inputs that want gradients."""
        return torch.inference_mode()


def _calibration(loaded: LoadedModel) -> list[object]:
    """The samples as the model takes them: a tensor, a tuple, or by name."""
    samples: list[object] = []
    for tensors in calibration_samples(loaded):
        if loaded.kwargs:
            names = [k for k, v in loaded.kwargs.items() if isinstance(v, torch.Tensor)]
            samples.append(dict(zip(names, tensors[len(tensors) - len(names):], strict=True)))
        else:
            samples.append(tensors[0] if len(tensors) == 1 else tensors)
    return samples
