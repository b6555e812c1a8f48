"""ONNX Runtime on the CPU, from torch's own ONNX export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch

from torch2rt.bench.contenders.adapter import FlatModel, flat_input_arrays, flat_inputs
from torch2rt.bench.contenders.base import BuildRequest, Contender


class OnnxRuntime(Contender):
    """All graph optimisations, one session; from the torch.export and the TorchScript exporter.

    It has no bf16 kernels on CPU to speak of, so bf16 is n/a.
    """

    name = "onnxruntime"
    packages: ClassVar = ("onnxruntime", "onnx", "onnxscript")
    variants: ClassVar = {"fp32": ("dynamo", "torchscript")}

    def build(self, request: BuildRequest) -> Callable[[], object]:
        """A session's ``run`` on the example inputs."""
        import onnxruntime

        path = request.folder / "model.onnx"
        names = export(request, path)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = request.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        # An exporter drops inputs that the model does not use.
        wanted = {value.name for value in session.get_inputs()}
        arrays = dict(zip(names, flat_input_arrays(request.loaded), strict=True))
        feed = {name: array for name, array in arrays.items() if name in wanted}
        return lambda: session.run(None, feed)


def export(request: BuildRequest, path: Path) -> list[str]:
    """Write the model as ONNX with static shapes; the names of its inputs."""
    tensors = flat_inputs(request.loaded)
    names = [f"input_{index}" for index in range(len(tensors))]
    with torch.no_grad():
        torch.onnx.export(
            FlatModel(request.loaded).eval(),
            tensors,
            str(path),
            input_names=names,
            dynamo=request.variant == "dynamo",
            external_data=True,
        )
    return names
