"""OpenVINO on the CPU, in 8 bits by NNCF's post-training quantization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from torch2rt.bench.contenders.adapter import (
    FlatModel,
    calibration_samples,
    flat_input_arrays,
    flat_inputs,
)
from torch2rt.bench.contenders.base import BuildRequest, Contender

# What stays float in an 8-bit model is float32, as in ours.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVino(Contender):
    """Latency mode, static shapes, from the module traced or exported by OpenVINO's front end."""

    name = "openvino"
    packages: ClassVar = ("openvino",)
    variants: ClassVar = dict.fromkeys(HINTS, ("trace", "export"))

    def build(self, request: BuildRequest) -> Callable[[], object]:
        """An inference request on the example inputs, shared with it instead of copied."""
        import openvino

        tensors = flat_inputs(request.loaded)
        model = FlatModel(request.loaded).eval()
        with torch.no_grad():
            if request.variant == "export":
                converted = openvino.convert_model(torch.export.export(model, tensors))
            else:
                converted = openvino.convert_model(
                    model, example_input=tensors, input=[list(t.shape) for t in tensors]
                )
        if request.precision == "int8":
            converted = _quantized(converted, request)
        compiled = openvino.Core().compile_model(
            converted,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": HINTS[request.precision],
                "INFERENCE_NUM_THREADS": request.threads,
                "NUM_STREAMS": 1,
            },
        )
        arrays = flat_input_arrays(request.loaded)
        infer = compiled.create_infer_request()
        count = len(compiled.outputs)

        def call() -> object:
            results = infer.infer(arrays, share_inputs=True, share_outputs=True)
            return [results[index] for index in range(count)]

        return call


def _quantized(model: Any, request: BuildRequest) -> Any:
    """The model with fake quantization layers, by NNCF's defaults. ImportError without NNCF."""
    import nncf

    samples = [[t.numpy() for t in tensors] for tensors in calibration_samples(request.loaded)]
    return nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples))
