"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from torch2rt.bench.contenders.adapter import FlatModel, flat_input_arrays, flat_inputs
from torch2rt.bench.contenders.base import BuildRequest, Contender

HINTS = {"fp32": "f32", "bf16": "bf16"}


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
